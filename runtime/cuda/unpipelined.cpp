#include "runtime/gpu_workers.hpp"
#include "runtime/together.hpp"
#include "runtime/train_step.hpp"

namespace plumb {
namespace {

// One rank, one stage: forward and backward of one microbatch after another.
LoweredSchedule one_by_one(std::uint32_t microbatches) {
  LoweredSchedule schedule;
  schedule.name = "unpipelined";
  schedule.stages = 1;
  schedule.microbatches = microbatches;
  LoweredRank& rank = schedule.per_rank.emplace_back();
  for (std::uint32_t m = 0; m < microbatches; ++m) {
    for (const OpKind kind : {OpKind::forward, OpKind::backward})
      rank.steps.emplace_back(Action(Op{Stage{0}, Microbatch{m}, kind}));
  }
  return schedule;
}

}  // namespace

Unpipelined run_unpipelined_on_gpu(const TrainingPlan& plan, const TrainingData& data, std::uint64_t step,
                                   const GpuOptions& options) {
  TrainingPlan whole = plan;
  whole.layout = unpipelined(plan.model, plan.layout);
  whole.schedule = one_by_one(plan.schedule.microbatches * plan.schedule.data_parallel);
  std::vector<std::unique_ptr<Worker>> workers = make_gpu_workers(whole, options);
  run_together(workers, [&](Worker& worker) { run_schedule(worker, data, step); });
  Unpipelined result;
  for (const auto& [microbatch, loss] : workers.front()->losses()) result.losses.push_back(loss);
  add_gradients(*workers.front(), whole, result.gradients);
  return result;
}

}  // namespace plumb
