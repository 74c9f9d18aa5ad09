// Two recipes on two lanes, worked out by hand.
#include "sim/overlap.hpp"

#include "schedules/ir/error.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr WorkClass gemm{0};
constexpr WorkClass all_to_all{1};

OpCost recipe(std::vector<Segment> segments) { return {std::move(segments), {}}; }
Segment compute(std::int64_t ns) { return {Lane::compute, Duration{ns}, gemm, "compute"}; }
Segment communicate(std::int64_t ns) {
  return {Lane::communication, Duration{ns}, all_to_all, "communicate"};
}

CostModel table(std::uint32_t gemm_ppm, std::uint32_t all_to_all_ppm) {
  CostModel cost;
  cost.classes = {"gemm", "all_to_all"};
  cost.slowdown_ppm = {{1'000'000, gemm_ppm}, {all_to_all_ppm, 1'000'000}};
  return cost;
}

TEST(Overlap, OneLaneServesOneOpAfterTheOtherTheForwardFirst) {
  const PairCost pair = derive_pair(recipe({compute(10)}), recipe({compute(30)}), {});
  EXPECT_EQ(pair.forward_end, Duration{10});
  EXPECT_EQ(pair.backward_end, Duration{40});
  EXPECT_EQ(pair.duration, Duration{40});
  EXPECT_EQ(pair.segments, (std::vector<PairSegment>{{false, 0, Duration{0}, Duration{10}},
                                                     {true, 0, Duration{10}, Duration{40}}}));
}

// Forward compute 10, communicate 20, compute 5; backward compute 15, communicate 10.
//   compute        F 0-10  B 10-25       F 30-35
//   communication           F 10-30      B 30-40
TEST(Overlap, CommunicationHidesBehindTheOtherOpsComputation) {
  const PairCost pair = derive_pair(recipe({compute(10), communicate(20), compute(5)}),
                                    recipe({compute(15), communicate(10)}), {});
  EXPECT_EQ(pair.segments, (std::vector<PairSegment>{{false, 0, Duration{0}, Duration{10}},
                                                     {true, 0, Duration{10}, Duration{25}},
                                                     {false, 1, Duration{10}, Duration{30}},
                                                     {false, 2, Duration{30}, Duration{35}},
                                                     {true, 1, Duration{30}, Duration{40}}}));
  EXPECT_EQ(pair.forward_end, Duration{35});
  EXPECT_EQ(pair.backward_end, Duration{40});
}

// First come first served: the backward has waited for the compute lane since 0, so the forward's second
// piece, which asks at 10, comes after it.
TEST(Overlap, WhoAskedFirstIsServedFirst) {
  const PairCost pair = derive_pair(recipe({compute(10), compute(10)}), recipe({compute(30)}), {});
  EXPECT_EQ(pair.forward_end, Duration{50});
  EXPECT_EQ(pair.backward_end, Duration{40});
}

// Compute lasts 1.25 times as long beside communication, that 2 times. Forward computes 100 from 0; backward
// communicates 30 from 0, needs 60 beside it; by then 60 / 1.25 = 48 of the forward's 100 are done, the other
// 52 run alone: 112.
TEST(Overlap, BusyLanesSlowEachOther) {
  const PairCost pair =
      derive_pair(recipe({compute(100)}), recipe({communicate(30)}), table(1'250'000, 2'000'000));
  EXPECT_EQ(pair.backward_end, Duration{60});
  EXPECT_EQ(pair.forward_end, Duration{112});
  EXPECT_EQ(pair.duration, Duration{112});
}

// Products and attention take 2 and 3 times as long beside each other: together they get 1/2 + 1/3 of the
// time's work done, less than one alone, so nothing is gained. At 1.25 and 2.5 it is 0.8 + 0.4 = 1.2: the
// forward's 120 end at 100, and the backward's 60, with nobody waiting any more, at 160.
TEST(Overlap, TwoOpsOnOneLaneFillWhatTheOtherLeaves) {
  CostModel cost = table(3'000'000, 2'000'000);
  const Segment attention{Lane::compute, Duration{60}, all_to_all, "attention"};
  EXPECT_EQ(shared_lane_ppm(cost, gemm, all_to_all), 1'000'000u);
  EXPECT_EQ(derive_pair(recipe({compute(120)}), recipe({attention}), cost).duration, Duration{180});
  cost = table(1'250'000, 2'500'000);
  EXPECT_EQ(shared_lane_ppm(cost, gemm, all_to_all), 1'200'000u);
  EXPECT_EQ(shared_lane_ppm(cost, all_to_all, gemm), 1'200'000u);
  const PairCost pair = derive_pair(recipe({compute(120)}), recipe({attention}), cost);
  EXPECT_EQ(pair.forward_end, Duration{100});
  EXPECT_EQ(pair.backward_end, Duration{160});
}

