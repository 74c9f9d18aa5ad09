// What the executor itself costs: the time on a step's critical path in which nothing runs that anybody waits
// for.
#pragma once
#include "schedules/ir/lower.hpp"
#include "schedules/ir/timeline.hpp"

#include <optional>

namespace plumb {

/// Of one executed step, from its begin to the end of the last action or gradient reduction; the optimizer
/// has no part in it.
struct ExecutorOverhead {
  Duration step;
  /// Summed along the critical path: from the moment at which everything that the schedule makes a span wait
  /// for had happened (the rank's action before it, the arrival of its messages, of a reduction the last
  /// action of every owner) to the span's begin. What a message takes from its sender's op to its arrival is
  /// communication, and not counted; a wait for a free send buffer is, since no schedule asks for it.
  Duration gaps;
  /// The longest of them, and before which action; nothing where there is none, or before a reduction.
  Duration longest;
  Rank rank;
  std::optional<Action> before;

  double share() const {
    return step.ns > 0 ? static_cast<double>(gaps.ns) / static_cast<double>(step.ns) : 0;
  }
  bool operator==(const ExecutorOverhead&) const = default;
};

/// `timeline` is of this schedule. A simulated one has no gaps. O(spans of the step).
ExecutorOverhead executor_overhead(const LoweredSchedule& schedule, const Timeline& timeline);

}  // namespace plumb
