#include "tools/planner/launch_flags.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelShape model() {
  ModelShape model;
  model.layers = 8;
  return model;
}

LayoutPlan plan(std::string_view schedule, std::vector<std::uint64_t> layers) {
  LayoutPlan plan;
  plan.generator = &generator(schedule);
  plan.shape = {2, 16, static_cast<std::uint32_t>(layers.size() / 2), std::nullopt};
  plan.layout.parallelism = {2, 4, 2, 1, true, true};
  plan.layout.micro_batch_size = 2;
  plan.layout.sequence = 4096;
  std::uint64_t first = 0;
  for (const std::uint64_t n : layers) {
    plan.layout.stages.push_back({first, n, 0, false, false, Recompute::none});
    first += n;
  }
  plan.layout.stages.front().embedding = true;
  plan.layout.stages.back().head = true;
  return plan;
}

TEST(MegatronFlags, AreThoseOfAnEvenPlan) {
  EXPECT_THAT(
      *megatron_flags(plan("interleaved-1f1b", {2, 2, 2, 2}), model(), 64),
      ElementsAre("--tensor-model-parallel-size 4 --pipeline-model-parallel-size 2 --sequence-parallel",
                  "--num-layers-per-virtual-pipeline-stage 2",
                  "--micro-batch-size 2 --global-batch-size 64 --seq-length 4096",
                  "--bf16 --use-distributed-optimizer"));
}

TEST(MegatronFlags, SayUnevenStagesGroupsExpertsAndRecompute) {
  LayoutPlan one = plan("interleaved-1f1b-overlap", {3, 2, 2, 1});
  one.shape.group = 20;
  one.layout.parallelism.expert = 8;
  for (StageContent& stage : one.layout.stages) stage.recompute = Recompute::full;
  ModelShape experts = model();
  experts.experts.emplace();
  const auto flags = *megatron_flags(one, experts, 64);
  EXPECT_THAT(flags[0], HasSubstr("--expert-model-parallel-size 8 --expert-tensor-parallel-size 1"));
  EXPECT_THAT(flags[1],
              HasSubstr("--pipeline-model-parallel-layout \"" + to_megatron(one.layout.stages) + "\""));
  EXPECT_THAT(flags[1], HasSubstr("--microbatch-group-size-per-virtual-pipeline-stage 20"));
  EXPECT_THAT(flags[3], HasSubstr("--overlap-moe-expert-parallel-comm"));
  EXPECT_EQ(flags[4], "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1");
}

TEST(MegatronFlags, NameTheModulesThatAreMadeAgain) {
  LayoutPlan one = plan("1f1b", {4, 4});
  for (StageContent& stage : one.layout.stages) stage.recompute = Recompute::selective;
  ModelShape latent = model();
  latent.attention.latent = LatentAttention{1536, 512, 64, 128, 128};
  latent.experts.emplace();
  EXPECT_THAT(*megatron_flags(one, latent, 64),
              Contains("--recompute-granularity selective --recompute-modules mla_up_proj moe_act"));
  one.layout.numerics.fused_attention = false;
  EXPECT_THAT(*megatron_flags(one, latent, 64),
              Contains("--recompute-granularity selective --recompute-modules core_attn"));
}

TEST(MegatronFlags, AreNotInventedForSchedulesThatItLacks) {
  EXPECT_FALSE(megatron_flags(plan("zb-v", {2, 2, 2, 2}), model(), 64));
  EXPECT_FALSE(megatron_flags(plan("dualpipe", {4, 4}), model(), 64));
  EXPECT_FALSE(megatron_flags(plan("interleaved-1f1b-overlap", {2, 2, 2, 2}), model(), 64))
      << "it overlaps experts' messages, and there are none";
}

TEST(TorchtitanConfig, NamesTheScheduleOrTheFile) {
  EXPECT_THAT(
      *torchtitan_config(plan("zb-v", {3, 2, 2, 1}), 64, "plan/schedule.csv"),
      ElementsAre(
          "[parallelism]", "pipeline_parallel_degree = 2", "tensor_parallel_degree = 4",
          "data_parallel_shard_degree = 2", "pipeline_parallel_schedule = \"ZBVZeroBubble\"",
          "pipeline_parallel_microbatch_size = 2",
          "module_fqns_per_model_part = [[\"tok_embeddings\",\"layers.0\",\"layers.1\",\"layers.2\"], "
          "[\"layers.3\",\"layers.4\"], [\"layers.5\",\"layers.6\"], "
          "[\"layers.7\",\"norm\",\"output\"]]",
          "[training]", "local_batch_size = 32", "global_batch_size = 64", "seq_len = 4096",
          "[activation_checkpoint]", "mode = \"none\""));
  const auto by_file = *torchtitan_config(plan("v-half", {2, 2, 2, 2}), 64, "plan/schedule.csv");
  EXPECT_THAT(by_file, Contains("pipeline_parallel_schedule = \"_PipelineScheduleRuntime\""));
  EXPECT_THAT(by_file, Contains("pipeline_parallel_schedule_csv = \"plan/schedule.csv\""));
  EXPECT_FALSE(torchtitan_config(plan("dualpipe", {4, 4}), 64, "x.csv")) << "a stage on two ranks";
}

}  // namespace
}  // namespace plumb
