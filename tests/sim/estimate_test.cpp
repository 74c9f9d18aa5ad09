#include "sim/estimate.hpp"

#include "sim/overlap.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr std::int64_t million = 1'000'000;

// One layer: 100 ns of computation, then 60 ns of all-to-all; its backward the same and 40 ns of weights that
// nothing waits for. Computation beside all-to-all lasts 1.25 times as long.
Calibration small() {
  Calibration c;
  c.name = "small";
  c.chunk_layers = 2;
  c.model_layers = 6;
  c.classes = {"compute", "all_to_all"};
  c.slowdown_ppm = {{million, 1'250'000}, {million, million}};
  const Segment work{Lane::compute, Duration{100}, WorkClass{0}, "work", false};
  const Segment exchange{Lane::communication, Duration{60}, WorkClass{1}, "exchange", false};
  const Segment weights{Lane::compute, Duration{40}, WorkClass{0}, "weights", true};
  c.forward = {work, exchange};
  c.backward_input = {exchange, work};
  c.backward_weight = {weights};
  c.backward = {work, weights, exchange};
  c.link = {Duration{7}, BytesPerSecond{1e9}};
  c.gradient_bytes_per_layer = Bytes{1000};
  return c;
}

TEST(Estimate, SharesTheLayersOutWhateverTheNumberOfStages) {
  // 6 layers on 3 stages: two measured layers each. On 4 stages 1.5 layers: two of 3/4 each.
  const CostModel three = estimate(small(), 3, 6);
  EXPECT_EQ(three.stages.front().forward.recipe.size(), 4u);
  EXPECT_EQ(total(three.stages.front().forward).ns, 2 * 160);
  const CostModel four = estimate(small(), 4, 6);
  EXPECT_EQ(four.stages.front().forward.recipe.front().duration.ns, 75);
  EXPECT_EQ(total(four.stages.front().forward).ns * 4, total(three.stages.front().forward).ns * 3);
  // 6 layers on 12 stages: half a layer each.
  EXPECT_EQ(total(estimate(small(), 12, 6).stages.front().forward).ns, 80);
}

TEST(Estimate, GradientReductionIsTheStagesBytesOverTheLink) {
  // Two layers of 1,000 bytes at a byte a nanosecond, and the latency.
  EXPECT_EQ(estimate(small(), 3, 6).stages.front().gradient_reduction.ns, 7 + 2000);
}

TEST(Overlap, DeferredSegmentsRunBesideWhatFollowsThem) {
  // work 0..100; weights and exchange both start at 100. The exchange takes its 60; beside it the weights do
  // 60 / 1.25 = 48 >= 40 of work: they end at 100 + 40 x 1.25 = 150.
  const CostModel chunk = estimate(small(), 6, 6);
  EXPECT_EQ(derive_alone(chunk.stages.front().backward, chunk).duration.ns, 160);
  // In turn it would be 200.
  EXPECT_EQ(total(chunk.stages.front().backward).ns, 200);
}

TEST(Overlap, APairIsDerivedFromBothRecipes) {
  // Both ask for the compute lane at 0: the forward's work goes first, 0..100. At 100 its exchange starts and
  // the backward's work too; slowed for 60 ns it does 48, then the remaining 52 alone: done at 212. Then the
  // weights (40) and the exchange (60) beside each other: weights slowed to 50, all done at 272.
  const CostModel chunk = estimate(small(), 6, 6);
  const PairCost pair = derive_pair(chunk.stages.front().forward, chunk.stages.front().backward, chunk);
  EXPECT_EQ(pair.forward_end.ns, 160);
  EXPECT_EQ(pair.duration.ns, 272);
}

TEST(Estimate, TheBundledDeepSeekPairIsShorterThanItsHalvesAndAsLongAsItsComputation) {
  const auto& bundled = bundled_calibrations();
  const Calibration deepseek = parse_calibration(bundled.at("deepseek-v3-h800"), "deepseek-v3-h800");
  const CostModel chunk = measured_chunk(deepseek);
  const StageCost& stage = chunk.stages.front();
  const Duration forward = derive_alone(stage.forward, chunk).duration;
  const Duration backward = derive_alone(stage.backward, chunk).duration;
  const Duration pair = pair_cost(Stage{0}, Stage{0}, chunk).duration;
  EXPECT_LT(pair, forward + backward);
  Duration compute;
  for (const OpCost* op : {&stage.forward, &stage.backward}) {
    for (const Segment& segment : op->recipe) {
      if (segment.lane == Lane::compute) compute += segment.duration;
    }
  }
  EXPECT_GE(pair, compute);
}

}  // namespace
}  // namespace plumb
