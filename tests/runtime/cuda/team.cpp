#include "tests/runtime/cuda/team.hpp"

#include "runtime/executor.hpp"
#include "schedules/ir/error.hpp"

#include <cmath>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace plumb::test {

void together(Team& team, const std::function<void(Worker&)>& what) {
  std::exception_ptr first;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (const auto& worker : team) {
    threads.emplace_back([&, worker = worker.get()] {
      try {
        what(*worker);
      } catch (...) {
        {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
        for (const auto& other : team) other->abort();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

ModelShape mlp(std::uint64_t hidden) {
  ModelShape model;
  model.architecture = Architecture::mlp;
  model.name = "mlp";
  model.hidden = hidden;
  model.ffn = 4 * hidden;
  return model;
}

ModelShape gpt(std::uint64_t hidden) {
  ModelShape model;
  model.name = "gpt";
  model.hidden = hidden;
  model.ffn = (8 * hidden / 3 + 127) / 128 * 128;
  model.vocab = 4096;
  model.attention.heads = model.attention.key_value_heads = hidden / 64;
  model.attention.head_dim = 64;
  return model;
}

TrainingPlan plan_for(LoweredSchedule schedule, ModelShape model, std::uint64_t tokens, WeightType weights) {
  TrainingPlan plan;
  model.layers = schedule.stages;
  plan.layout.parallelism.pipeline = schedule.ranks();
  plan.layout.numerics.weights = weights;
  plan.layout.sequence = tokens;
  plan.layout.stages = even_stages(model, schedule.stages);
  plan.model = std::move(model);
  plan.schedule = std::move(schedule);
  return plan;
}

void load_data(Team& team, const TrainingPlan& plan) {
  const std::uint64_t tokens = plan.layout.tokens();
  const auto load = [&](std::uint32_t m) {
    MicrobatchData data;
    const std::uint64_t input = stream_of(plan.seed, "input" + std::to_string(m));
    const std::uint64_t target = stream_of(plan.seed, "target" + std::to_string(m));
    if (plan.model.architecture == Architecture::mlp) {
      const std::uint64_t elements = tokens * plan.model.hidden;
      data.input.resize(elements);
      data.target.resize(elements);
      for (std::uint64_t i = 0; i < elements; ++i) {
        data.input[i] = noise(input, i);
        data.target[i] = noise(target, i);
      }
    } else {
      for (std::uint64_t i = 0; i <= tokens; ++i) {
        const double u = 0.5 + 0.25 * static_cast<double>(noise(input, i));
        const double id = std::fmin(std::fmax(u, 0), 0.999) * static_cast<double>(plan.model.vocab);
        if (i < tokens) data.tokens.push_back(static_cast<std::int32_t>(id));
        if (i > 0) data.next_tokens.push_back(static_cast<std::int32_t>(id));
      }
    }
    for (const auto& worker : team) {
      if (worker->needs(Microbatch{m})) worker->load(Microbatch{m}, data);
    }
  };
  std::vector<std::thread> threads;
  for (std::uint32_t m = 0; m < plan.schedule.microbatches; ++m) threads.emplace_back(load, m);
  for (std::thread& thread : threads) thread.join();
}

void step(Team& team) {
  together(team, [](Worker& worker) {
    worker.clear_gradients();
    execute(worker.program(), worker);
  });
}

Timeline timeline_of(Team& team, const TrainingPlan& plan) {
  std::vector<StepTimes> records;
  std::vector<StageMemory> memory(plan.schedule.stages);
  for (const auto& worker : team) {
    if (worker->copy() > 0) continue;
    records.push_back(worker->times());
    for (const Stage stage : worker->program().held)
      memory[stage.value] = worker->stage_memory()[stage.value];
  }
  return assemble_timeline(plan.schedule, records, memory);
}

LoweredSchedule unpipelined(std::uint32_t stages, std::uint32_t microbatches) {
  LoweredSchedule schedule;
  schedule.name = "unpipelined";
  schedule.stages = stages;
  schedule.microbatches = microbatches;
  LoweredRank& rank = schedule.per_rank.emplace_back();
  for (std::uint32_t m = 0; m < microbatches; ++m) {
    for (std::uint32_t s = 0; s < stages; ++s)
      rank.steps.emplace_back(Action(Op{Stage{s}, Microbatch{m}, OpKind::forward}));
    for (std::uint32_t s = stages; s-- > 0;)
      rank.steps.emplace_back(Action(Op{Stage{s}, Microbatch{m}, OpKind::backward}));
  }
  return schedule;
}

std::vector<std::vector<float>> gradients(Team& team, std::uint32_t stages) {
  std::vector<std::vector<float>> all(stages);
  for (const auto& worker : team) {
    for (const Stage stage : worker->program().held) {
      if (all[stage.value].empty()) all[stage.value] = worker->gradients(stage);
    }
  }
  return all;
}

std::vector<double> losses(Team& team, std::uint32_t microbatches) {
  std::vector<double> all(microbatches);
  for (const auto& worker : team) {
    for (const auto& [microbatch, loss] : worker->losses()) all[microbatch.value] = loss;
  }
  return all;
}

Difference compare(Team& team, const TrainingPlan& plan, const std::vector<std::vector<float>>& expected) {
  Difference difference;
  for (const auto& worker : team) {
    for (const Stage stage : worker->program().held) {
      const std::vector<float> got = worker->gradients(stage);
      PLUMB_CHECK(got.size() == expected[stage.value].size());
      for (const ParameterSpec& parameter : stage_parameters(plan.model, plan.layout.stages[stage.value])) {
        double apart = 0;
        double size = 0;
        for (std::uint64_t i = parameter.offset; i < parameter.offset + parameter.elements(); ++i) {
          const double x = got[i];
          const double y = expected[stage.value][i];
          apart += (x - y) * (x - y);
          size += x * x + y * y;
        }
        // Gradients that are all zero are no proof, and nothing of ours is zero in theory here.
        const double relative = size > 0 ? apart / size : 1;
        if (!(relative <= difference.largest)) difference = {relative, parameter.name};
      }
    }
  }
  return difference;
}

}  // namespace plumb::test
