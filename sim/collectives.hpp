// When the gradient reductions run, once it is known when every rank reaches them. Private to sim.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/timeline.hpp"

namespace plumb {

/// Fills in `collectives` of a timeline whose compute spans are complete. A reduction may begin when every
/// rank that takes part has reached it; those that may begin are served first come first served (the lower
/// stage first on ties), and a rank takes part in one at a time. Nobody's computation waits for them.
void add_collectives(const LoweredSchedule& schedule, const CostModel& cost, Timeline& timeline);

/// Fills in `update`, behind everything else, where any stage's optimizer step takes time: it begins on every
/// rank when the last one's computation and reductions are done, and takes as long as those of the rank's
/// stages together.
void add_updates(const LoweredSchedule& schedule, const CostModel& cost, Timeline& timeline);

}  // namespace plumb
