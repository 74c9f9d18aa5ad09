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

// Only full load was measured.
SharedPower full_load(std::uint32_t mhz, std::uint32_t most) {
  return {{{1, mhz, {1'000'000, 1'000'000, 1'000'000, 1'000'000, 1'000'000}}}, most};
}

// 1F1B on 2 ranks with 2 microbatches and F = 1 ms, B = 2 ms: a rank computes 6 of (2 + 1)(1 + 2) = 9 ms, so
// u = 2/3. All times shrink alike (messages are free), so u stays, and the step takes 9 ms x cube root of 2/3
// = 7.862237 ms.
TEST(SharedPower, APipelineThatIsBusyTwoThirdsOfTheTimeRunsAtTheCubeRoot) {
  const Prediction prediction =
      predict_at_shared_power(two_ranks(), milliseconds(1, 2), {}, full_load(1000, 2000), Detail::actions);
  EXPECT_NEAR(static_cast<double>(prediction.report.step_time.ns), 7'862'237.0, 20.0);
  EXPECT_NEAR(prediction.report.idle_share, 1.0 / 3, 1e-5);
  EXPECT_EQ(prediction.sm_clock_mhz, 1145u);  // 1000 MHz / cube root of 2/3
}

TEST(SharedPower, TheClockNeverExceedsWhatTheChipCan) {
  // 1900 of 2000 MHz under full load: at most 5 % shorter, whatever stands idle.
  const Prediction prediction =
      predict_at_shared_power(two_ranks(), milliseconds(1, 2), {}, full_load(1900, 2000), Detail::actions);
  EXPECT_EQ(prediction.report.step_time, Duration{8'550'000});
  EXPECT_EQ(prediction.sm_clock_mhz, 2000u);
}

