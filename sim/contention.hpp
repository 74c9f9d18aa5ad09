// Messages and computation that disturb each other. Private to sim.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "sim/program.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

/// Where the phases of every action ended, the pieces between which its segments change: action `a` has those
/// from first[a] to first[a + 1]. Empty where no action has more than one.
struct PhaseTimes {
  std::vector<std::uint32_t> first;
  std::vector<std::int64_t> undisturbed;  // since the action began
  std::vector<std::int64_t> real;         // since the step began
};

/// A transfer keeps both its ranks from computing: from the moment it may begin (its send is ready, and its
/// receive posted where the receiver stands in a group) neither rank begins another action until it has
/// ended; it begins when both have ended the action they are in and, where links are shared, the link is
/// free. What ends at one time ends before anything begins at that time; transfers begin before actions.
void run_exclusive(Program& program, const Dag& dag, const ExecutionOptions& options);

/// Messages and computation slow each other by cost.slowdown_ppm. While a message is on its way at its rank,
/// an action as a whole goes at the pace of the most slowed segment that is running; a pair that was measured
/// as a whole, at that of the most slowed segment of both recipes. A message goes at the pace that the more
/// disturbing of the actions on its two ranks leaves it; an action is slowed once however many messages are
/// on their way at its rank.
PhaseTimes run_slowed(Program& program, const Dag& dag, const CostModel& cost,
                      const ExecutionOptions& options);

}  // namespace plumb
