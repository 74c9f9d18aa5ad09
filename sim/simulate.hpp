// When: replays a lowered schedule against a cost model.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/timeline.hpp"

#include <cstdint>

namespace plumb {

/// Whether the Timeline shows what happens inside an action: `segments` fills RankTimeline::segments, many
/// times the memory of the actions alone where recipes are long.
enum class Detail : std::uint8_t { actions, segments };

/// The predicted Timeline of one step. Integer arithmetic only: one input, one output, on every machine.
/// The schedule must be valid; throws BadInput where the costs do not fit it (number of stages, an override
/// that names no action). Linear in ops.
Timeline simulate(const LoweredSchedule& schedule, const CostModel& cost,
                  const ExecutionOptions& options = {}, Detail detail = Detail::segments);

}  // namespace plumb
