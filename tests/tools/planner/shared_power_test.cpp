#include "tools/planner/shared_power.hpp"

#include "schedules/generators/generator.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

LoweredSchedule two_ranks() {
  return make_lowered(generator("1f1b"), Shape{2, 2, std::nullopt, std::nullopt}, {});
}

CostModel milliseconds(std::int64_t forward, std::int64_t backward) {
  UnitCosts costs;
  costs.forward = Duration{forward * 1'000'000};
  costs.backward = Duration{backward * 1'000'000};
  return unit_costs(costs);
}

// 1F1B on 2 ranks with 2 microbatches and F = 1 ms, B = 2 ms: a rank computes 6 of (2 + 1)(1 + 2) = 9 ms, so
// u = 2/3. All times shrink alike (messages are free), so u stays, and the step takes 9 ms x cube root of 2/3
// = 7.862237 ms.
TEST(SharedPower, APipelineThatIsBusyTwoThirdsOfTheTimeRunsAtTheCubeRoot) {
  const Prediction prediction =
      predict_at_shared_power(two_ranks(), milliseconds(1, 2), {}, {1000, 2000}, Detail::actions);
  EXPECT_NEAR(static_cast<double>(prediction.report.step_time.ns), 7'862'237.0, 20.0);
  EXPECT_NEAR(prediction.report.idle_share, 1.0 / 3, 1e-5);
  EXPECT_EQ(prediction.sm_clock_mhz, 1145u);  // 1000 MHz / cube root of 2/3
}

TEST(SharedPower, TheClockNeverExceedsWhatTheChipCan) {
  // 1900 of 2000 MHz under full load: at most 5 % shorter, whatever stands idle.
  const Prediction prediction =
      predict_at_shared_power(two_ranks(), milliseconds(1, 2), {}, {1900, 2000}, Detail::actions);
  EXPECT_EQ(prediction.report.step_time, Duration{8'550'000});
  EXPECT_EQ(prediction.sm_clock_mhz, 2000u);
}

TEST(SharedPower, OnlySharesOfOneGpuThatWereMeasuredTogetherHaveACommonClock) {
  Calibration calibration;
  calibration.provenance.most_sm_clock_mhz = 1980;
  TimedWork work;
  work.work.name = "layer";
  work.setting = {Share::partition, 32, 4, true};
  work.time.sm_clock_mhz = 1360;
  calibration.work = {work};
  ASSERT_TRUE(shared_clock(calibration));
  EXPECT_EQ(shared_clock(calibration)->loaded_mhz, 1360u);
  EXPECT_EQ(shared_clock(calibration)->most_mhz, 1980u);

  calibration.work.front().setting = {Share::whole_gpu, 0, 1, false};
  EXPECT_FALSE(shared_clock(calibration));
  calibration.work.front().setting = {Share::partition, 32, 4, true};
  calibration.work.front().time.sm_clock_mhz = 0;
  EXPECT_FALSE(shared_clock(calibration));
}

}  // namespace
}  // namespace plumb
