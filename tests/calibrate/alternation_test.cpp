#include "calibrate/alternation.hpp"

#include <array>
#include <cmath>

#include <gtest/gtest.h>

namespace plumb {
namespace {

Sample of(std::int64_t ns) { return {{ns}, 1400}; }

// A device whose clock falls steadily: whatever begins at `t` ns lasts 1 + t / 10^6 times as long as it did.
class Slowing {
 public:
  Sample run(std::int64_t ns) {
    const auto lasted = std::llround(static_cast<double>(ns) * (1 + static_cast<double>(t_.ns) / 1e6));
    t_ += Duration{lasted};
    return of(lasted);
  }
  Duration now() const { return t_; }

 private:
  Duration t_;
};

// 10 and 20 ns in turns while the clock falls by a half: medians taken one after the other would be apart by
// that; in turns the second is twice the first, to what the clock loses from a sample to the next.
TEST(Alternation, WhatSlowsBothCancelsInTheirRatio) {
  Slowing device;
  Alternation rounds;
  for (int k = 0; k < 15'000; ++k) {
    const Sample first = device.run(10);
    rounds.add({first, device.run(20)});
  }
  EXPECT_GT(device.now().ns, 500'000);
  EXPECT_NEAR(static_cast<double>(rounds.ratio(1, 0).ppm), 2e6, 60'000);
  const std::int64_t slower = rounds.of(0).samples().back().duration.ns;
  EXPECT_GE(slower, 14) << "10 ns at first";
}

// Round by round 100, 102, 104 for one and 200, 204 for the other, whose samples lie between: 200 / 101 and
// 204 / 103, and 102 / 202 on the way back; the first and the last sample have one neighbour.
TEST(Alternation, ASampleIsComparedWithTheTwoAroundIt) {
  Alternation rounds;
  rounds.add({of(100), of(202)});
  rounds.add({of(102), of(206)});
  rounds.add({of(104), of(208)});
  const Ratio ratio = rounds.ratio(1, 0);
  EXPECT_EQ(ratio.ppm, 2'000'000) << "202 / 101, 206 / 103, 208 / 104";
  EXPECT_EQ(ratio.low_ppm, 2'000'000);
  EXPECT_EQ(ratio.high_ppm, 2'000'000);
  // 100 / 202, 102 / 204, 104 / 207.
  EXPECT_EQ(rounds.ratio(0, 1).ppm, 500'000);
  EXPECT_EQ(rounds.ratio(0, 1).low_ppm, 495'050);
}

TEST(Alternation, ARatiosIntervalIsThatOfAMedian) {
  Alternation rounds;
  // Of ten the second and the ninth enclose the median with 95 % confidence.
  for (std::int64_t k = 1; k <= 10; ++k) rounds.add({of(100), of(100 * k)});
  const Ratio ratio = rounds.ratio(1, 0);
  EXPECT_EQ(ratio.ppm, 5'500'000);
  EXPECT_EQ(ratio.low_ppm, 2'000'000);
  EXPECT_EQ(ratio.high_ppm, 9'000'000);
  EXPECT_DOUBLE_EQ(relative_width(ratio), 7.0 / 5.5);
}

// Two things of 10 and 30 ns, the clock being their sum.
class Steady {
 public:
  Alternation take(const AlternationRule& rule) {
    const std::array<std::function<Sample()>, 2> things{[&] { return run(10, 0); },
                                                        [&] { return run(30, noise); }};
    return alternate(things, rule, [&] { return now; });
  }
  Sample run(std::int64_t ns, std::int64_t more) {
    ++runs;
    now += Duration{ns};
    return of(ns + (runs / 2 % 2 == 0 ? more : 0));
  }
  Duration now;
  int runs = 0;
  std::int64_t noise = 0;
};

TEST(Alternation, GoesOnUntilTheRatioIsPrecise) {
  Steady device;
  const Alternation rounds = device.take({{0.01, 7, 100, Duration{1'000'000}}, {}, {}});
  EXPECT_EQ(rounds.size(), 7u);
  EXPECT_EQ(device.runs, 2 * 8) << "the first round counts for nothing";
  EXPECT_EQ(rounds.ratio(1, 0).ppm, 3'000'000);
}

TEST(Alternation, RoundsOfTheWarmUpCountForNothingAndTheRestIsObservedLongEnough) {
  Steady device;
  // 400 ns of warming are ten rounds; 800 more are twenty.
  const Alternation rounds = device.take({{0.01, 7, 100, Duration{1'000'000}}, Duration{400}, Duration{800}});
  EXPECT_EQ(rounds.size(), 20u);
  EXPECT_EQ(device.runs, 2 * 30);
}

TEST(Alternation, WhatNeverBecomesPreciseEndsWithTheBudget) {
  Steady device;
  device.noise = 10;  // 30 or 40, in turns
  EXPECT_EQ(device.take({{0.01, 7, 1'000, Duration{2'000}}, {}, {}}).size(), 50u);
  EXPECT_EQ(device.take({{0.01, 7, 30, Duration{2'000}}, {}, {}}).size(), 30u) << "or at the most samples";
  // Seven samples at the least, but no more than ten budgets for them.
  EXPECT_EQ(device.take({{0.01, 7, 1'000, Duration{100}}, {}, {}}).size(), 7u);
  EXPECT_EQ(device.take({{0.01, 100, 1'000, Duration{100}}, {}, {}}).size(), 25u);
}

}  // namespace
}  // namespace plumb
