// Costs of a model from a data sheet, against sums worked out by hand.
#include "schedules/model/layer_costs.hpp"
#include "sim/estimate.hpp"
#include "sim/overlap.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

// A device on which FLOPs are easy to count: 1 PFLOP/s, 100 GB/s to its neighbours, and memory takes no time
// to speak of (1 PB/s).
DeviceDescription round_device() {
  DeviceDescription device;
  device.name = "round";
  device.peak = {1e15, 2e15, 1e15};
  device.memory_bandwidth = {1e15};
  device.memory = {80'000'000'000};
  device.multiprocessors = 1;
  device.devices_per_node = 8;
  device.node_link = {{}, BytesPerSecond{1e11}};
  device.network = {{}, BytesPerSecond{1e10}};
  Efficiencies& e = device.efficiencies;
  e.gemm = e.gemm_fp8 = e.attention = e.memory = e.collective = 1;
  return device;
}

// Two layers of hidden size 1,024, 8 heads, FFN 4,096, 1,024 tokens.
ModelShape small_gpt() {
  ModelShape model;
  model.name = "small";
  model.hidden = 1024;
  model.layers = 2;
  model.ffn = 4096;
  model.vocab = 8192;
  model.attention.heads = model.attention.key_value_heads = 8;
  model.attention.head_dim = 128;
  model.ffn_kind = FfnKind::gelu;
  return model;
}

Layout layout_of(const ModelShape& model, Parallelism parallelism, std::uint32_t stages = 0) {
  Layout layout;
  layout.parallelism = parallelism;
  layout.sequence = 1024;
  layout.stages = even_stages(model, stages ? stages : parallelism.pipeline);
  return layout;
}

// Nanoseconds of one class.
double of_class(const CostModel& cost, const OpCost& op, std::string_view name) {
  Duration sum;
  for (const Segment& segment : op.recipe) {
    if (cost.classes[segment.work_class.value] == name) sum += segment.duration;
  }
  return static_cast<double>(sum.ns);
}

// Two layers of 1,024 x (3,072 + 1,024 + 4,096) x 1,024 and 4,096 x 1,024, and a head of 8,192:
// 2 x 1,024 x 1,024 x (2 x 12,288 + 8,192) = 68.72 GFLOP at 1 PFLOP/s.
TEST(ModelEstimate, ProductsTakeTheirFlopsOverThePeak) {
  const CostModel cost = estimate(round_device(), small_gpt(), layout_of(small_gpt(), {1, 1, 1, 1}));
  const StageCost& stage = cost.stages[0];
  const double once = 2.0 * 1024 * 1024 * (2 * 12288 + 8192) / 1e15 * 1e9;
  const double head = 2.0 * 1024 * 1024 * 8192 / 1e15 * 1e9;
  EXPECT_NEAR(of_class(cost, stage.forward, "gemm"), once, 10);
  // The fused loss makes the logits once more.
  EXPECT_NEAR(of_class(cost, stage.backward_input, "gemm"), once + head, 10);
  // On its own it reads the outputs' gradients again: 2 x 9,216 + 8,192 wide, bf16, at 1 PB/s.
  const double gradients = (2 * 9216 + 8192) * 1024 * 2 / 1e15 * 1e9;
  EXPECT_NEAR(of_class(cost, stage.backward_weight, "gemm"), once + gradients, 10);
  EXPECT_NEAR(of_class(cost, stage.backward, "gemm"), 2 * once + head, 20);
}

// With four devices a layer's blocks gather and scatter 1,024 x 1,024 bf16 = 2 MiB each, three quarters of it
// over a link of 100 GB/s: 15.73 us. Two gathers and two scatters a layer; the embedding scatters once; the
// head gathers once, and its loss sums 3 x 1,024 floats (12,288 B): 1.5 times 12,288 over the link, 184 ns.
TEST(ModelEstimate, TensorParallelCollectivesRunOnTheCommunicationLane) {
  const CostModel cost = estimate(round_device(), small_gpt(), layout_of(small_gpt(), {1, 4, 1, 1}));
  const OpCost& forward = cost.stages[0].forward;
  const double block = 1024 * 1024 * 2 * 0.75 / 1e11 * 1e9;
  EXPECT_NEAR(of_class(cost, forward, "all_gather"), 5 * block, 20);
  EXPECT_NEAR(of_class(cost, forward, "reduce_scatter"), 5 * block, 20);
  EXPECT_NEAR(of_class(cost, forward, "all_reduce"), 184, 2);
  for (const Segment& segment : forward.recipe) {
    EXPECT_EQ(segment.lane == Lane::communication, segment.work_class.value >= 4) << segment.name;
  }
}

// A weight's gradient runs beside the input gradient's collective, so the whole backward is shorter than its
// segments in turn; and the two halves on their own take longer together than the whole.
TEST(ModelEstimate, ASplitBackwardCostsMoreThanAWholeOne) {
  for (const std::uint32_t tensor : {1u, 4u}) {
    const CostModel cost =
        estimate(device_description("h100"), small_gpt(), layout_of(small_gpt(), {1, tensor, 1, 1}));
    const StageCost& stage = cost.stages[0];
    const Duration whole = derive_alone(stage.backward, cost).duration;
    const Duration input = derive_alone(stage.backward_input, cost).duration;
    const Duration weight = derive_alone(stage.backward_weight, cost).duration;
    EXPECT_GT(input + weight, whole) << tensor;
    if (tensor > 1) {
      EXPECT_LT(whole, total(stage.backward));
    }
  }
}

// In full: every layer's forward once more. The embedding's and the head's are not.
TEST(ModelEstimate, FullRecomputeAddsTheLayersForwardToTheBackward) {
  Layout layout = layout_of(small_gpt(), {1, 1, 1, 1});
  const CostModel plain = estimate(round_device(), small_gpt(), layout);
  layout.stages[0].recompute = Recompute::full;
  const CostModel again = estimate(round_device(), small_gpt(), layout);
  const double layers = 2.0 * 1024 * 1024 * 2 * 12288 / 1e15 * 1e9;
  EXPECT_NEAR(of_class(again, again.stages[0].backward, "gemm"),
              of_class(plain, plain.stages[0].backward, "gemm") + layers, 20);
  EXPECT_EQ(again.stages[0].forward.recipe, plain.stages[0].forward.recipe);
  EXPECT_LT(again.stages[0].forward.memory.at_begin, plain.stages[0].forward.memory.at_begin);
}

// 4 devices a rank and 8 a node: ranks 0 and 1 share a node, 1 and 2 do not.
TEST(ModelEstimate, MessagesTakeTheLinkThatJoinsTheirDevices) {
  ModelShape model = small_gpt();
  model.layers = 4;
  const CostModel cost = estimate(round_device(), model, layout_of(model, {4, 2, 2, 1}));
  EXPECT_EQ(cost.link_between(Rank{0}, Rank{1}).bandwidth->value, 1e11);
  EXPECT_EQ(cost.link_between(Rank{1}, Rank{2}).bandwidth->value, 1e10);
  EXPECT_EQ(cost.link_between(Rank{3}, Rank{2}).bandwidth->value, 1e11);
  // All on one node.
  EXPECT_EQ(estimate(round_device(), model, layout_of(model, {4, 2, 1, 1})).link.bandwidth->value, 1e11);
}

// Two copies of each stage, both on one node of two devices: half of the gradients crosses each link when
// they are scattered. A second owner has its two copies on another node: half of the gradients crosses two
// adapters.
TEST(ModelEstimate, GradientsOfTwoOwnersCrossTheNetwork) {
  DeviceDescription device = round_device();
  device.devices_per_node = 2;
  ModelShape model = small_gpt();
  model.layers = 4;
  Parallelism parallelism{4, 1, 2, 1};
  const Layout layout = layout_of(model, parallelism);
  const CostModel cost = estimate(device, model, layout);
  const double bytes = static_cast<double>(stage_bytes(model, layout, Stage{1}).gradients.count);
  EXPECT_NEAR(static_cast<double>(cost.stages[1].reduction_over(1).ns), bytes / 2 / 1e11 * 1e9, 2);
  EXPECT_NEAR(static_cast<double>(cost.stages[1].reduction_over(2).ns), bytes / 2 / 2 / 1e10 * 1e9, 2);
  // Without copies there is nothing to sum, unless there are two owners.
  parallelism.data = 1;
  EXPECT_EQ(estimate(device, model, layout_of(model, parallelism)).stages[1].reduction_over(1), Duration{});
  EXPECT_GT(estimate(device, model, layout_of(model, parallelism)).stages[1].reduction_over(2), Duration{});
}

// An op's segments take less than the host needs to launch them: the device waits for the host.
TEST(ModelEstimate, AnOpLastsAtLeastAsLongAsTheHostNeeds) {
  DeviceDescription device = round_device();
  device.efficiencies.host_forward = {1'000'000};
  const CostModel cost = estimate(device, small_gpt(), layout_of(small_gpt(), {1, 1, 1, 1}));
  const StageCost& stage = cost.stages[0];
  std::size_t parts = 0;
  for (const Segment& segment : stage.forward.recipe) parts += segment.name != "host";
  EXPECT_EQ(total(stage.forward).ns, static_cast<std::int64_t>(parts) * 1'000'000);
}

// Bytes are the formulas', whatever the device.
TEST(ModelEstimate, MemoryEffectsGiveBackAllThatForwardKeeps) {
  const Layout layout = layout_of(small_gpt(), {1, 1, 1, 1});
  const CostModel cost = estimate(round_device(), small_gpt(), layout);
  const StageBytes bytes = stage_bytes(small_gpt(), layout, Stage{0});
  const StageCost& stage = cost.stages[0];
  EXPECT_EQ(stage.forward.memory.at_begin, bytes.kept_by_forward);
  EXPECT_EQ(stage.forward.memory.at_begin + stage.backward.memory.at_end, Bytes{});
  const Bytes left = stage.forward.memory.at_begin + stage.backward_input.memory.at_begin +
                     stage.backward_input.memory.at_end;
  EXPECT_EQ(left + stage.backward_weight.memory.at_end, Bytes{});
  EXPECT_GT(left, Bytes{}) << "the weight gradients' operands";
}

// Five layers on five stages, all but the second with experts: stages 2 and 3 are alike.
TEST(ModelEstimate, StagesThatAreAlikeCostAlikeAndOthersDoNot) {
  ModelShape model = small_gpt();
  model.layers = 5;
  model.experts.emplace();
  model.experts->routed = 8;
  model.experts->per_token = 2;
  model.experts->ffn = 512;
  model.experts->in_layer = {true, false, true, true, true};
  const CostModel cost = estimate(round_device(), model, layout_of(model, {5, 1, 1, 1}));
  const auto names = [&](std::size_t stage) {
    std::vector<std::string> out;
    for (const Segment& segment : cost.stages[stage].forward.recipe) out.push_back(segment.name);
    return out;
  };
  EXPECT_EQ(cost.stages[2], cost.stages[3]);
  EXPECT_NE(names(1), names(2));
  EXPECT_THAT(names(1), testing::Not(testing::Contains("router")));
  EXPECT_THAT(names(2), testing::Contains("router"));
  EXPECT_THAT(names(4), testing::Contains("head"));
  EXPECT_GT(cost.stages[3].activation_message, Bytes{});
  EXPECT_EQ(cost.stages[4].activation_message, Bytes{});
}

TEST(ModelEstimate, EveryFigureSaysWhereItIsFrom) {
  const CostModel cost = estimate(round_device(), small_gpt(), layout_of(small_gpt(), {2, 1, 2, 1}));
  for (const char* figure : {"forward", "backward", "backward_input", "backward_weight", "link", "memory",
                             "gradient_reduction", "optimizer_step", "slowdown", "reserve"}) {
    ASSERT_TRUE(cost.sources.contains(figure)) << figure;
  }
  EXPECT_EQ(cost.sources.at("forward"), "estimated");
  EXPECT_EQ(cost.sources.at("slowdown"), "assumed");
}

// 1,000 tokens/s a device is a million a second on 1,000 of them.
TEST(Throughput, CountsTokensOfAllCopiesAndFlopsOfThePeak) {
  const Layout layout = layout_of(small_gpt(), {2, 1, 3, 1});
  const Throughput t = throughput(Duration{1'000'000'000}, 5, round_device(), small_gpt(), layout);
  EXPECT_DOUBLE_EQ(t.tokens_per_s, 1024.0 * 5 * 3);
  EXPECT_DOUBLE_EQ(t.mfu, t.tokens_per_s * train_flops_per_token(small_gpt(), 1024) / (6 * 1e15));
}

}  // namespace
}  // namespace plumb
