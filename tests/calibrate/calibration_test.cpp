#include "calibrate/calibration.hpp"

#include "schedules/ir/error.hpp"

#include <random>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::HasSubstr;

std::string with(const std::string& from, const std::string& to) {
  std::string content =
      R"({"schema":"plumb.calibration/1","name":"n","chunk_layers":4,"model_layers":8,"classes":["gemm"],)"
      R"("layer":{"forward":[{"name":"f","lane":"compute","class":"gemm","duration_ns":10}],)"
      R"("backward_input":[{"name":"i","lane":"compute","class":"gemm","duration_ns":20}],)"
      R"("backward_weight":[{"name":"w","lane":"compute","class":"gemm","duration_ns":30}],)"
      R"("backward":[{"name":"b","lane":"compute","class":"gemm","duration_ns":45}]},"link":{"latency_ns":5}})";
  if (!from.empty()) content.replace(content.find(from), from.size(), to);
  return content;
}

std::string refusal(const std::string& content) {
  try {
    parse_calibration(content, "file");
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Calibration, ReadsWhatWasMeasured) {
  const Calibration calibration = parse_calibration(with("", ""), "file");
  EXPECT_EQ(calibration.chunk_layers, 4u);
  EXPECT_EQ(calibration.backward.front().duration.ns, 45);
  EXPECT_EQ(calibration.link.latency.ns, 5);
  EXPECT_FALSE(calibration.link.bandwidth.has_value());
}

// Files of before held an exponent only where its error was below a tenth.
TEST(Calibration, AnExponentWithoutItsErrorIsKnownToATenth) {
  const Calibration calibration = parse_calibration(
      with(
          R"("link":{"latency_ns":5})",
          R"("link":{"latency_ns":5},"work":[{"name":"layer","kind":"forward","shape":{},"data_type":"bf16",)"
          R"("setting":{"share":"whole_gpu"},"class":"gemm",)"
          R"("time":{"samples":1,"median_ns":7,"clock_exponent_ppm":800000}}])"),
      "file");
  EXPECT_EQ(calibration.work.at(0).time.clock_exponent_ppm, 800'000);
  EXPECT_EQ(calibration.work.at(0).time.clock_exponent_error_ppm, 100'000);
}

TEST(Calibration, RefusesWithThePlace) {
  EXPECT_THAT(refusal(with("\"duration_ns\":10", "\"duration_ns\":-10")),
              HasSubstr("/layer/forward/0/duration_ns"));
  EXPECT_THAT(refusal(with("\"class\":\"gemm\"", "\"class\":\"gem\"")), HasSubstr("none of the classes"));
  EXPECT_THAT(refusal(with("\"latency_ns\"", "\"latency\"")),
              HasSubstr("/link has the unknown key \"latency\""));
  EXPECT_THAT(refusal(with("plumb.calibration/1", "plumb.calibration/9")), HasSubstr("/schema"));
  EXPECT_THAT(refusal("{"), HasSubstr("is not JSON"));
}

std::string written(const Calibration& calibration) {
  std::ostringstream out;
  write_calibration(out, calibration);
  return out.str();
}

Summary summary(std::int64_t median) {
  Summary s;
  s.samples = 30;
  s.minimum = {median - 4};
  s.lower_quartile = {median - 2};
  s.low = {median - 1};
  s.median = {median};
  s.high = {median + 1};
  s.upper_quartile = {median + 3};
  s.maximum = {median + 9};
  s.sm_clock_mhz = 1395;
  return s;
}

TimedWork layer(WorkKind kind, std::int64_t ns) {
  const Setting setting{Share::partition, 16, 8, true};
  const WorkKey key{"layer", "mlp", kind, {{"hidden", 2048}, {"ffn", 8192}, {"sequence", 4096}}, "bf16"};
  return {key, setting, std::nullopt, "gemm", summary(ns), Duration{3'000}};
}

Measurement message(TransferKind kind, std::int64_t bytes, std::int64_t ns) {
  const TransferKey key{kind, "nccl", "one gpu", {0, 1}, 1, {Share::process, 0, 2, true}};
  return {Transfer{key, {{bytes}, summary(ns)}}, {}};
}

Calibration measured() {
  Calibration calibration;
  calibration.name = "a \"measured\" one";
  calibration.provenance.gpu = "NVIDIA H200";
  calibration.provenance.sms = 132;
  calibration.provenance.gpu_memory = {150'754'820'096};
  calibration.provenance.argv = {"plumb", "calibrate", "--model", "mlp"};
  calibration.provenance.environment = {{"CUDA_MODULE_LOADING", "EAGER"}};
  calibration.provenance.notes = {{"driver_mode", "virtual machine"}};
  calibration.activation_message = {1 << 20};
  for (const auto& [kind, ns] : {std::pair{WorkKind::forward, 2'000},
                                 {WorkKind::backward_input, 2'100},
                                 {WorkKind::backward_weight, 1'900},
                                 {WorkKind::backward, 3'900}}) {
    add(calibration, {layer(kind, ns), {}});
  }
  TimedWork apart = layer(WorkKind::forward, 2'222);
  apart.work.shape["sequence"] = 8192;
  apart.rank = 3;
  apart.time.set_aside = 2;
  apart.time.clock_exponent_ppm = 800'000;
  apart.time.clock_exponent_error_ppm = 30'000;
  apart.setting.flushed = true;
  apart.setting.others_compute = OthersCompute::pairs;
  apart.tail_ppm = 120'000;
  apart.time.steadiness = Steadiness::bimodal;
  add(calibration, {apart, {}});
  for (const std::int64_t bytes : {1 << 22, 1 << 10, 1 << 20}) {
    add(calibration, message(TransferKind::one_way, bytes, 10'000 + bytes / 100));
    add(calibration, message(TransferKind::hop, bytes, 30'000 + bytes / 50));
  }
  const SlowdownKey beside{"gemm", "send_recv", 4, {Share::whole_gpu, 0, 1, false}};
  add(calibration, {Slowdown{beside, summary(1'000), summary(1'150)}, {}});
  const SlowdownKey back{"send_recv", "gemm", 4, {Share::whole_gpu, 0, 1, false}};
  add(calibration,
      {Slowdown{back, summary(1'000), summary(1'500), Ratio{1'000'000, 990'000, 1'010'000}}, {}});
  MeasuredMemory memory;
  memory.work = layer(WorkKind::forward, 0).work;
  memory.kept_by_forward = {83'886'080};
  memory.workspace[WorkKind::backward] = {32'768};
  add(calibration, {memory, {}});
  calibration.missing = {"something else"};
  calibration.algorithms = {{"forward 4096x8192x2048 bf16", "00ff"}};
  derive_layer(calibration);
  return calibration;
}

TEST(Calibration, MeasurementsReadBackEqual) {
  const Calibration calibration = measured();
  const Calibration again = parse_calibration(written(calibration), "file");
  EXPECT_EQ(again.provenance, calibration.provenance);
  EXPECT_EQ(again.work, calibration.work);
  EXPECT_EQ(again.transfers, calibration.transfers);
  EXPECT_EQ(again.slowdowns, calibration.slowdowns);
  EXPECT_EQ(again.memory, calibration.memory);
  EXPECT_EQ(again, calibration);
  EXPECT_EQ(written(again), written(calibration));
}

TEST(Calibration, BundledOnesReadBackEqual) {
  for (const auto& [name, content] : bundled_calibrations()) {
    const Calibration calibration = parse_calibration(content, name);
    EXPECT_EQ(parse_calibration(written(calibration), name), calibration);
  }
}

TEST(Calibration, AnEmptyOneReadsBackEqual) {
  Calibration calibration;
  calibration.name = "begun";
  calibration.classes = {"gemm"};
  calibration.missing = {"all of it"};
  // No layer and no measurement: only a document that says what it waits for may be so.
  EXPECT_EQ(parse_calibration(written(calibration), "file"), calibration);
  calibration.missing.clear();
  EXPECT_THAT(refusal(written(calibration)), HasSubstr("layer"));
}

TEST(Calibration, DerivesTheLayerFromWhatWasMeasured) {
  const Calibration calibration = measured();
  ASSERT_EQ(calibration.forward.size(), 1u);
  EXPECT_EQ(calibration.forward[0].duration.ns, 2'000)
      << "not of the other sequence, which has one kind only";
  EXPECT_EQ(calibration.backward[0].duration.ns, 3'900) << "measured, not the sum of its halves";
  EXPECT_EQ(calibration.sources.at("backward"), "measured");
  // The hop in situ at 1 MiB: 30,000 ns + 1,048,576 B at 50 B/ns.
  EXPECT_NEAR(static_cast<double>(calibration.link.latency.ns), 30e3, 60);
  EXPECT_NEAR(calibration.link.bandwidth->value, 50e9, 0.1e9);
  EXPECT_EQ(calibration.sources.at("link"), "measured");
  EXPECT_EQ(calibration.classes, (std::vector<std::string>{"gemm", "send_recv"}));
  // Measured: gemm beside send_recv. Everything else slows nothing.
  const std::vector<std::vector<std::uint32_t>> matrix{{1'000'000, 1'150'000}, {1'000'000, 1'000'000}};
  EXPECT_EQ(calibration.slowdown_ppm, matrix);
  EXPECT_EQ(calibration.message_class, WorkClass{1});
}

TEST(Calibration, ALayerOfAClassThatNobodySlowsIsReadBack) {
  Calibration calibration;
  calibration.name = "classes";
  add(calibration, {layer(WorkKind::forward, 10), {}});
  calibration.work[0].work_class = "attention";
  add(calibration, {Slowdown{{"gemm", "send_recv", 2, {}}, summary(10), summary(12)}, {}});
  derive_layer(calibration);
  EXPECT_EQ(calibration.classes[calibration.forward[0].work_class.value], "attention");
  EXPECT_EQ(parse_calibration(written(calibration), "file"), calibration);
}

TEST(Calibration, ASumOfHalvesIsCalledEstimated) {
  Calibration calibration;
  calibration.name = "halves";
  add(calibration, {layer(WorkKind::backward_input, 70), {}});
  add(calibration, {layer(WorkKind::backward_weight, 50), {}});
  derive_layer(calibration);
  EXPECT_EQ(calibration.backward[0].duration.ns, 120);
  EXPECT_EQ(calibration.sources.at("backward"), "estimated");
  EXPECT_TRUE(calibration.forward.empty());
  EXPECT_EQ(parse_calibration(written(calibration), "file"), calibration);
}

TEST(Calibration, AddingReplacesTheSameTargetOnTheSameRank) {
  Calibration calibration;
  add(calibration, {layer(WorkKind::forward, 10), {}});
  add(calibration, {layer(WorkKind::forward, 20), {}});
  TimedWork other = layer(WorkKind::forward, 30);
  other.rank = 1;
  add(calibration, {other, {}});
  ASSERT_EQ(calibration.work.size(), 2u);
  EXPECT_EQ(calibration.work[0].time.median.ns, 20);
  add(calibration, message(TransferKind::hop, 1024, 5));
  add(calibration, message(TransferKind::hop, 1024, 7));
  ASSERT_EQ(calibration.transfers.size(), 1u);
  ASSERT_EQ(calibration.transfers[0].points.size(), 1u);
  EXPECT_EQ(calibration.transfers[0].fit->knots[0].duration.ns, 7);
}

TEST(Calibration, KnowsWhatItHolds) {
  const Calibration calibration = measured();
  for (const TimedWork& one : calibration.work)
    EXPECT_TRUE(holds(calibration, WorkTarget{one.work, one.setting}));
  WorkTarget other{calibration.work[0].work, {}};
  EXPECT_FALSE(holds(calibration, other)) << "another setting";
  EXPECT_TRUE(holds(calibration, TransferTarget{calibration.transfers[0].key, {1024}}));
  EXPECT_FALSE(holds(calibration, TransferTarget{calibration.transfers[0].key, {2048}}));
  EXPECT_TRUE(holds(calibration, SlowdownTarget{calibration.slowdowns[0].key}));
  EXPECT_TRUE(holds(calibration, MemoryTarget{calibration.memory[0].work}));
}

TEST(Calibration, MeasurementsAreRefusedWithThePlace) {
  const std::string good = written(measured());
  const auto broken = [&](const std::string& from, const std::string& to) {
    std::string content = good;
    const auto at = content.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    content.replace(at, from.size(), to);
    return refusal(content);
  };
  EXPECT_THAT(broken("\"samples\":30", "\"samples\":0"), HasSubstr("/work/0/time/samples"));
  EXPECT_THAT(broken("\"min_ns\":1996", "\"min_ns\":9999"), HasSubstr("/work/0/time has quantiles"));
  EXPECT_THAT(broken("\"kind\":\"backward_input\"", "\"kind\":\"backwards\""), HasSubstr("/work/1/kind"));
  EXPECT_THAT(broken("\"share\":\"partition\"", "\"share\":\"slice\""), HasSubstr("/setting/share"));
  EXPECT_THAT(broken("\"bytes\":1048576", "\"bytes\":3"), HasSubstr("is no larger than the point before it"));
  EXPECT_THAT(broken("\"transport\"", "\"transports\""), HasSubstr("unknown key"));
  EXPECT_THAT(broken("\"ffn\":8192", "\"ffn\":-1"), HasSubstr("/work/0/shape/ffn"));
}

TEST(Calibration, AnyByteChangedIsReadOrRefusedAndNothingElse) {
  const std::string good = written(measured());
  std::mt19937 random(1);
  int refused = 0;
  for (int k = 0; k < 3'000; ++k) {
    std::string content = good;
    const std::size_t place = random() % content.size();
    switch (random() % 3) {
      case 0:
        content[place] = static_cast<char>(random() % 256);
        break;
      case 1:
        content.erase(place, 1 + random() % 40);
        break;
      default:
        content.resize(place);
    }
    refused += refusal(content) != "accepted";
  }
  EXPECT_GT(refused, 1'000);
}

TEST(Calibration, EveryBundledOneIsReadAndNamesItsSources) {
  ASSERT_FALSE(bundled_calibrations().empty());
  for (const auto& [name, content] : bundled_calibrations()) {
    const Calibration calibration = parse_calibration(content, name);
    EXPECT_EQ(calibration.name, name);
    EXPECT_EQ(calibration.sources.at("forward"), "measured");
    // DeepSeek's profile had no pipeline messages.
    const bool profile = name == "deepseek-v3-h800";
    EXPECT_EQ(calibration.sources.at(profile ? "p2p" : "link"), profile ? "assumed" : "measured");
  }
}

}  // namespace
}  // namespace plumb
