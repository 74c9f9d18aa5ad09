#include "sim/idle.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

Op forward(std::uint32_t stage, std::uint32_t microbatch) {
  return {Stage{stage}, Microbatch{microbatch}, OpKind::forward};
}
Op backward(std::uint32_t stage, std::uint32_t microbatch) {
  return {Stage{stage}, Microbatch{microbatch}, OpKind::backward};
}

// Two ranks, one microbatch; the forward of stage 0 lasts `first` and the message 2, everything else as long
// as written: 0F0 [0, 10) message [10, 12) 1F0 [12, 18) 1B0 [18, 30) message [30, 32) 0B0 [32, 52).
Timeline round_trip() {
  Timeline timeline{"by-hand", 2, 1, std::vector<RankTimeline>(2), {}};
  timeline.ranks[0].compute = {
      {Action(forward(0, 0)), {0}, {10}, {0}, std::nullopt},
      {Action(backward(0, 0)), {32}, {52}, {30}, backward(1, 0)},
  };
  timeline.ranks[1].compute = {
      {Action(forward(1, 0)), {12}, {18}, {10}, forward(0, 0)},
      {Action(backward(1, 0)), {18}, {30}, {18}, std::nullopt},
  };
  return timeline;
}

TEST(IdleGaps, SplitAGapWhereTheMessageLeft) {
  // Rank 0 waits from 10 to 32. Until 30 stage 1 is busy; its backward (12) is no longer than rank 0's own
  // (20), so nothing of that is imbalance. The message is on its way from 30 to 32.
  const auto slices = idle_gaps(round_trip());
  EXPECT_EQ(slices[0], (std::vector<IdleSlice>{{{10}, {30}, IdleCause::waiting_for_message},
                                               {{30}, {32}, IdleCause::exposed_communication}}));
}

TEST(IdleGaps, AreWarmUpBeforeTheFirstActionAndDrainAfterTheLast) {
  const auto slices = idle_gaps(round_trip());
  EXPECT_EQ(slices[1],
            (std::vector<IdleSlice>{{{0}, {12}, IdleCause::warm_up}, {{30}, {52}, IdleCause::drain}}));
}

TEST(IdleGaps, CallALongerOpOfTheNeighbourImbalance) {
  // The neighbour's backward lasts 12, the own one 5: of the wait [10, 30) the last 7 are imbalance.
  Timeline timeline = round_trip();
  timeline.ranks[0].compute[1].end = {37};
  const auto slices = idle_gaps(timeline);
  EXPECT_EQ(slices[0], (std::vector<IdleSlice>{{{10}, {23}, IdleCause::waiting_for_message},
                                               {{23}, {30}, IdleCause::imbalance},
                                               {{30}, {32}, IdleCause::exposed_communication}}));
}

TEST(IdleGaps, HoldImbalanceWithinTheWait) {
  // As above, but the rank is free only from 26 on: 7 ns longer, 4 ns waited.
  Timeline timeline = round_trip();
  timeline.ranks[0].compute[1].end = {37};
  timeline.ranks[0].compute[0].end = {26};
  EXPECT_EQ(idle_gaps(timeline)[0], (std::vector<IdleSlice>{{{26}, {30}, IdleCause::imbalance},
                                                            {{30}, {32}, IdleCause::exposed_communication}}));
}

TEST(IdleGaps, CompareOnlyActionsOfOneShape) {
  // Made by a pair, needed by a single backward: the rank has no pair of its own to compare it with.
  Timeline timeline = round_trip();
  timeline.microbatches = 2;
  timeline.ranks[1].compute[1].action = Action(forward(1, 1), backward(1, 0));
  timeline.ranks[0].compute[1].end = {33};
  EXPECT_EQ(idle_gaps(timeline)[0].front(), (IdleSlice{{10}, {30}, IdleCause::waiting_for_message}));
}

TEST(IdleGaps, BlameCommunicationWhereNoInputCameFromAnotherRank) {
  Timeline timeline = round_trip();
  timeline.ranks[0].compute[1].last_input = std::nullopt;
  timeline.ranks[0].compute[1].last_input_sent = {32};
  EXPECT_EQ(idle_gaps(timeline)[0], (std::vector<IdleSlice>{{{10}, {32}, IdleCause::exposed_communication}}));
}

TEST(IdleGaps, TileTheStepTogetherWithTheComputeSpans) {
  Timeline timeline = round_trip();
  timeline.ranks.emplace_back();  // a rank that computes nothing
  const StepBounds bounds = step_bounds(timeline);
  EXPECT_EQ(bounds, (StepBounds{{0}, {52}}));
  const auto slices = idle_gaps(timeline);
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    Duration sum;
    for (const ComputeSpan& span : timeline.ranks[r].compute) sum += span.end - span.begin;
    for (const IdleSlice& slice : slices[r]) {
      EXPECT_LT(slice.begin, slice.end);
      sum += slice.end - slice.begin;
    }
    EXPECT_EQ(sum, bounds.makespan());
  }
}

TEST(StepBounds, OfNothingAreZero) { EXPECT_EQ(step_bounds(Timeline{}), StepBounds{}); }

}  // namespace
}  // namespace plumb
