#include "calibrate/round_robin.hpp"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr Duration ms{1'000'000};
constexpr StoppingRule rule{0.01, 6, 100, Duration{100'000'000}};

// Every one of them `times` times, all samples alike.
void take(RoundRobin& turns, std::size_t things, std::size_t times, bool on_time = true) {
  for (std::size_t k = 0; k < things * times; ++k) turns.take(turns.next(), {ms, 1'500}, on_time);
}

TEST(RoundRobin, GiveEachThingOneTurnARoundInAnotherOrderEachTime) {
  RoundRobin turns(5, rule, ms, ms * 1'000);
  std::set<std::vector<std::size_t>> orders;
  for (int round = 0; round < 20; ++round) {
    std::vector<std::size_t> order(5);
    for (std::size_t& thing : order) thing = turns.next();
    std::vector<std::size_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, (std::vector<std::size_t>{0, 1, 2, 3, 4}));
    orders.insert(order);
  }
  // Of 120 orders 20 are expected to meet 120 (1 - (119/120)^20) = 18.5 different ones.
  EXPECT_GE(orders.size(), 14u);
}

TEST(RoundRobin, GoOnUntilTheLastThingIsPreciseAndAllWereObservedLongEnough) {
  RoundRobin turns(2, rule, ms * 50, ms * 10'000);
  for (int k = 0; k < 6; ++k) turns.take(0, {ms, 1'500}, true);
  for (int k = 0; k < 5; ++k) turns.take(1, {ms, 1'500}, true);
  EXPECT_FALSE(turns.over(ms * 60)) << "one has five samples, and the rule wants six";
  turns.take(1, {ms, 1'500}, true);
  EXPECT_FALSE(turns.over(ms * 49));
  EXPECT_TRUE(turns.over(ms * 50));
}

// Two things with 100 ms each: 200 ms, and no more than 150 where that is the most.
TEST(RoundRobin, EndWithTheBudgetOfAllThings) {
  const auto wild = [](RoundRobin& turns) {
    for (int k = 0; k < 20; ++k) turns.take(turns.next(), {ms * (1 + k), 1'500}, true);
  };
  RoundRobin turns(2, rule, ms * 50, ms * 10'000);
  wild(turns);
  EXPECT_FALSE(turns.over(ms * 199));
  EXPECT_TRUE(turns.over(ms * 200));
  RoundRobin shorter(2, rule, ms * 50, ms * 150);
  wild(shorter);
  EXPECT_TRUE(shorter.over(ms * 150));
}

TEST(RoundRobin, WhatTheHostWasLateForDoesNotCount) {
  RoundRobin turns(1, rule, ms, ms * 1'000);
  take(turns, 1, 3);
  turns.take(0, {ms * 9, 1'500}, false);
  take(turns, 1, 3);
  EXPECT_EQ(turns.counting(0), (std::vector<std::size_t>{0, 1, 2, 4, 5, 6}));
  EXPECT_EQ(turns.samples(0), std::vector<Sample>(6, Sample{ms, 1'500}));
}

TEST(RoundRobin, WhereTheHostIsAlwaysLateThatIsHowItRuns) {
  RoundRobin turns(1, rule, ms, ms * 1'000);
  take(turns, 1, 8, false);
  EXPECT_FALSE(turns.over(ms * 99));
  EXPECT_TRUE(turns.over(ms * 100)) << "the budget; the late ones are as many as the rule asks for";
  EXPECT_EQ(turns.samples(0).size(), 8u);
}

TEST(RoundRobin, AreNotOverBeforeEachThingWasSeenUnlessTenTimesTheBudgetIsSpent) {
  RoundRobin turns(2, rule, ms, ms * 1'000);
  take(turns, 2, 5);
  EXPECT_FALSE(turns.over(ms * 1'999));
  EXPECT_TRUE(turns.over(ms * 2'000));
}

}  // namespace
}  // namespace plumb
