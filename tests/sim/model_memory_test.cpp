// What ranks hold of a model under a schedule and a layout, in bytes that are worked out by hand.
#include "schedules/generators/generator.hpp"
#include "schedules/model/layer_costs.hpp"
#include "sim/estimate.hpp"
#include "sim/memory.hpp"
#include "sim/simulate.hpp"

#include <algorithm>

#include <gtest/gtest.h>

namespace plumb {
namespace {

// Eight layers of hidden size 64, four heads, two linears of 256, RMS norms, no biases:
//   a layer has 4 x 64 x 64 + 2 x 64 x 256 + 2 x 64 = 49,280 parameters,
//   embedding and head 512 x 64 = 32,768 each, the final norm 64.
constexpr std::int64_t layer = 49'280;
constexpr std::int64_t matrix = 32'768;
constexpr std::int64_t norm = 64;

ModelShape small() {
  ModelShape model;
  model.name = "small";
  model.hidden = 64;
  model.layers = 8;
  model.ffn = 256;
  model.vocab = 512;
  model.attention.heads = model.attention.key_value_heads = 4;
  model.attention.head_dim = 16;
  model.ffn_kind = FfnKind::gelu;
  return model;
}

struct Held {
  LoweredSchedule schedule;
  CostModel cost;
  MemoryProfile memory;
  std::int64_t held(std::size_t rank, MemoryUse use) const { return memory.ranks[rank].peak[use].count; }
};

Held hold(const char* name, Parallelism parallelism, std::vector<StageContent> stages = {},
          ModelShape model = small()) {
  Held out;
  out.schedule = make_lowered(generator(name), {parallelism.pipeline, 8, std::nullopt, std::nullopt},
                              {CommPlacement::per_op, parallelism.data});
  Layout layout;
  layout.parallelism = parallelism;
  layout.sequence = 32;
  layout.stages = stages.empty() ? even_stages(model, out.schedule.stages) : stages;
  out.cost = estimate(device_description("h100"), model, layout);
  out.memory = profile_memory(simulate(out.schedule, out.cost), out.schedule, out.cost);
  return out;
}

// Four ranks, four stages of two layers. Rank r holds stages r and 3 - r: four layers, where 1F1B holds two.
// Ranks 0 and 3 hold the embedding and the head as well. bf16 weights, float32 gradients.
TEST(ModelMemory, DualPipeHoldsTheModelTwice) {
  const Held one = hold("1f1b", {4, 1, 1, 1});
  const Held two = hold("dualpipe", {4, 1, 1, 1});
  EXPECT_EQ(one.held(1, MemoryUse::weights), 2 * 2 * layer);
  EXPECT_EQ(two.held(1, MemoryUse::weights), 2 * 4 * layer);
  EXPECT_EQ(two.held(0, MemoryUse::weights), 2 * (4 * layer + 2 * matrix + norm));
  EXPECT_EQ(two.held(0, MemoryUse::gradients), 4 * (4 * layer + 2 * matrix + norm));
  std::int64_t sums[2] = {};
  for (std::size_t rank = 0; rank < 4; ++rank) {
    sums[0] += one.held(rank, MemoryUse::weights);
    sums[1] += two.held(rank, MemoryUse::weights);
  }
  EXPECT_EQ(sums[0], 2 * (8 * layer + 2 * matrix + norm));
  EXPECT_EQ(sums[1], 2 * sums[0]);
}

// Eight half-stages of one layer; rank r holds r and 7 - r: two layers, and rank 0 both ends of the model.
TEST(ModelMemory, DualPipeVHoldsTheModelOnceInTwoHalfStages) {
  const Held v = hold("dualpipe-v", {4, 1, 1, 1});
  EXPECT_EQ(v.held(0, MemoryUse::weights), 2 * (2 * layer + 2 * matrix + norm));
  for (std::size_t rank = 1; rank < 4; ++rank)
    EXPECT_EQ(v.held(rank, MemoryUse::weights), 2 * 2 * layer) << rank;
}

// Two moments and master weights, 12 bytes a parameter, over four copies or on each of them.
TEST(ModelMemory, ZeroOneSpreadsTheOptimizerOverTheCopies) {
  Parallelism parallelism{4, 1, 4, 1, true, true};
  EXPECT_EQ(hold("1f1b", parallelism).held(1, MemoryUse::optimizer), 12 * 2 * layer / 4);
  parallelism.shard_optimizer = false;
  EXPECT_EQ(hold("1f1b", parallelism).held(1, MemoryUse::optimizer), 12 * 2 * layer);
  EXPECT_EQ(hold("1f1b", parallelism).held(1, MemoryUse::weights), 2 * 2 * layer) << "weights are whole";
}

// Eight experts of two linears of 64 on four devices: two of them on each, 2 x 2 x 64 x 64 = 16,384
// parameters a layer, whose state no other copy shares; attention, norms and the router (4 x 64 x 64 + 2 x 64
// + 8 x 64 = 17,024) are on all four.
TEST(ModelMemory, ZeroOneSpreadsExpertsOverTheCopiesThatHaveThem) {
  ModelShape model = small();
  model.experts.emplace();
  model.experts->routed = 8;
  model.experts->per_token = 2;
  model.experts->ffn = 64;
  model.experts->in_layer.assign(8, true);
  const Held spread = hold("1f1b", {4, 1, 4, 4}, {}, model);
  EXPECT_EQ(spread.held(1, MemoryUse::weights), 2 * 2 * (16'384 + 17'024));
  EXPECT_EQ(spread.held(1, MemoryUse::optimizer), 12 * 2 * (16'384 + 17'024 / 4));
}

// Stages of 1, 3, 3 and 1 layers.
TEST(ModelMemory, UnevenStagesAreSeenInTheirRanks) {
  const Held uneven = hold("1f1b", {4, 1, 1, 1}, parse_stages("Et|ttt|ttt|tL", small()));
  EXPECT_EQ(uneven.held(0, MemoryUse::weights), 2 * (layer + matrix));
  EXPECT_EQ(uneven.held(1, MemoryUse::weights), 2 * 3 * layer);
  EXPECT_EQ(uneven.held(3, MemoryUse::weights), 2 * (layer + matrix + norm));
  // Rank 1 has three microbatches under way at most, of three layers; rank 3 one, of one layer and the head.
  const auto kept = [&](std::uint32_t stage) {
    return uneven.cost.stages[stage].forward.memory.at_begin.count;
  };
  EXPECT_EQ(uneven.held(1, MemoryUse::activations), 3 * kept(1));
  EXPECT_EQ(uneven.held(3, MemoryUse::activations), kept(3));
  EXPECT_EQ(kept(1), kept(2));
  EXPECT_LT(kept(3), kept(1));
}

// A layer's forward keeps, of 32 tokens in bf16: x twice (norms) and their inverse deviations in float32, the
// inputs of qkv, output, up and down, q, k, v, a log-sum-exp of each head in float32, and what gelu reads:
//   2 (64 + 64 + 64 + 64 + 64 + 256 + 3 x 64 + 256) + 4 (2 + 4) = 2,072 bytes a token.
TEST(ModelMemory, AStageKeepsWhatItsLayersSay) {
  const Held plain = hold("1f1b", {4, 1, 1, 1});
  EXPECT_EQ(plain.cost.stages[1].forward.memory.at_begin.count, 2 * 32 * 2'072);
  EXPECT_EQ(plain.held(0, MemoryUse::activations), 4 * plain.cost.stages[0].forward.memory.at_begin.count);
}

// Four tensor-parallel devices share every matrix, and each norm is on all of them.
TEST(ModelMemory, TensorParallelismSharesTheMatrices) {
  const Held split = hold("1f1b", {4, 4, 1, 1});
  EXPECT_EQ(split.held(1, MemoryUse::weights), 2 * 2 * ((layer - 128) / 4 + 128));
}

// Split backwards leave operands of weight gradients behind; a whole backward leaves none.
TEST(ModelMemory, OnlySplitBackwardsLeaveRemnants) {
  const Held split = hold("zb-h1", {4, 1, 1, 1});
  const Held whole = hold("1f1b", {4, 1, 1, 1});
  std::int64_t left = 0;
  for (std::size_t rank = 0; rank < 4; ++rank) {
    left = std::max(left, split.held(rank, MemoryUse::weight_gradient_remnants));
    EXPECT_EQ(whole.held(rank, MemoryUse::weight_gradient_remnants), 0);
    EXPECT_EQ(split.held(rank, MemoryUse::reserve), device_description("h100").reserve.count);
  }
  EXPECT_GT(left, 0);
}

}  // namespace
}  // namespace plumb
