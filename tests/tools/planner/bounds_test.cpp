#include "tools/planner/bounds.hpp"

#include "tools/planner/predict.hpp"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr std::int64_t ms = 1'000'000;
constexpr Bytes gib{std::int64_t{1} << 30};

OpCost compute(std::int64_t ns) { return {{{Lane::compute, {ns}, {}, "work", false}}, {}}; }

CostModel of_layers(std::size_t layers, std::int64_t forward, std::int64_t input, std::int64_t weight) {
  CostModel cost;
  for (std::size_t i = 0; i < layers; ++i) {
    StageCost stage;
    stage.forward = compute(forward);
    stage.backward_input = compute(input);
    stage.backward_weight = compute(weight);
    stage.backward = compute(input + weight);
    cost.stages.push_back(stage);
  }
  return cost;
}

std::vector<StageLeast> least_of(const CostModel& cost) {
  std::vector<StageLeast> out;
  for (const StageCost& stage : cost.stages) {
    out.push_back({least_time(stage.forward), least_time(stage.backward_input),
                   least_time(stage.backward_weight), least_time(stage.backward)});
  }
  return out;
}

TEST(LeastStepTime, IsTheClosedFormOf1F1B) {
  // 4 stages of F = 1, B = 2 ms, 8 microbatches: (8 + 4 - 1) x 3 = 33 ms.
  Outlines outlines;
  const CostModel cost = of_layers(4, ms, ms, ms);
  EXPECT_EQ(least_step_time(outlines.of(generator("1f1b"), {4, 8, 1, {}}), 8, least_of(cost), cost, false).ns,
            33 * ms);
  // Two chunks of half the size: 8 x 3 + (4 - 1) x 1.5 = 28.5 ms.
  const CostModel halves = of_layers(8, ms / 2, ms / 2, ms / 2);
  EXPECT_EQ(least_step_time(outlines.of(generator("interleaved-1f1b"), {4, 8, 2, {}}), 8, least_of(halves),
                            halves, false)
                .ns,
            57 * ms / 2);
  // Stage 0's gradients are reduced behind all of it, and then its weights are updated.
  CostModel ends = cost;
  for (StageCost& stage : ends.stages) {
    stage.gradient_reduction = {5 * ms};
    stage.optimizer_step = {2 * ms};
  }
  EXPECT_EQ(least_step_time(outlines.of(generator("1f1b"), {4, 8, 1, {}}), 8, least_of(cost), ends, true).ns,
            40 * ms);
}

TEST(LeastStepTime, OfPairsIsTheBusierLanesWork) {
  // Forward: 1 ms computing, then 1 ms on the wire; backward 2 and 1. Side by side a microbatch takes at
  // least 3 ms, not 5; alone 5.
  CostModel cost = of_layers(1, ms, ms, ms);
  cost.stages[0].forward.recipe.push_back({Lane::communication, {ms}, {}, "wire", false});
  cost.stages[0].backward.recipe.push_back({Lane::communication, {ms}, {}, "wire", false});
  const StageLeast stage = least_of(cost)[0];
  EXPECT_EQ(stage[0].alone().ns, 2 * ms);
  EXPECT_EQ(stage[3].alone().ns, 3 * ms);
  Outlines outlines;
  EXPECT_EQ(least_step_time(outlines.of(generator("1f1b"), {1, 6, 1, {}}), 6, {stage}, cost, false).ns,
            6 * 5 * ms);
  EXPECT_EQ(
      least_step_time(outlines.of(generator("1f1b-overlap"), {1, 6, 1, {}}), 6, {stage}, cost, false).ns,
      6 * 3 * ms);
}

