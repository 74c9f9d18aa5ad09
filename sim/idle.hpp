// Why a rank did not compute: every gap between its actions, split by cause. The report sums these slices,
// the trace and the pictures show them.
#pragma once
#include "schedules/ir/timeline.hpp"
#include "sim/report.hpp"

#include <vector>

namespace plumb {

/// From the first compute begin to the last compute end of any rank: the makespan's two ends. {0, 0} of a
/// timeline that computes nothing.
struct StepBounds {
  TimePoint begin;
  TimePoint end;
  Duration makespan() const { return end - begin; }
  bool operator==(const StepBounds&) const = default;
};
StepBounds step_bounds(const Timeline& timeline);

/// A stretch in which a rank does not compute, for one reason. Never empty.
struct IdleSlice {
  TimePoint begin;
  TimePoint end;
  IdleCause cause = IdleCause::warm_up;
  bool operator==(const IdleSlice&) const = default;
};

/// [rank] -> its idle slices by time. A rank's compute spans and its slices tile step_bounds without a gap or
/// an overlap, so their lengths add up to the makespan exactly.
///
/// Before the first action: warm_up (all of the step on a rank that computes nothing). After the last: drain.
/// In between the wait before an action splits at last_input_sent, clamped to the gap. Before it somebody was
/// still computing the input: waiting_for_message, but for the last part of it, as long as the producing
/// action lasts longer than this rank's own latest action of that shape (the waiting one included; a pair is
/// a shape of its own), which is imbalance. After it the message was on its way: exposed_communication. So is
/// all of a gap before an action that needs nothing from another rank: only communication held the rank up.
///
/// O(ops). The spans of a rank must not overlap.
std::vector<std::vector<IdleSlice>> idle_gaps(const Timeline& timeline);

}  // namespace plumb
