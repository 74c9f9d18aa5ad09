#include "tools/measured_steps.hpp"

#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/clock_watch.hpp"
#include "runtime/cpu_backend.hpp"
#include "runtime/executor.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/launch/last_word.hpp"
#include "runtime/record_exchange.hpp"
#include "runtime/step_record.hpp"
#include "runtime/together.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <utility>

namespace plumb::tools {
namespace {

// What a worker's arena held over the step, beside what its stages hold all along.
RankMemory memory_of(const Worker& worker, const TrainingPlan& plan, const StepTimes& times) {
  MemoryBreakdown always;
  for (const Stage stage : worker.program().held) {
    const StageBytes bytes = stage_bytes(plan.model, plan.layout, stage);
    always[MemoryUse::weights] += bytes.weights;
    always[MemoryUse::gradients] += bytes.gradients;
    always[MemoryUse::optimizer] += bytes.optimizer_state;
  }
  return plumb::recorded_memory(worker.program(), times, always);
}

MeasuredStep summarized(const Crew& crew, const TrainingPlan& plan, const std::vector<StageMemory>& memory,
                        const std::vector<StepTimes>& records) {
  MeasuredStep step;
  step.timeline = assemble_timeline(plan.schedule, records, memory);
  step.memory = recorded_memory(crew, plan, records);
  step.report = summarize(step.timeline, step.memory);
  return step;
}

constexpr std::int64_t most_steps = 100'000;
// More records than that would say nothing new of steps that are so short.
constexpr std::int64_t most_counted = 100;

// [rank] of the first copy, from what this process's workers recorded of one step, in their order.
std::vector<StepTimes> gathered(Crew& crew, const TrainingPlan& plan, std::vector<StepTimes> own) {
  if (crew.rendezvous == nullptr) {
    std::vector<StepTimes> records;
    for (std::size_t w = 0; w < own.size(); ++w) {
      if (crew.workers[w]->copy() == 0) records.push_back(std::move(own[w]));
    }
    return records;
  }
  std::vector<StepTimes> records = gather_times(*crew.rendezvous, own.front());
  if (!records.empty()) records.resize(plan.schedule.ranks());
  return records;
}

}  // namespace

Crew make_crew(const TrainingPlan& plan, RunDevice device, RunTransport transport, const NcclOptions& nccl,
               Rendezvous* rendezvous) {
  Crew crew;
  if (device == RunDevice::cpu) {
    if (rendezvous == nullptr) {
      crew.workers = make_cpu_workers(plan);
    } else {
      crew.workers.push_back(make_cpu_worker(plan, *rendezvous));
    }
  } else if (transport == RunTransport::local) {
    crew.workers = make_gpu_workers(plan, {0, nccl.algorithms});
  } else {
    crew.workers.push_back(make_nccl_worker(plan, *rendezvous, nccl));
  }
  crew.rendezvous = rendezvous;
  return crew;
}

void run_all(Crew& crew, const std::function<void(Worker&)>& body) {
  if (crew.rendezvous == nullptr) return run_together(crew.workers, body);
  try {
    body(*crew.workers.front());
  } catch (const DeviceError& error) {
    // The others are told why, and then this rank's streams and messages end, if they can.
    crew.rendezvous->abort(error.what());
    end_after(error.what());
    crew.workers.front()->abort();
    throw;
  } catch (const std::exception& error) {
    crew.rendezvous->abort(error.what());
    crew.workers.front()->abort();
    throw;
  }
}

std::vector<StepTimes> records_of(Crew& crew, const TrainingPlan& plan) {
  std::vector<StepTimes> own;
  for (const auto& worker : crew.workers) own.push_back(worker->times());
  return gathered(crew, plan, std::move(own));
}

MemoryProfile recorded_memory(const Crew& crew, const TrainingPlan& plan,
                              const std::vector<StepTimes>& records) {
  MemoryProfile memory;
  memory.ranks.resize(plan.schedule.ranks());
  for (const auto& worker : crew.workers) {
    if (worker->copy() > 0) continue;
    const std::uint32_t rank = worker->rank().value;
    memory.ranks[rank] = memory_of(*worker, plan, records[rank]);
  }
  return memory;
}

Bytes peak_activations(Crew& crew) {
  Bytes peak;
  for (const auto& worker : crew.workers) peak = std::max(peak, worker->program().peak_activations);
  if (crew.rendezvous == nullptr) return peak;
  for (const std::string& other : crew.rendezvous->gather(std::to_string(peak.count)))
    peak = std::max(peak, Bytes{std::stoll(other)});
  return peak;
}

std::vector<MeasuredStep> measure_steps(Crew& crew, const TrainingPlan& plan, const MicrobatchData& data,
                                        const Repetitions& repetitions,
                                        const std::function<void(const std::string&)>& begins) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point begin) {
    return Duration{std::chrono::nanoseconds(Clock::now() - begin).count()};
  };
  const auto one_step = [](Worker& worker) {
    worker.clear_gradients();
    execute(worker.program(), worker);
  };
  const auto run_steps = [&](std::int64_t steps) {
    run_all(crew, [&](Worker& worker) {
      for (std::int64_t i = 0; i < steps; ++i) one_step(worker);
    });
  };
  if (begins) begins("data");
  run_all(crew, [&](Worker& worker) {
    for (std::uint32_t m = 0; m < plan.schedule.microbatches; ++m) {
      if (worker.needs(Microbatch{m})) worker.load(Microbatch{m}, data);
    }
  });
  if (begins) begins("steps");
  run_steps(1);
  // Every worker knows the messages of all stages, and all of those that it holds.
  std::vector<StageMemory> memory(crew.workers.front()->stage_memory().begin(),
                                  crew.workers.front()->stage_memory().end());
  for (const auto& worker : crew.workers) {
    for (const Stage stage : worker->program().held)
      memory[stage.value] = worker->stage_memory()[stage.value];
  }
  // The first step loaded kernels and data; the second says how long one takes. All processes have to run
  // equally many: rank 0 says how many.
  const auto begin = Clock::now();
  run_steps(1);
  Duration step = since(begin);
  if (crew.rendezvous != nullptr) step = {std::stoll(crew.rendezvous->broadcast(std::to_string(step.ns)))};
  const auto steps_in = [&](Duration duration) {
    return std::min(most_steps, (duration.ns + step.ns - 1) / std::max<std::int64_t>(1, step.ns));
  };
  // Where steps are long, the two that have run are warm-up enough.
  if (step < repetitions.warm_up) run_steps(steps_in(repetitions.warm_up));

  const std::int64_t count =
      std::max<std::int64_t>(repetitions.least, std::min(steps_in(repetitions.observe), most_counted));
  // Each reads its own records, so that the device hardly pauses for it.
  std::map<const Worker*, std::vector<StepTimes>> recorded;
  for (const auto& worker : crew.workers) recorded[worker.get()].reserve(static_cast<std::size_t>(count));
  ClockWatch clock;
  clock.start();
  run_all(crew, [&](Worker& worker) {
    std::vector<StepTimes>& own = recorded.at(&worker);
    for (std::int64_t i = 0; i < count; ++i) {
      one_step(worker);
      own.push_back(worker.times());
    }
  });
  const std::uint32_t mhz = clock.stop();

  std::vector<MeasuredStep> steps;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    std::vector<StepTimes> own;
    for (const auto& worker : crew.workers) own.push_back(std::move(recorded.at(worker.get())[i]));
    const std::vector<StepTimes> records = gathered(crew, plan, std::move(own));
    if (records.empty()) continue;
    steps.push_back(summarized(crew, plan, memory, records));
    steps.back().sm_clock_mhz = mhz;
  }
  std::stable_sort(steps.begin(), steps.end(), [](const MeasuredStep& a, const MeasuredStep& b) {
    return a.report.step_time < b.report.step_time;
  });
  return steps;
}

}  // namespace plumb::tools