TEST(Bounds, AreNeverAboveTheSimulation) {
  std::mt19937 random(7);
  Outlines outlines;
  std::size_t compared = 0;
  for (const Generator* generator : generators()) {
    for (const std::uint32_t p : {1u, 2u, 4u, 6u}) {
      for (const std::uint32_t m : {2 * p, 3 * p + 2, 9 * p}) {
        Shape shape{p, m, generator->default_chunks, std::nullopt};
        if (generator->refuse(shape)) continue;
        CostModel cost = of_layers(p * generator->default_chunks, ms, ms, ms);
        for (StageCost& stage : cost.stages) {
          const auto some = [&] { return static_cast<std::int64_t>(1 + random() % 100) * 1'000; };
          stage.forward.recipe = {{Lane::compute, {some()}, {}, "a", false},
                                  {Lane::communication, {some()}, {}, "b", false}};
          stage.backward_input = compute(some());
          stage.backward_weight = compute(some());
          stage.backward.recipe = {{Lane::compute, {some()}, {}, "a", false},
                                   {Lane::compute, {some()}, {}, "w", true},
                                   {Lane::communication, {some()}, {}, "b", false}};
          stage.weights = gib * static_cast<std::int64_t>(random() % 5);
          const Bytes kept{static_cast<std::int64_t>(1 + random() % 100)};
          const Bytes left{static_cast<std::int64_t>(random() % 50)};
          stage.forward.memory = {kept, {7}, {}};
          stage.backward_input.memory = {{}, {3}, left - kept};
          stage.backward_weight.memory = {{}, {}, -left};
          stage.backward.memory = {{}, {9}, -kept};
          stage.gradient_reduction = {some()};
          stage.optimizer_step = {some()};
        }
        cost.reserve = gib;
        const Report report =
            predict(make_lowered(*generator, shape, {CommPlacement::per_op, 2}), cost).report;
        Bytes peak;
        for (const RankReport& rank : report.ranks) peak = std::max(peak, *rank.peak_bytes);
        const Outline& outline = outlines.of(*generator, shape);
        EXPECT_LE(least_step_time(outline, m, least_of(cost), cost, true).ns, report.step_time.ns)
            << generator->name << " p=" << p << " m=" << m;
        EXPECT_LE(least_peak(outline, cost, gib * 1'000).count, peak.count)
            << generator->name << " p=" << p << " m=" << m;
        EXPECT_GT(least_peak(outline, cost, gib * 1'000).count, peak.count * 9 / 10)
            << generator->name << " p=" << p << " m=" << m;
        EXPECT_LE(least_peak(outline, cost, Bytes{}).count, peak.count)
            << "by count: " << generator->name << " p=" << p << " m=" << m;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 100u);
}

TEST(PieceSums, AddUp) {
  CostModel cost = of_layers(3, ms, 2 * ms, 3 * ms);
  for (StageCost& stage : cost.stages) {
    stage.weights = gib;
    stage.forward.memory = {{100}, {40}, {}};
    stage.activation_message = {70};
  }
  cost.stages[1].forward.memory.workspace = {90};
  cost.reserve = gib;
  const PieceSums layers(cost);
  EXPECT_EQ(layers.times(1, 3)[0].alone().ns, 2 * ms);
  EXPECT_EQ(layers.busy(0, 2).ns, 2 * (1 + 5) * ms);
  EXPECT_EQ(layers.memory(0, 2).forward.memory, (MemoryEffect{{200}, {90}, {}}));
  EXPECT_EQ(layers.memory(0, 3).weights, gib * 3);
  EXPECT_EQ(layers.memory(0, 3).activation_message, Bytes{70});
}

using Counts = std::vector<std::size_t>;

TEST(Pieces, AreEmbeddingLayersModulesAndHead) {
  ModelShape model;
  model.layers = 3;
  model.multi_token_layers = 1;
  const std::vector<StageContent> pieces = pieces_of(model);
  ASSERT_EQ(pieces.size(), 6u);
  EXPECT_EQ(to_megatron(pieces), "E|t|t|t|m|L");
  const std::vector<StageContent> stages = stages_of_pieces(pieces, {3, 2, 1});
  EXPECT_EQ(to_megatron(stages), "Ett|tm|L");
  EXPECT_EQ(stages[1].first_layer, 2u);
  EXPECT_EQ(piece_counts(stages), (Counts{3, 2, 1}));
}

TEST(BalancedCounts, TakePiecesFromTheRankThatHasTheHead) {
  // Six pieces of 1 + 2 ms, the last three times as long: 3 and 3 + 2 pieces' worth become 4 and 2 + 2.
  CostModel cost = of_layers(6, ms, ms, ms);
  cost.stages[5].forward = compute(3 * ms);
  cost.stages[5].backward = compute(6 * ms);
  Outlines outlines;
  const Outline& outline = outlines.of(generator("1f1b"), {2, 8, 1, {}});
  EXPECT_EQ(balanced_counts({3, 3}, outline, PieceSums(cost), Balance::ranks), (Counts{4, 2}));
  EXPECT_EQ(balanced_counts({3, 3}, outline, PieceSums(cost), Balance::stages), (Counts{4, 2}));
}

TEST(BalancedCounts, StayEvenWhereNothingIsGained) {
  const CostModel cost = of_layers(8, ms, ms, ms);
  Outlines outlines;
  EXPECT_EQ(
      balanced_counts({4, 4}, outlines.of(generator("1f1b"), {2, 8, 1, {}}), PieceSums(cost), Balance::ranks),
      (Counts{4, 4}));
}

TEST(BalancedCounts, CountARanksStagesTogetherOrEachAlone) {
  // DualPipeV on 2 ranks: rank 0 has stages 0 and 3. Eight pieces, the last as long as three: 10 to share, 5
  // each; rank 0 keeps 3 pieces in its two stages. As equal stages: 10 in 4, one piece is 3 already: 3, 2,
  // 2, 3.
  CostModel cost = of_layers(8, ms, ms, ms);
  cost.stages[7].forward = compute(3 * ms);
  cost.stages[7].backward = compute(6 * ms);
  Outlines outlines;
  const Outline& outline = outlines.of(generator("dualpipe-v"), {2, 8, 2, {}});
  const Counts by_rank = balanced_counts({2, 2, 2, 2}, outline, PieceSums(cost), Balance::ranks);
  EXPECT_EQ(by_rank.front() + by_rank.back(), 3u);
  const Counts by_stage = balanced_counts({2, 2, 2, 2}, outline, PieceSums(cost), Balance::stages);
  EXPECT_EQ(by_stage.back(), 1u);
  EXPECT_EQ(*std::max_element(by_stage.begin(), by_stage.end()), 3u);
}

}  // namespace
}  // namespace plumb
