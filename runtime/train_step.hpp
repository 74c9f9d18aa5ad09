// One training step as every worker does it: data, the schedule, clipping, the optimizer.
#pragma once
#include "runtime/training_data.hpp"
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

struct StepResult {
  double loss = 0;             // the mean over all microbatches of all copies
  std::vector<double> losses;  // [copy * microbatches + microbatch]
  double gradient_norm = 0;    // of all gradients together, before clipping
  bool operator==(const StepResult&) const = default;
};

/// Loads the worker's data of the `step`-th step (from 1) and runs its program: afterwards its gradients are
/// the sums over all owners. Every worker calls it.
void run_schedule(Worker& worker, const TrainingData& data, std::uint64_t step);

/// run_schedule, then the losses and the gradients' norm of all workers together.
StepResult forward_and_backward(Worker& worker, const TrainingPlan& plan, const TrainingData& data,
                                std::uint64_t step);

/// forward_and_backward, then the optimizer with the gradients clipped to Optimizer::clip_norm.
StepResult train_step(Worker& worker, const TrainingPlan& plan, const TrainingData& data, std::uint64_t step);

}  // namespace plumb
