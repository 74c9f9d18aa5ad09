#include "tools/planner/step_clock.hpp"

#include <cmath>

#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr TimePoint at(std::int64_t us) { return {us * 1'000}; }

// Two ranks: one computes from 0 to 500 us, the other the last microsecond of 1 ms.
Timeline half_a_step() {
  Timeline timeline;
  timeline.ranks.resize(2);
  ComputeSpan span;
  span.action = Action(Op{Stage{0}, Microbatch{0}, OpKind::forward});
  span.begin = at(0);
  span.end = at(500);
  timeline.ranks[0].compute.push_back(span);
  span.begin = at(999);
  span.end = at(1000);
  timeline.ranks[1].compute.push_back(span);
  return timeline;
}

double load(double busy, double /*pairs*/) { return 1000 * busy; }

TEST(StepClock, WithoutLagIsTheClockOfTheInstant) {
  const StepClock clock(half_a_step(), Duration{}, load);
  EXPECT_NEAR(clock.mean_mhz(at(100), at(400)), 500, 1e-6);
  EXPECT_NEAR(clock.mean_mhz(at(600), at(900)), 0, 1e-6);
  EXPECT_NEAR(clock.mean_mhz(), 250, 1);
}

// y follows x, 1 in the first half and 0 in the second, with a lag of T / (2 ln 2): in half a step half of
// the difference is made up. From step to step y must return: y(0) = y(T/2) / 2 and y(T/2) = 1 - (1 - y(0)) /
// 2, so y(0) = 1/3. The mean over the first half is 1 - 2/3 x (1 - 1/2) / ln 2 = 0.5191, over the second 2/3
// x 1/2 / ln 2 = 0.4809, of one rank in two.
TEST(StepClock, FollowsTheLoadSlowlyFromOneStepIntoTheNext) {
  const Duration lag{static_cast<std::int64_t>(1'000'000 / (2 * std::log(2.0)))};
  const StepClock clock(half_a_step(), lag, load);
  EXPECT_NEAR(clock.mean_mhz(at(0), at(500)), 500 * 0.5191, 1);
  EXPECT_NEAR(clock.mean_mhz(at(500), at(1000)), 500 * 0.4809, 1);
}

TEST(StepClock, AFarLongerLagKnowsOnlyTheMean) {
  const StepClock clock(half_a_step(), Duration{1'000'000'000}, load);
  EXPECT_NEAR(clock.mean_mhz(at(0), at(100)), 250, 1);
  EXPECT_NEAR(clock.mean_mhz(at(900), at(1000)), 250, 1);
}

TEST(StepClock, KnowsWhichPartOfTheTimePairsTake) {
  Timeline timeline = half_a_step();
  timeline.ranks[0].compute[0].action =
      Action(Op{Stage{0}, Microbatch{1}, OpKind::forward}, Op{Stage{1}, Microbatch{0}, OpKind::backward});
  const StepClock clock(timeline, Duration{},
                        [](double busy, double pairs) { return busy > 0 ? 1000 + pairs : 0; });
  EXPECT_NEAR(clock.mean_mhz(at(100), at(400)), 1001, 1e-6);
  EXPECT_NEAR(clock.mean_mhz(at(1000) - Duration{400}, at(1000)), 1000, 1e-6);
}

}  // namespace
}  // namespace plumb
