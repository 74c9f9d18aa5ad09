#include "calibrate/fit.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace plumb {
namespace {

// Latency in ns and bytes a ns of three protocols, each from a size on; continuous where they meet.
std::int64_t three_protocols(std::int64_t bytes) {
  const double x = static_cast<double>(bytes);
  if (bytes <= 65'536) return std::llround(10'000 + x / 8);                 // 18,192 at 64 KiB
  if (bytes <= 1'048'576) return std::llround(18'192 + (x - 65'536) / 40);  // 42,768 at 1 MiB
  return std::llround(42'768 + (x - 1'048'576) / 200);
}

std::vector<SizedDuration> doubling(std::int64_t from, std::int64_t to, double noise, std::mt19937& random) {
  std::normal_distribution<double> relative(1, noise);
  std::vector<SizedDuration> points;
  for (std::int64_t bytes = from; bytes <= to; bytes *= 2) {
    points.push_back(
        {{bytes}, {std::llround(static_cast<double>(three_protocols(bytes)) * relative(random))}});
  }
  return points;
}

TEST(Fit, OneLineNeedsOnePiece) {
  std::vector<SizedDuration> points;
  for (std::int64_t k = 0; k <= 20; ++k) points.push_back({{k * 100'000}, {5'000 + k * 1'000}});
  const LinkFit fit = fit_link(points);
  ASSERT_EQ(fit.knots.size(), 2u);
  EXPECT_EQ(fit.worst_residual_ppm, 0u);
  EXPECT_EQ(fit.worst_held_out_ppm, 0u);
  // 100,000 bytes in 1,000 ns.
  const Link link = link_at(fit, {250'000});
  EXPECT_EQ(link.latency.ns, 5'000);
  EXPECT_NEAR(link.bandwidth->value, 1e11, 1);
}

TEST(Fit, FindsWhereTheProtocolChanges) {
  std::mt19937 random(1);
  const LinkFit fit = fit_link(doubling(1024, 1 << 28, 0, random));
  ASSERT_EQ(fit.knots.size(), 4u);
  EXPECT_EQ(fit.knots[1], (SizedDuration{{65'536}, {18'192}}));
  EXPECT_EQ(fit.knots[2], (SizedDuration{{1'048'576}, {42'768}}));
  EXPECT_NEAR(link_at(fit, {300'000}).bandwidth->value, 40e9, 1e6);
}

TEST(Fit, HeldOutSizesOfNoisyMeasurements) {
  // Sizes between the measured powers of two, 1 % noise: issue 4 asks for 10 % at 90 % of them.
  std::mt19937 random(9);
  int good = 0;
  int all = 0;
  for (int set = 0; set < 20; ++set) {
    const LinkFit fit = fit_link(doubling(1024, 1 << 28, 0.01, random));
    EXPECT_LE(fit.knots.size(), 6u);
    for (std::int64_t bytes = 1536; bytes < 1 << 28; bytes *= 2) {
      const auto truth = static_cast<double>(three_protocols(bytes));
      const FittedDuration fitted = duration_at(fit, {bytes});
      EXPECT_FALSE(fitted.extrapolated);
      good += std::abs(static_cast<double>(fitted.duration.ns) - truth) < 0.03 * truth;
      ++all;
    }
  }
  EXPECT_GE(good, all * 97 / 100) << good << " of " << all << " within 3 %";
}

TEST(Fit, SaysWhenASizeIsOutsideWhatWasMeasured) {
  const std::vector<SizedDuration> points{{{1000}, {100}}, {{2000}, {150}}};
  const LinkFit fit = fit_link(points);
  EXPECT_EQ(duration_at(fit, {1000}), (FittedDuration{{100}, false}));
  EXPECT_EQ(duration_at(fit, {1500}), (FittedDuration{{125}, false}));
  EXPECT_EQ(duration_at(fit, {2000}), (FittedDuration{{150}, false}));
  EXPECT_EQ(duration_at(fit, {4000}), (FittedDuration{{250}, true}));
  EXPECT_EQ(duration_at(fit, {10}), (FittedDuration{{100}, true}));
}

TEST(Fit, OneSizeIsAConstantBelowAndABandwidthAbove) {
  const std::vector<SizedDuration> points{{{1000}, {90}}, {{1000}, {110}}, {{1000}, {100}}};
  const LinkFit fit = fit_link(points);
  EXPECT_EQ(fit.knots, (std::vector<SizedDuration>{{{1000}, {100}}}));
  EXPECT_EQ(duration_at(fit, {500}), (FittedDuration{{100}, true}));
  EXPECT_EQ(duration_at(fit, {2000}), (FittedDuration{{200}, true}));
  EXPECT_EQ(fit.worst_held_out_ppm, 0u);
}

// 1 us and a ns for 4 bytes, and beyond 4 MiB 2 us more for what is no whole number of 4,096 bytes.
TEST(Fit, ARaggedSizeTakesAsMuchMoreAsThoseThatWereMeasured) {
  const auto takes = [](std::int64_t bytes) {
    return 1'000 + bytes / 4 + (bytes > 4 << 20 && bytes % 4096 != 0 ? 2'000 : 0);
  };
  std::vector<SizedDuration> points;
  for (const std::int64_t bytes : {1 << 20, 4 << 20, (6 << 20) + 2048, 8 << 20, (24 << 20) + 2048, 32 << 20})
    points.push_back({{bytes}, {takes(bytes)}});
  const LinkFit fit = fit_link(points);
  EXPECT_EQ(fit.knots.size(), 2u) << "ragged sizes make no piece of their own";
  EXPECT_EQ(fit.ragged, Duration{2'000});
  EXPECT_EQ(fit.worst_residual_ppm, 0u);
  EXPECT_EQ(fit.worst_held_out_ppm, 0u) << "either ragged size predicts the other";
  // 5 MiB are whole pages, 10,000,000 bytes are not; 3,000,000 are copied in one piece.
  EXPECT_EQ(duration_at(fit, {5 << 20}).duration.ns, takes(5 << 20));
  EXPECT_EQ(duration_at(fit, {10'000'000}).duration.ns, takes(10'000'000));
  EXPECT_EQ(duration_at(fit, {3'000'000}).duration.ns, takes(3'000'000));
  EXPECT_EQ(link_at(fit, {10'000'000}).latency.ns, 3'000);
  // With nothing else to stand on they are sizes as any.
  EXPECT_EQ(fit_link(std::vector<SizedDuration>{{{10'000'000}, {7'000}}}).knots.front().duration.ns, 7'000);
}

TEST(Fit, MoreBytesNeverTakeLessTime) {
  const std::vector<SizedDuration> points{{{1000}, {300}}, {{2000}, {200}}, {{4000}, {400}}, {{8000}, {390}}};
  const LinkFit fit = fit_link(points);
  for (std::size_t k = 1; k < fit.knots.size(); ++k) {
    EXPECT_LT(fit.knots[k - 1].size, fit.knots[k].size);
    EXPECT_LE(fit.knots[k - 1].duration, fit.knots[k].duration);
  }
  EXPECT_GT(fit.worst_residual_ppm, 0u) << "what the fit can't follow shows in its residual";
}

// Four sizes, the first measured twice as long as the others: the level with the least squared relative
// residuals is (1/40 + 3/20) / (1/40^2 + 3/20^2) = 21.54, not 40 for all that comes behind it.
TEST(Fit, ASizeThatWasMeasuredTooHighLiftsNobodyBehindItButByItsShare) {
  const LinkFit fit = fit_link(std::vector<SizedDuration>{
      {{1000}, {40'000}}, {{2000}, {20'000}}, {{4000}, {20'000}}, {{8000}, {20'000}}});
  for (const std::int64_t size : {1000, 3000, 8000}) EXPECT_EQ(duration_at(fit, {size}).duration.ns, 21'538);
}

TEST(Fit, ALinkSaysWhatTheFitSays) {
  std::mt19937 random(4);
  const LinkFit fit = fit_link(doubling(256, 1 << 26, 0.02, random));
  for (std::int64_t bytes = 1; bytes < 1 << 28; bytes = bytes * 3 + 1) {
    const Link link = link_at(fit, {bytes});
    EXPECT_GE(link.latency.ns, 0);
    double ns = static_cast<double>(link.latency.ns);
    if (link.bandwidth) ns += static_cast<double>(bytes) / link.bandwidth->value * 1e9;
    EXPECT_NEAR(ns, static_cast<double>(duration_at(fit, {bytes}).duration.ns), 1.5) << bytes;
  }
}

TEST(Fit, APieceThatWouldStartBelowZeroIsABandwidth) {
  // 1 MB in 1 ms, 2 MB in 3 ms: the line meets 0 bytes at -1 ms.
  const std::vector<SizedDuration> points{{{1'000'000}, {1'000'000}}, {{2'000'000}, {3'000'000}}};
  const Link link = link_at(fit_link(points), {1'500'000});
  EXPECT_EQ(link.latency.ns, 0);
  EXPECT_NEAR(link.bandwidth->value, 0.75e9, 1);  // 1.5 MB in 2 ms
}

TEST(Fit, MeasuredRingOnOneH200) {
  // Ring send and receive of 8 processes on one H200 under MPS: 4 KB 48 us, 256 KB 384 us, 4 MB 3.8 ms, 64 MB
  // 40 ms. A straight line through 4 KB and 4 MB says 280 us for 256 KB; the piece that follows keeps all
  // four.
  const std::vector<SizedDuration> points{
      {{4'096}, {48'000}}, {{262'144}, {384'000}}, {{4'194'304}, {3'800'000}}, {{67'108'864}, {40'000'000}}};
  const LinkFit fit = fit_link(points);
  EXPECT_LE(fit.worst_residual_ppm, 20'000u);
  // 4 MB held out: 384 + (40,000 - 384) * (4,194,304 - 262,144) / (67,108,864 - 262,144) = 2,714 us instead
  // of 3,800: 28.6 % off. With factors of 16 between sizes the fit itself says that it should not be trusted
  // to 10 %.
  EXPECT_NEAR(fit.worst_held_out_ppm, 285'700, 500);
}

TEST(Fit, HeldOutErrorsAreOfTheSizesBetween) {
  // On a line nothing is off; a point that stands 20 % above the line of its neighbours is off by 1/6 of
  // itself, and bends the fit for them.
  std::vector<SizedDuration> points{{{100}, {100}}, {{200}, {200}}, {{300}, {300}}, {{400}, {400}}};
  EXPECT_EQ(held_out_errors(points), (std::vector<double>{0, 0}));
  points = {{{100}, {100}}, {{200}, {240}}, {{300}, {300}}};
  ASSERT_EQ(held_out_errors(points).size(), 1u);
  EXPECT_NEAR(held_out_errors(points)[0], 1.0 / 6, 1e-9);
  EXPECT_TRUE(held_out_errors({}).empty());
}

TEST(Fit, IsTheSameForAnyOrderOfPoints) {
  std::mt19937 random(6);
  std::vector<SizedDuration> points = doubling(512, 1 << 24, 0.03, random);
  const LinkFit fit = fit_link(points);
  for (int k = 0; k < 5; ++k) {
    std::shuffle(points.begin(), points.end(), random);
    EXPECT_EQ(fit_link(points), fit);
  }
}

}  // namespace
}  // namespace plumb
