#include "calibrate/measurement.hpp"

#include "calibrate/provenance.hpp"
#include "calibrate/work.hpp"

#include <set>

#include <gtest/gtest.h>

namespace plumb {
namespace {

TEST(Measurement, TargetsHaveNamesOfTheirOwn) {
  const WorkKey forward{"layer", "mlp", WorkKind::forward, {{"hidden", 2048}}, "bf16"};
  WorkKey wide = forward;
  wide.shape["hidden"] = 4096;
  WorkKey single = forward;
  single.data_type = "fp32";
  const Setting part{Share::partition, 16, 8, true};
  const TransferKey hop{TransferKind::hop, "local", "one gpu", {0, 1}, 1, part};
  TransferKey back = hop;
  back.ranks = {1, 0};
  TransferKey both = hop;
  both.at_once = 4;
  const std::vector<Target> targets{
      WorkTarget{forward, part},   WorkTarget{forward, {}},
      WorkTarget{wide, part},      WorkTarget{single, part},
      MemoryTarget{forward},       TransferTarget{hop, {1024}},
      TransferTarget{hop, {512}},  TransferTarget{back, {512}},
      TransferTarget{both, {512}}, SlowdownTarget{{"gemm", "send_recv", 4, part}},
  };
  std::set<std::string> names;
  for (const Target& target : targets) names.insert(to_string(target));
  EXPECT_EQ(names.size(), targets.size());
  EXPECT_EQ(to_string(targets[0]),
            "layer forward bf16 [mlp] hidden=2048, partition of 16 SMs, 1 of 8, others busy");
  EXPECT_EQ(to_string(targets[5]),
            "hop local over one gpu, ranks 0>1, partition of 16 SMs, 1 of 8, others busy, 1024 B");
}

TEST(Measurement, WordsReadBack) {
  for (int k = 0; k < 6; ++k)
    EXPECT_EQ(parse_work_kind(words(static_cast<WorkKind>(k))), static_cast<WorkKind>(k));
  for (int k = 0; k < 8; ++k) {
    EXPECT_EQ(parse_transfer_kind(words(static_cast<TransferKind>(k))), static_cast<TransferKind>(k));
  }
  EXPECT_FALSE(parse_work_kind("F"));
}

TEST(Measurement, NobodyIsSpedUpByCompany) {
  Slowdown slowdown;
  slowdown.alone.median = {1000};
  slowdown.together.median = {1234};
  EXPECT_EQ(slowdown_ppm(slowdown), 1'234'000u);
  slowdown.together.median = {990};
  EXPECT_EQ(slowdown_ppm(slowdown), 1'000'000u);
  // Turns know better than medians of two times.
  slowdown.ratio = Ratio{1'100'000, 1'090'000, 1'110'000};
  EXPECT_EQ(slowdown_ppm(slowdown), 1'100'000u);
  slowdown.ratio = Ratio{999'000, 998'000, 1'001'000};
  EXPECT_EQ(slowdown_ppm(slowdown), 1'000'000u);
}

TEST(Provenance, BoardsOfOneChipAreOneClass) {
  EXPECT_TRUE(same_gpu_class("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"));
  EXPECT_TRUE(same_gpu_class("NVIDIA H200", "h200"));
  EXPECT_TRUE(same_gpu_class("NVIDIA A100-SXM4-80GB", "A100"));
  EXPECT_FALSE(same_gpu_class("NVIDIA H200", "NVIDIA H100 80GB HBM3"));
  EXPECT_FALSE(same_gpu_class("NVIDIA H800", "NVIDIA H200"));
  EXPECT_TRUE(same_gpu_class("", "NVIDIA H200"));
}

ModelShape mlp() {
  ModelShape model;
  model.architecture = Architecture::mlp;
  model.hidden = 2048;
  model.ffn = 8192;
  model.layers = 8;
  return model;
}

Layout layout() {
  Layout l;
  l.micro_batch_size = 1;
  l.sequence = 4096;
  l.stages.push_back({0, 4, 0, true, false, Recompute::none});
  l.stages.push_back({4, 4, 0, false, false, Recompute::full});
  return l;
}

TEST(Work, KeysHoldWhatMatters) {
  const WorkKey layer = layer_work(mlp(), layout(), 0, WorkKind::forward);
  EXPECT_EQ(to_string(layer), "layer forward bf16 [mlp] ffn=8192 hidden=2048 micro_batch=1 sequence=4096");
  // An embedding takes time, and recompute takes time in a backward only.
  EXPECT_NE(stage_work(mlp(), layout(), Stage{0}, WorkKind::forward).shape,
            stage_work(mlp(), layout(), Stage{1}, WorkKind::forward).shape);
  EXPECT_EQ(stage_work(mlp(), layout(), Stage{1}, WorkKind::forward).shape.count("recompute"), 0u);
  EXPECT_EQ(stage_work(mlp(), layout(), Stage{1}, WorkKind::backward).shape.at("recompute"), 2);
}

TEST(Work, AttentionsBackwardIsAClassOfItsOwn) {
  EXPECT_EQ(class_of(PartClass::attention, WorkKind::forward), "attention");
  EXPECT_EQ(class_of(PartClass::attention, WorkKind::backward_input), "attention_backward");
  EXPECT_EQ(class_of(PartClass::gemm, WorkKind::backward_input), "gemm");
  EXPECT_EQ(class_of(PartClass::memory, WorkKind::backward_input), "memory");
}

TEST(Work, MatrixProductsAreKnownByTheirShapeAlone) {
  Part qkv;
  qkv.name = "qkv";
  qkv.part_class = PartClass::gemm;
  qkv.gemm = {4096, 6144, 2048, 1};
  Part other = qkv;
  other.name = "gate_up";
  EXPECT_EQ(part_work(qkv, mlp(), layout(), WorkKind::forward),
            part_work(other, mlp(), layout(), WorkKind::forward));
  other.gemm.n = 1;
  EXPECT_NE(part_work(qkv, mlp(), layout(), WorkKind::forward),
            part_work(other, mlp(), layout(), WorkKind::forward));
}

}  // namespace
}  // namespace plumb
