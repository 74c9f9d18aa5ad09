#include "calibrate/ranks/measurement_message.hpp"

#include "schedules/ir/error.hpp"

#include <gtest/gtest.h>

namespace plumb::ranks {
namespace {

const Setting setting{Share::process, 16, 8, true};
const WorkKey work{"layer", "mlp", WorkKind::backward, {{"hidden", 2048}, {"ffn", 8192}}, "bf16"};

Measurement measured(const auto& figures) { return {figures, {{{1'000}, 1'755}, {{1'100}, 0}}}; }

Summary summary() { return summary_of(std::vector<Sample>{{{1'000}, 1'755}, {{1'100}, 0}}); }

TEST(MeasurementMessage, EverySortOfTargetComesBackAsItWas) {
  const StoppingRule rule{0.0125, 7, 300, Duration{123'456'789}};
  const std::vector<Target> targets{
      WorkTarget{work, setting},
      TransferTarget{{TransferKind::hop, "nccl", "", {3, 4}, 1, setting}, {16'777'216}},
      TransferTarget{{TransferKind::at_once, "nccl", "nvlink", {0, 1}, 4, {}}, {1'024}},
      SlowdownTarget{{"gemm", "all_reduce", 8, setting}},
      MemoryTarget{{"stage", "rms_norm swiglu", WorkKind::forward, {{"layers", 2}}, "fp32"}}};
  for (const Target& target : targets) {
    const Order order{{target}, rule};
    EXPECT_EQ(read_order(to_message(order)), order) << to_string(target);
  }
  const Order all{targets, rule};
  EXPECT_EQ(read_order(to_message(all)), all);
}

TEST(MeasurementMessage, FiguresAndSamplesComeBackAsTheyWere) {
  MeasuredMemory memory;
  memory.work = work;
  memory.work.kind = WorkKind::forward;
  memory.weights = {4'096};
  memory.workspace = {{WorkKind::backward, {512}}};
  const TransferKey key{TransferKind::all_reduce, "nccl", "", {0, 1, 2}, 1, setting};
  std::vector<Measurement> all{measured(TimedWork{work, setting, 2, "gemm", summary(), Duration{7'000}}),
                               measured(Transfer{key, {{65'536}, summary()}}),
                               measured(Slowdown{{"send_recv", "gemm", 2, setting}, summary(), summary()}),
                               Measurement{memory, {}}};
  const auto read = read_measured(to_message(all));
  ASSERT_EQ(read.size(), all.size());
  for (std::size_t k = 0; k < all.size(); ++k) {
    EXPECT_EQ(read[k].figures, all[k].figures) << k;
    EXPECT_EQ(read[k].samples, all[k].samples) << k;
  }
  EXPECT_TRUE(read_measured(to_message(std::vector<Measurement>{})).empty());
}

TEST(MeasurementMessage, WhatIsNoMessageIsRefused) {
  EXPECT_THROW(read_order("hop"), BadInput);
  EXPECT_THROW(read_order(to_message(std::vector<Measurement>{})), BadInput);
  EXPECT_THROW(read_measured(R"({"schema":"plumb.calibrate_measured/1","measured":[{"samples":[]}]})"),
               BadInput);
}

}  // namespace
}  // namespace plumb::ranks
