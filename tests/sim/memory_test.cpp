// What ranks hold and when, worked out by hand.
#include "sim/memory.hpp"

#include "schedules/ir/lower.hpp"
#include "sim/report.hpp"
#include "sim/simulate.hpp"
#include "tests/support/reference.hpp"
#include "tests/support/timelines.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::parse_action;
using test::schedule_of;

MemoryProfile profile(const Schedule& schedule, const CostModel& cost) {
  const LoweredSchedule lowered = lower(schedule);
  return profile_memory(simulate(lowered, cost), lowered, cost);
}

// F = 10, B = 30, 5 on every edge: 0F0 0-10, 0F1 10-20, 0B0 60-90, 0B1 100-130 (see simulate_test). Rank 0
// holds 1,110 throughout; a forward keeps 40 and works in 5; a backward keeps 8 and works in 20 and frees all
// 48 at its end. Gradients arrive in buffers of 2, posted behind 0F1 and behind 0B0.
//   0F0 begins 1155, ends 1150; 0F1 begins 1195, ends 1190, and with the buffer 1192; 0B0 begins 1220: the
//   peak. It ends at 1220 - 20 - 48 - 2 = 1150, with the next buffer 1152; 0B1 begins 1180 and ends 1110.
TEST(Memory, ARankHoldsWhatItsListSaysAndTheTimelineDatesIt) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, Duration{5}});
  StageCost& stage = cost.stages[0];
  stage.forward.memory = {Bytes{40}, Bytes{5}, Bytes{0}};
  stage.backward.memory = {Bytes{8}, Bytes{20}, Bytes{-48}};
  stage.weights = Bytes{1000};
  stage.gradients = Bytes{100};
  stage.optimizer_state = Bytes{10};
  stage.activation_message = Bytes{3};
  stage.gradient_message = Bytes{2};
  const MemoryProfile memory =
      profile(schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}), cost);
  const RankMemory& rank = memory.ranks[0];
  const auto at = [](std::int64_t time, std::int64_t bytes) {
    return MemoryPoint{TimePoint{time}, Bytes{bytes}};
  };
  EXPECT_EQ(rank.curve, (std::vector<MemoryPoint>{at(0, 1155), at(10, 1195), at(20, 1192), at(60, 1220),
                                                  at(90, 1152), at(100, 1180), at(130, 1110)}));
  EXPECT_EQ(rank.peak.total(), Bytes{1220});
  EXPECT_EQ(rank.peak[MemoryUse::weights], Bytes{1000});
  EXPECT_EQ(rank.peak[MemoryUse::gradients], Bytes{100});
  EXPECT_EQ(rank.peak[MemoryUse::optimizer], Bytes{10});
  EXPECT_EQ(rank.peak[MemoryUse::activations], Bytes{88});
  EXPECT_EQ(rank.peak[MemoryUse::receive_buffers], Bytes{2});
  EXPECT_EQ(rank.peak[MemoryUse::workspace], Bytes{20});
  EXPECT_EQ(rank.peak_time, TimePoint{60});
  EXPECT_EQ(rank.peak_action, parse_action("0B0"));
  EXPECT_EQ(rank.peak_live_activations, 2u);
}

// A forward keeps 40, of which backward_input leaves 10 for backward_weight.
//   0F0 40 | 0I0 ends 10 | 0F1 50, the peak | 0I1 ends 20 | 0W0 ends 10 | 0W1 ends 0
TEST(Memory, WhatBackwardInputLeavesStaysUntilBackwardWeight) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{10}, {}, {}, {}});
  StageCost& stage = cost.stages[0];
  stage.forward.memory.at_begin = Bytes{40};
  stage.backward_input.memory.at_end = Bytes{-30};
  stage.backward_weight.memory.at_end = Bytes{-10};
  const MemoryProfile memory = profile(schedule_of("split", 1, 2, {"0F0 0I0 0F1 0I1 0W0 0W1"}), cost);
  const RankMemory& rank = memory.ranks[0];
  EXPECT_EQ(rank.peak[MemoryUse::activations], Bytes{40});
  EXPECT_EQ(rank.peak[MemoryUse::weight_gradient_remnants], Bytes{10});
  EXPECT_EQ(rank.peak_action, parse_action("0F1"));
  EXPECT_EQ(rank.peak_live_activations, 2u) << "counted until backward_weight";
  EXPECT_EQ(rank.curve.back(), (MemoryPoint{TimePoint{60}, Bytes{0}}));
}

// Each rank holds a copy of both stages, so twice one copy's share.
TEST(Memory, ARankPaysForEveryCopyItHolds) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, {}});
  cost.stages[0].weights = Bytes{1000};
  const MemoryProfile memory =
      profile(schedule_of("two way", 2, 2, {"0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"}), cost);
  EXPECT_EQ(memory.ranks[0].peak[MemoryUse::weights], Bytes{2000});
  EXPECT_EQ(memory.ranks[1].peak[MemoryUse::weights], Bytes{2000});
}

