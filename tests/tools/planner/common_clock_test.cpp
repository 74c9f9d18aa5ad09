#include "tools/planner/common_clock.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

TimedWork work(WorkKind kind, std::int64_t ns, std::uint32_t mhz, std::uint32_t idle = 0) {
  TimedWork work;
  work.work.name = "layer";
  work.work.kind = kind;
  work.setting = {Share::partition, 32, 4, true, idle};
  work.work_class = "gemm";
  work.time.minimum = work.time.lower_quartile = work.time.median = work.time.upper_quartile =
      work.time.maximum = work.time.low = work.time.high = {ns};
  work.time.sm_clock_mhz = mhz;
  return work;
}

TimedWork with_exponent(TimedWork work, std::int64_t ppm, std::int64_t error_ppm) {
  work.time.clock_exponent_ppm = ppm;
  work.time.clock_exponent_error_ppm = error_ppm;
  return work;
}

const Setting full = work(WorkKind::forward, 1, 1).setting;

// Errors of 0.12 have weight 1 / (0.12^2 + 0.05^2) = 1 / 0.0169 each: the mean of two is known to 0.0919, of
// one to 0.13. The one that is known to 0 has weight 400.
TEST(CommonClock, StagesOfAKindKnowTogetherHowTheyFollowTheClock) {
  Calibration calibration;
  calibration.work = {with_exponent(work(WorkKind::forward, 1000, 1400), 700'000, 120'000),
                      with_exponent(work(WorkKind::forward, 1000, 1400), 500'000, 120'000)};
  EXPECT_NEAR(clock_exponents(calibration, full)[0], 0.6, 1e-9);
  calibration.work.pop_back();
  EXPECT_EQ(clock_exponents(calibration, full)[0], 0) << "nobody knows to a tenth";
  calibration.work.push_back(with_exponent(work(WorkKind::backward, 1000, 1400), 900'000, 0));
  const auto exponents = clock_exponents(calibration, full);
  EXPECT_NEAR(exponents[3], 0.9, 1e-9);
  // (0.7 / 0.0169 + 0.9 x 400) / (1 / 0.0169 + 400) = 401.42 / 459.17
  EXPECT_NEAR(exponents[0], 0.87423, 1e-5) << "what all kinds say";
  EXPECT_EQ(exponents[1], exponents[0]);
}

TEST(CommonClock, ExponentsAreOfTheSettingAloneAndNoLessThanNothing) {
  Calibration calibration;
  calibration.work = {with_exponent(work(WorkKind::forward, 1000, 1400, 2), 700'000, 10'000)};
  EXPECT_EQ(clock_exponents(calibration, full)[0], 0);
  calibration.work = {with_exponent(work(WorkKind::forward, 1000, 1400), -300'000, 10'000)};
  EXPECT_EQ(clock_exponents(calibration, full)[0], 0);
}

// All of the work counts cycles: 1,000 ns at 1,540 MHz are 1,100 at 1,400, the clock in the middle of 1,400,
// 1,400 and 1,540. The pair has a clock of its own, the optimizer none.
TEST(CommonClock, DurationsAreThoseOfTheClockInTheMiddle) {
  Calibration calibration;
  calibration.work = {with_exponent(work(WorkKind::forward, 1000, 1540), 1'000'000, 0),
                      work(WorkKind::backward_input, 2000, 1400), work(WorkKind::backward_weight, 2000, 1400),
                      work(WorkKind::forward_beside_backward, 3000, 1300),
                      work(WorkKind::optimizer, 500, 1700)};
  const Calibration at_one = at_common_clock(calibration);
  EXPECT_EQ(at_one.work[0].time.median, Duration{1100});
  EXPECT_EQ(at_one.work[0].time.maximum, Duration{1100});
  EXPECT_EQ(at_one.work[0].time.sm_clock_mhz, 1400u);
  for (std::size_t k = 1; k < 5; ++k) EXPECT_EQ(at_one.work[k], calibration.work[k]) << k;
}

// Under partial load 1,000 ns at 1,540 MHz beside 1,400 and 1,400: with the exponent of full load, as above.
TEST(CommonClock, PartialLoadsFollowTheClockAsFullLoadDoes) {
  Calibration calibration;
  calibration.work = {with_exponent(work(WorkKind::forward, 1000, 1200), 1'000'000, 0),
                      work(WorkKind::forward, 1000, 1540, 2), work(WorkKind::backward_input, 1, 1400, 2),
                      work(WorkKind::backward_weight, 1, 1400, 2)};
  EXPECT_EQ(at_common_clock(calibration).work[1].time.median, Duration{1100});
}

TEST(CommonClock, WorkThatSharesNoPowerOrHasNoClockStays) {
  Calibration calibration;
  calibration.work = {with_exponent(work(WorkKind::forward, 1000, 1540), 1'000'000, 0),
                      work(WorkKind::backward_input, 2000, 1400), work(WorkKind::backward_weight, 2000, 0)};
  EXPECT_EQ(at_common_clock(calibration).work[2].time.median, Duration{2000}) << "it has no clock";
  for (TimedWork& one : calibration.work) one.setting = {Share::whole_gpu, 0, 1, false};
  EXPECT_EQ(at_common_clock(calibration), calibration);
}

}  // namespace
}  // namespace plumb
