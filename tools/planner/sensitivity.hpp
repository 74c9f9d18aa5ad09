// How much a plan depends on each of its costs.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"

#include <string>
#include <vector>

namespace plumb {

/// The step time with one kind of cost a tenth shorter, and a tenth longer.
struct Sensitivity {
  std::string cost;  // a work class's name, `pipeline messages`, `gradient reduction`, `optimizer step`
  Duration shorter;
  Duration longer;
  bool operator==(const Sensitivity&) const = default;
};

/// `cost` with the durations of one work class times factor_ppm / 1,000,000, to the nearest nanosecond.
CostModel with_class_scaled(const CostModel& cost, WorkClass work_class, std::uint32_t factor_ppm);

/// Simulates the schedule again, twice for each kind of cost that it has; the one that moves the step the
/// most comes first. Kinds that move nothing are there too: that is what one wants to know of them.
std::vector<Sensitivity> sensitivity(const LoweredSchedule& schedule, const CostModel& cost,
                                     const ExecutionOptions& options);

}  // namespace plumb
