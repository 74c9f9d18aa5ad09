// How much: memory over time per rank.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"

namespace plumb {

/// Weights x copies, gradients and optimizer state all the step long; activations, what backward_input leaves
/// for backward_weight, workspace and receive buffers as the ops go by. Program order decides the peak; the
/// timeline only dates it. Counts live activations in chunks whatever the costs say.
MemoryProfile profile_memory(const Timeline& timeline, const LoweredSchedule& schedule,
                             const CostModel& cost);

}  // namespace plumb
