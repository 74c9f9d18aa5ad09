// How long recipes take on the two lanes of a rank: one op alone, or a forward beside a backward.
#pragma once
#include "schedules/ir/cost_model.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

/// When one segment of an action's recipes runs, since the action began.
struct PairSegment {
  bool of_backward = false;
  std::uint32_t segment = 0;  // index into the op's recipe
  Duration begin;
  Duration end;
  bool operator==(const PairSegment&) const = default;
};

struct PairCost {
  Duration duration;
  Duration forward_end;               // when the forward's own part is done, since the pair began
  Duration backward_end;              // when the backward's is
  std::vector<PairSegment> segments;  // by begin; empty for a pair that was measured as a whole
  bool operator==(const PairCost&) const = default;
};

/// Runs both recipes on the rank's two lanes at once. A lane serves one segment at a time, first come first
/// served, the forward first on ties; an op asks for its next segment's lane when the segment before it ends
/// (a deferred one keeps nobody, see Segment). While both lanes are busy, work of class a lasts
/// cost.slowdown_ppm[a][b] millionths of its time beside class b. While the other op waits for a lane, a
/// segment that has a tail takes as much less of it, but no more than the other has for it; with any other
/// the lane does shared_lane_ppm of its work. Segments end on the first whole nanosecond at which their work
/// is done.
PairCost derive_pair(const OpCost& forward, const OpCost& backward, const CostModel& cost);

/// An op with the rank to itself, by the same rules: its deferred segments may run beside the others.
/// `forward_end` and `backward_end` are both its end.
PairCost derive_alone(const OpCost& op, const CostModel& cost);

/// What an overlapped pair of these stages costs: CostModel::stated_pair where there is one, otherwise
/// derived. For a stated pair the forward's part ends after the forward's own duration (at the latest with
/// the pair) and the backward's with the pair.
PairCost pair_cost(Stage forward, Stage backward, const CostModel& cost);

/// What a lane that two ops want gets done in a time, in millionths of what it does for one: at least a
/// million. Kernels of two streams are not divided among the multiprocessors: blocks of one come first, the
/// other's fill what its last wave leaves free, so the two take turns and each lasts as long as both. How
/// much longer one becomes (slowdown_ppm) therefore depends on how long the other's kernels happen to be, but
/// the sum of their paces, 1 / slowdown[a][b] + 1 / slowdown[b][a], hardly does: it is what the filled waves
/// save. (On an H200 cut in four: two products 1.00 to 1.01, a product and an elementwise kernel 1.02
/// to 1.08, a product and attention 1.10, two attentions 1.18.) Where neither slows the other nothing was
/// measured, and nothing is gained.
std::uint32_t shared_lane_ppm(const CostModel& cost, WorkClass a, WorkClass b);

/// slowdown_ppm[of][beside], and 1,000,000 where the table has no such entry.
std::uint32_t slowdown_ppm(const CostModel& cost, WorkClass of, WorkClass beside);

}  // namespace plumb