// What an op has put off waits for nobody else's lane: one op alone gains nothing.
// A piece of 100 whose last fifth leaves multiprocessors free: it keeps 50 waiting for 80, or 10 for 90, for
// they end when it does. Its class has nothing more to say, and a piece without a tail none of its own.
TEST(Overlap, WhoWaitsTakesThePlaceOfATail) {
  const CostModel cost = table(1'000'000, 1'000'000);
  Segment tailed = compute(100);
  tailed.tail_ppm = 200'000;
  EXPECT_EQ(derive_alone(recipe({tailed}), cost).duration, Duration{100});
  const PairCost pair = derive_pair(recipe({tailed}), recipe({compute(50)}), cost);
  EXPECT_EQ(pair.forward_end, Duration{80});
  EXPECT_EQ(pair.backward_end, Duration{130});
  const PairCost shorter = derive_pair(recipe({tailed}), recipe({compute(10)}), cost);
  EXPECT_EQ(shorter.forward_end, Duration{90});
  EXPECT_EQ(shorter.backward_end, Duration{100});
  // Of two pieces behind it, 6 and 6, both find a place; whoever comes last meets nobody.
  EXPECT_EQ(derive_pair(recipe({tailed}), recipe({compute(6), compute(6)}), cost).backward_end,
            Duration{100});
  EXPECT_EQ(derive_pair(recipe({compute(50)}), recipe({tailed}), cost).backward_end, Duration{150});
  CostModel gains = cost;
  gains.slowdown_ppm = {{1'666'667, 1'000'000},
                        {1'000'000, 1'000'000}};  // 1.2 of its work beside another product
  EXPECT_EQ(derive_pair(recipe({tailed}), recipe({compute(50)}), gains).forward_end, Duration{80});
  tailed.tail_ppm = 0;
  EXPECT_EQ(derive_pair(recipe({tailed}), recipe({compute(50)}), gains).forward_end, Duration{100});
}

// The first piece keeps nobody: the second begins with it, and the third when the second has ended, not when
// the first has.
//   communication  0-4        10-13
//   compute        0-10
TEST(Overlap, BehindADeferredPieceTheNextWaitsForTheOneBetween) {
  OpCost op = recipe({communicate(4), compute(10), communicate(3)});
  op.recipe[0].deferred = true;
  const PairCost alone = derive_alone(op, {});
  EXPECT_EQ(alone.segments, (std::vector<PairSegment>{{false, 1, Duration{0}, Duration{10}},
                                                      {false, 0, Duration{0}, Duration{4}},
                                                      {false, 2, Duration{10}, Duration{13}}}));
  EXPECT_EQ(alone.duration, Duration{13});
}

TEST(Overlap, AnOpAloneHasNoCompany) {
  OpCost backward = recipe({compute(10), communicate(5), compute(20)});
  backward.recipe[0].deferred = true;
  CostModel cost = table(1'000'000, 1'000'000);
  cost.slowdown_ppm[0][0] = 1'500'000;
  EXPECT_EQ(derive_alone(backward, cost).duration, Duration{30});
}

// 100 x 1.3333335 is not whole: the piece ends on the first whole nanosecond at which it is done.
TEST(Overlap, APieceEndsOnAWholeNanosecond) {
  const PairCost pair =
      derive_pair(recipe({compute(100)}), recipe({communicate(1000)}), table(1'333'333, 1'000'000));
  EXPECT_EQ(pair.forward_end, Duration{134});
  EXPECT_EQ(pair.backward_end, Duration{1000});
}

TEST(Overlap, EmptyAndInstantRecipesEndAtOnce) {
  EXPECT_EQ(derive_pair({}, {}, {}), PairCost{});
  const PairCost pair = derive_pair(recipe({compute(0), communicate(0)}), recipe({compute(7)}), {});
  EXPECT_EQ(pair.duration, Duration{7});
}

TEST(Overlap, RefusesASlowdownOfNothing) {
  EXPECT_THROW(derive_pair(recipe({compute(1)}), recipe({communicate(1)}), table(0, 1'000'000)), BadInput);
}

TEST(Overlap, AWholePairsForwardEndsAfterItsOwnDurationAtTheLatestWithThePair) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{20}, {}, Duration{35}, {}});
  EXPECT_EQ(pair_cost(Stage{0}, Stage{3}, cost), (PairCost{Duration{35}, Duration{10}, Duration{35}, {}}));
  cost.measured_pairs[{Stage{0}, Stage{3}}] = Duration{8};
  EXPECT_EQ(pair_cost(Stage{0}, Stage{3}, cost), (PairCost{Duration{8}, Duration{8}, Duration{8}, {}}));
}

}  // namespace
}  // namespace plumb
