// How far predictions of whole models are off, held at what results/2026-11-24-vtrain-a100 says.
#include "tests/step_times/step_times.hpp"

#include "tests/step_times/published.hpp"
#include "tests/support/reference.hpp"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

namespace plumb::test {
namespace {

// Efficiencies were chosen on the other half.
TEST(StepTimes, OfSmallGptsOnA100AreRightWithinSixPercentOnRowsThatNothingWasChosenOn) {
  PLUMB_NEEDS_REFERENCE();
  std::vector<double> ours, theirs;
  for (const MeasuredStep& step : read_steps(reference_dir() + "/measured/vtrain_a100_step_times.csv")) {
    if (step.chosen_on()) continue;
    ours.push_back(predicted(step, device_description("a100")));
    theirs.push_back(step.milliseconds);
  }
  const Score held_out = score(ours, theirs);
  EXPECT_EQ(held_out.rows, 344u);
  EXPECT_GT(held_out.spearman, 0.985);
  EXPECT_LT(held_out.mean_error, 0.065);
  EXPECT_LT(held_out.median_error, 0.040);
}

double worst_error(const std::string& source) {
  double worst = 0;
  for (const PublishedStep& step : published_steps()) {
    if (step.source.find(source) == std::string::npos) continue;
    const double seconds = static_cast<double>(predicted(step).step_time.ns) * 1e-9;
    worst = std::max(worst, std::abs(seconds / step.seconds - 1));
  }
  return worst;
}

// With the efficiencies of the small models: a hundred times larger, full and selective recompute, 8 to 512
// devices.
TEST(StepTimes, OfGptsUpToATrillionParametersOnA100AreRightWithinTenPercent) {
  EXPECT_LT(worst_error("2205.05198"), 0.10);
}

// Two sizes of job, bf16 and fp8; the smaller job's figures chose the ceilings of matrix products.
TEST(StepTimes, OfDenseModelsOnH100AreRightWithinEightPercent) { EXPECT_LT(worst_error("DGX Cloud"), 0.08); }

TEST(StepTimes, OfDeepSeekV3WithDualPipeOnH800IsRightWithinFivePercent) {
  EXPECT_LT(worst_error("2412.19437"), 0.05);
}

// Order 1 3 2 against 1 2 3: 1 - 6 x (0 + 1 + 1) / (3 x 8) = 0.5.
TEST(StepTimes, ScoreCountsRanksAndErrors) {
  const Score s = score({1, 3, 2}, {1, 2, 4});
  EXPECT_DOUBLE_EQ(s.spearman, 0.5);
  EXPECT_DOUBLE_EQ(s.mean_error, (0 + 0.5 + 0.5) / 3);
  EXPECT_DOUBLE_EQ(s.worst_error, 0.5);
  EXPECT_DOUBLE_EQ(s.bias, 0);
}

}  // namespace
}  // namespace plumb::test
