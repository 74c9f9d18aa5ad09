// The walk from a lowered schedule and its costs to a report: one line a step.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"
#include "sim/report.hpp"
#include "sim/simulate.hpp"

namespace plumb {

struct Prediction {
  Timeline timeline;
  MemoryProfile memory;
  Report report;
  std::uint32_t sm_clock_mhz = 0;  // of the GPU that ranks share; 0: each has its own, or nobody knows
};

/// Throws BadInput where the costs do not fit the schedule.
Prediction predict(const LoweredSchedule& schedule, const CostModel& cost,
                   const ExecutionOptions& options = {}, Detail detail = Detail::segments);

}  // namespace plumb