// With one of two ranks idle, forwards were measured to last 0.85 as long and backwards 0.91, at 1300 MHz.
// Halfway between (u = 3/4) that is 0.925 and 0.955. 1300 is 1000 x 0.5^-0.3785, and 1000 x 0.75^-0.3785 is
// 1115.
TEST(SharedPower, BetweenTwoMeasuredLoadsEveryKindHasItsOwnPace) {
  SharedPower power = full_load(1000, 2000);
  power.loads.insert(power.loads.begin(), {0.5, 1300, {850'000, 900'000, 800'000, 910'000, 700'000}});
  const SharedPower::Load between = power.at(0.75);
  EXPECT_EQ(between.sm_clock_mhz, 1115u);
  EXPECT_EQ(between.pace_ppm, (std::array<std::int64_t, 5>{925'000, 950'000, 900'000, 955'000, 850'000}));
  EXPECT_EQ(power.at(1), power.loads.back());
  EXPECT_EQ(power.at(0.2).pace_ppm, power.loads.front().pace_ppm) << "no faster than what was measured";
}

// 1F1B on 2 ranks with 2 microbatches: rank 0 runs F0 F1 . B0 B1 and rank 1 . F0 B0 F1 B1 . While alone (load
// 1/2) an op takes half of what it takes beside a busy neighbour. With F = 1 ms and B = 2 ms under full load:
//   0F0 is alone: 0.5 ms. Then 0F1 beside 1F0, 1 ms each, until 1.5. 1B0 is alone, 1 ms, until 2.5, when rank
//   1 goes on with 1F1 (1 ms) beside 0B0 (2 ms), until 3.5. 1B1 runs beside 0B0 for 1 ms more, and alone for
//   the rest; its pace is the mean of both over the d ms that it lasts, 1 for 1 ms and 1/2 for d - 1:
//   d = 2 ms x (1 + (d - 1) / 2) / d, so d^2 = d + 1, d = 1.618 ms. 0B1 follows it alone: 1 ms.
TEST(SharedPower, AnOpGoesAtThePaceOfTheRanksThatAreBusyMeanwhile) {
  SharedPower power = full_load(1000, 2000);
  power.loads.insert(power.loads.begin(), {0.5, 1300, {500'000, 500'000, 500'000, 500'000, 500'000}});
  const Prediction prediction =
      predict_at_shared_power(two_ranks(), milliseconds(1, 2), {}, power, Detail::actions);
  const auto& first = prediction.timeline.ranks[0].compute;
  const auto& second = prediction.timeline.ranks[1].compute;
  const auto milli = [](const ComputeSpan& span) {
    return static_cast<double>((span.end - span.begin).ns) / 1e6;
  };
  EXPECT_NEAR(milli(first[0]), 0.5, 1e-3);
  EXPECT_NEAR(milli(first[1]), 1, 1e-3);
  EXPECT_NEAR(milli(second[1]), 1, 1e-3);
  EXPECT_NEAR(milli(first[2]), 2, 1e-2);
  EXPECT_NEAR(milli(second[3]), 1.618, 1e-2);
  EXPECT_NEAR(static_cast<double>(prediction.report.step_time.ns) / 1e6, 3.5 + 1.618 + 1, 2e-2);
}

// With one of two ranks idle a forward takes 0.8 as long, at 1,440 MHz instead of 1,000; it follows the
// clock's square root, so 1.2 of that is the clock's, and 0.96 would be left at 1,000 MHz. Pairs have a clock
// of their own: 900 and 1,296 MHz.
TEST(SharedPower, TheClocksShareOfAPaceGoesByTheClock) {
  SharedPower power = full_load(1000, 2000);
  power.loads.back().pair_clock_mhz = 900;
  power.loads.insert(power.loads.begin(), {0.5, 1440, {800'000, 800'000, 800'000, 800'000, 800'000}, 1296});
  EXPECT_EQ(power.pace_ppm(0, 0.5, 1000), 800'000) << "without an exponent there is one pace";
  power.clock_exponent.fill(0.5);
  EXPECT_EQ(power.pace_ppm(0, 0.5, 1440), 800'000);
  EXPECT_EQ(power.pace_ppm(0, 0.5, 1000), 960'000);
  EXPECT_EQ(power.pace_ppm(0, 1, 1440), 833'333);
  EXPECT_EQ(power.pace_ppm(4, 0.5, 900), 960'000);
  EXPECT_DOUBLE_EQ(power.clock(1, 0), 1000);
  EXPECT_DOUBLE_EQ(power.clock(1, 0.5), 950);
  EXPECT_DOUBLE_EQ(power.clock(0.5, 1), 1296);
}

// 1F1B on 2 ranks with 2 microbatches of F = 1 ms and B = 2 ms: rank 0 runs F0 F1 . B0 B1 and rank 1 . F0 B0
// F1 B1. Nothing hangs on idle neighbours here. Beside a forward a forward takes 0.9 ms, beside a backward a
// backward 2.2 ms, and a forward beside a backward 1.5 ms:
//   0F0 is alone: 1 ms. 0F1 and 1F0 are beside each other, 0.9 ms, until 1.9. 1B0 is alone, until 3.9. Then
//   0B0 is beside 1F1 (a backward beside a forward as ever) and, when that ends after 1.5 ms, beside 1B1.
TEST(SharedPower, AnOpGoesByWhatItsNeighboursCompute) {
  SharedPower power = full_load(1000, 2000);
  power.loads.insert(power.loads.begin(), {0.5, 1000, power.loads.back().pace_ppm});
  power.beside[0] = {0.9, 1.5, 1};
  power.beside[3] = {1, 1.1, 1};
  const Prediction prediction =
      predict_at_shared_power(two_ranks(), milliseconds(1, 2), {}, power, Detail::actions);
  const auto& first = prediction.timeline.ranks[0].compute;
  const auto& second = prediction.timeline.ranks[1].compute;
  const auto milli = [](const ComputeSpan& span) {
    return static_cast<double>((span.end - span.begin).ns) / 1e6;
  };
  EXPECT_NEAR(milli(first[0]), 1, 1e-3);
  EXPECT_NEAR(milli(first[1]), 0.9, 1e-3);
  EXPECT_NEAR(milli(second[0]), 0.9, 1e-3);
  EXPECT_NEAR(milli(second[1]), 2, 1e-3);
  EXPECT_NEAR(milli(second[2]), 1.5, 1e-2);
  // For d ms, of which d - 1.5 are beside a backward: d = 2 (1 + 0.1 (d - 1.5) / d), so d^2 = 2.2 d - 0.3.
  EXPECT_NEAR(milli(first[2]), 2.0539, 1e-2);
}

TimedWork layer(WorkKind kind, std::int64_t ns, std::uint32_t mhz, std::uint32_t idle) {
  TimedWork work;
  work.work.name = "layer";
  work.work.kind = kind;
  work.setting = {Share::partition, 32, 4, true, idle};
  work.work_class = "gemm";
  work.time.median = {ns};
  work.time.sm_clock_mhz = mhz;
  return work;
}

TEST(SharedPower, OnlySharesOfOneGpuThatWereMeasuredTogetherHaveACommonClock) {
  Calibration calibration;
  calibration.provenance.most_sm_clock_mhz = 1980;
  calibration.work = {layer(WorkKind::forward, 1000, 1360, 0)};
  ASSERT_TRUE(shared_power(calibration));
  EXPECT_EQ(*shared_power(calibration), full_load(1360, 1980));

  calibration.work.front().setting = {Share::whole_gpu, 0, 1, false};
  EXPECT_FALSE(shared_power(calibration));
  calibration.work.front().setting = {Share::partition, 32, 4, true};
  calibration.work.front().time.sm_clock_mhz = 0;
  EXPECT_FALSE(shared_power(calibration));
}

// Under full load a forward took 1,000 ns and all others 2,000 ns; with two of four ranks idle 900, 1,800 and
// the pair 1,500.
TEST(SharedPower, PartialLoadsAreMeasuredAgainstFullLoad) {
  Calibration calibration;
  calibration.provenance.most_sm_clock_mhz = 1980;
  for (std::size_t k = 0; k < 5; ++k) {
    const auto kind = static_cast<WorkKind>(k);
    calibration.work.push_back(layer(kind, k == 0 ? 1000 : 2000, k == 0 ? 1500 : 1400, 0));
  }
  EXPECT_EQ(shared_power(calibration)->loads.size(), 1u);
  for (std::size_t k = 0; k < 4; ++k)
    calibration.work.push_back(layer(static_cast<WorkKind>(k), k == 0 ? 900 : 1800, 1700, 2));
  EXPECT_EQ(shared_power(calibration)->loads.size(), 1u) << "the pair is missing";
  calibration.work.push_back(layer(WorkKind::forward_beside_backward, 1500, 1700, 2));
  const SharedPower power = *shared_power(calibration);
  ASSERT_EQ(power.loads.size(), 2u);
  EXPECT_EQ(power.loads[0].busy, 0.5);
  EXPECT_EQ(power.loads[0].sm_clock_mhz, 1700u);
  EXPECT_EQ(power.loads[0].pair_clock_mhz, 1700u);
  EXPECT_EQ(power.loads[1].pair_clock_mhz, 1400u);
  EXPECT_EQ(power.clock_exponent, (std::array<double, 5>{})) << "nobody measured them";
  EXPECT_EQ(power.loads[0].pace_ppm,
            (std::array<std::int64_t, 5>{900'000, 900'000, 900'000, 900'000, 750'000}));
  EXPECT_EQ(power.full_mhz(), 1400u) << "of 1,500 and three times 1,400; the pair's is its own";
}

// A forward takes 1,000 ns at 1,500 MHz in usual company, and 900 at 1,600 MHz among forwards. All of it
// counts cycles, so that those are 900 x 1,600 / 1,500 = 960 at 1,500.
TEST(SharedPower, WhatNeighboursComputeIsComparedAtOneClock) {
  Calibration calibration;
  calibration.provenance.most_sm_clock_mhz = 1980;
  for (const std::uint32_t idle : {0u, 2u}) {
    for (std::size_t k = 0; k < 5; ++k) {
      calibration.work.push_back(layer(static_cast<WorkKind>(k), 1000, idle ? 1800 : 1500, idle));
      calibration.work.back().time.clock_exponent_ppm = 1'000'000;
    }
  }
  calibration.work.push_back(layer(WorkKind::forward, 900, 1600, 0));
  calibration.work.back().setting.others_compute = OthersCompute::forwards;
  const SharedPower power = *shared_power(calibration);
  ASSERT_EQ(power.loads.size(), 2u) << "other company is no partial load";
  EXPECT_NEAR(power.beside[0][0], 0.96, 1e-9);
  EXPECT_EQ(power.beside[0][1], 1) << "nobody measured it";
  EXPECT_EQ(power.beside[1], (SharedPower::Company{1, 1, 1}));
}

}  // namespace
}  // namespace plumb
