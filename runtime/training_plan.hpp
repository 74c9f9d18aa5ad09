// What a run computes, whatever it runs on, and how long its ranks wait for each other.
#pragma once
#include "runtime/rank_program.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>

namespace plumb {

/// AdamW (arXiv 1711.05101) in float32 on float32 master weights.
struct Optimizer {
  double learning_rate = 3e-4;
  double beta_1 = 0.9;
  double beta_2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  // of matrices
  double clip_norm = 1.0;     // of all gradients together; 0: not clipped
  bool operator==(const Optimizer&) const = default;
};

/// Everything that decides what a run computes. One worker a rank and data-parallel copy.
struct TrainingPlan {
  LoweredSchedule schedule;  // its data_parallel is the number of copies
  ModelShape model;
  Layout layout;  // its stages are the schedule's
  std::uint64_t seed = 1;
  Optimizer optimizer;
  /// How long a worker may wait for others, in a step or between steps, before it gives up naming whom it
  /// waits for.
  Duration deadline{60'000'000'000};
  ArenaOptions arena;
};

/// The loss's gradient is scaled so that the summed gradients are those of the mean over all microbatches of
/// all copies: 1 / (microbatches x data_parallel), beside the mean over a microbatch's elements.
inline double loss_scale(const TrainingPlan& plan) {
  return 1.0 / (static_cast<double>(plan.schedule.microbatches) * plan.schedule.data_parallel);
}

}  // namespace plumb