// The forward of a pair counts before its backward gives back: two live at once.
TEST(Memory, WithoutBytesThePeakIsThatOfLiveActivations) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, {}});
  const Schedule schedule = schedule_of("overlap", 2, 2, {"0F0 (0F1;0B0)OVERLAP_F_B 0B1", "1F0 1B0 1F1 1B1"});
  const MemoryProfile memory = profile(schedule, cost);
  EXPECT_TRUE(memory.ranks[0].curve.empty());
  EXPECT_EQ(memory.ranks[0].peak_live_activations, 2u);
  EXPECT_EQ(memory.ranks[0].peak_action, parse_action("(0F1;0B0)OVERLAP_F_B"));
  EXPECT_EQ(memory.ranks[1].peak_live_activations, 1u);
  const LoweredSchedule lowered = lower(schedule);
  const Timeline timeline = simulate(lowered, cost);
  EXPECT_FALSE(summarize(timeline, memory).ranks[0].peak_bytes.has_value());
}

// A step of 130 in which reductions of 100 begin at 130 and at 95 lasts 230; makespan, span and idle don't
// see them.
TEST(Report, ReductionsLengthenTheStepAndNothingElse) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, Duration{5}});
  cost.stages[0].gradient_reduction = Duration{100};
  const LoweredSchedule lowered =
      lower(schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}), {CommPlacement::per_op, 2});
  const Timeline timeline = simulate(lowered, cost);
  const Report report = summarize(timeline, profile_memory(timeline, lowered, cost));
  EXPECT_EQ(report.makespan, Duration{130});
  EXPECT_EQ(report.span, Duration{130});
  EXPECT_EQ(report.step_time, Duration{230});
  EXPECT_EQ(report.ranks[0].compute_busy, Duration{80});
  EXPECT_EQ(report.ranks[0].idle, Duration{50});
  EXPECT_EQ(report.ranks[1].span, Duration{80});
  EXPECT_EQ(report.ranks[1].idle, Duration{50});
  EXPECT_DOUBLE_EQ(report.idle_share, 100.0 / 260.0);
}

// Each rank owns both stages, so each of the two reductions, one behind the other, takes 30 longer. With one
// owner and a data-parallel copy it does not.
TEST(Report, TwoOwnersOfAStageTakeLongerToSumItsGradients) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, {}});
  cost.stages[0].gradient_reduction = Duration{100};
  const LoweredSchedule two = lower(schedule_of("two way", 2, 2, {"0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"}));
  const Duration without =
      summarize(simulate(two, cost), profile_memory(simulate(two, cost), two, cost)).step_time;
  cost.stages[0].owner_exchange = Duration{30};
  const Duration with =
      summarize(simulate(two, cost), profile_memory(simulate(two, cost), two, cost)).step_time;
  EXPECT_EQ(with - without, Duration{60}) << "two reductions, one after the other";
  const LoweredSchedule one =
      lower(schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}), {CommPlacement::per_op, 2});
  const Timeline timeline = simulate(one, cost);
  EXPECT_EQ(timeline.ranks[1].collectives.front().end - timeline.ranks[1].collectives.front().begin,
            Duration{100});
}

// A step of 130 whose reductions end at 230, and then 50 of optimizer on both ranks.
TEST(Report, TheOptimizerStepsOnceTheLastGradientIsThere) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, Duration{5}});
  cost.stages[0].gradient_reduction = Duration{100};
  cost.stages[0].optimizer_step = Duration{50};
  const LoweredSchedule lowered =
      lower(schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}), {CommPlacement::per_op, 2});
  const Timeline timeline = simulate(lowered, cost);
  const UpdateSpan update{TimePoint{230}, TimePoint{280}};
  EXPECT_EQ(timeline.ranks[0].update, update);
  EXPECT_EQ(timeline.ranks[1].update, update);
  const Report report = summarize(timeline, profile_memory(timeline, lowered, cost));
  EXPECT_EQ(report.makespan, Duration{130});
  EXPECT_EQ(report.step_time, Duration{280});
}

// Two stages on each rank: their steps run one after the other.
TEST(Report, ARankStepsForEveryStageItHolds) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, {}});
  cost.stages[0].optimizer_step = Duration{50};
  const LoweredSchedule lowered = lower(schedule_of("two way", 2, 2, {"0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"}));
  const Timeline timeline = simulate(lowered, cost);
  ASSERT_TRUE(timeline.ranks[0].update);
  EXPECT_EQ(timeline.ranks[0].update->end - timeline.ranks[0].update->begin, Duration{100});
}

// 1,000 of weights, and 300 that belong to no tensor.
TEST(Memory, TheReserveIsHeldThroughout) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, {}, {}});
  cost.stages[0].weights = Bytes{1000};
  cost.reserve = Bytes{300};
  const MemoryProfile memory = profile(schedule_of("one", 1, 1, {"0F0 0B0"}), cost);
  EXPECT_EQ(memory.ranks[0].peak[MemoryUse::reserve], Bytes{300});
  EXPECT_EQ(memory.ranks[0].peak.total(), Bytes{1300});
}

}  // namespace
}  // namespace plumb
