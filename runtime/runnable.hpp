// What can be simulated but not run.
#pragma once
#include "runtime/training_plan.hpp"

namespace plumb {

/// Throws BadInput that names what of the plan's model or layout no rank computes: experts, recompute,
/// dropout … Touches no device.
void require_runnable(const TrainingPlan& plan);

}  // namespace plumb
