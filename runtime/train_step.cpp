#include "runtime/train_step.hpp"

#include "runtime/executor.hpp"

#include <cmath>

namespace plumb {

void run_schedule(Worker& worker, const TrainingData& data, std::uint64_t step) {
  const std::uint32_t microbatches = worker.program().microbatches;
  for (std::uint32_t m = 0; m < microbatches; ++m) {
    if (!worker.needs(Microbatch{m})) continue;
    worker.load(Microbatch{m}, data.microbatch(step, std::uint64_t{worker.copy()} * microbatches + m));
  }
  worker.clear_gradients();
  execute(worker.program(), worker);
}

StepResult forward_and_backward(Worker& worker, const TrainingPlan& plan, const TrainingData& data,
                                std::uint64_t step) {
  run_schedule(worker, data, step);
  const std::uint32_t microbatches = plan.schedule.microbatches;
  // One sum for everything: each loss comes from one worker, so adding the others' zeros changes nothing.
  std::vector<double> values(std::size_t{microbatches} * plan.schedule.data_parallel + 1);
  for (const auto& [microbatch, loss] : worker.losses()) {
    values[std::size_t{worker.copy()} * microbatches + microbatch.value] = loss;
  }
  values.back() = worker.squared_gradient_norm();
  worker.sum(values);
  StepResult result;
  result.gradient_norm = std::sqrt(values.back());
  values.pop_back();
  for (const double loss : values) result.loss += loss / static_cast<double>(values.size());
  result.losses = std::move(values);
  return result;
}

StepResult train_step(Worker& worker, const TrainingPlan& plan, const TrainingData& data,
                      std::uint64_t step) {
  const StepResult result = forward_and_backward(worker, plan, data, step);
  const double limit = plan.optimizer.clip_norm;
  const double scale = limit > 0 && result.gradient_norm > limit ? limit / result.gradient_norm : 1;
  worker.update(step, plan.optimizer.learning_rate, scale);
  return result;
}

}  // namespace plumb
