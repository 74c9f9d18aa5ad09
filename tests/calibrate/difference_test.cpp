#include "calibrate/difference.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

TimedWork gemm(std::int64_t m, std::int64_t ns, std::optional<std::uint32_t> rank = {}) {
  TimedWork work;
  work.work = {"gemm", "", WorkKind::forward, {{"m", m}}, "bf16"};
  work.time.samples = 1;
  work.time.median = {ns};
  work.rank = rank;
  return work;
}

TEST(Difference, ComparesWhatBothHoldAndPutsTheWorstFirst) {
  Calibration a;
  a.work = {gemm(1, 1000), gemm(2, 1000), gemm(3, 1000), gemm(4, 7, 1), gemm(5, 1)};
  Calibration b;
  b.work = {gemm(1, 1010), gemm(2, 950), gemm(3, 1000), gemm(4, 7, 2), gemm(6, 1)};
  const CalibrationDifference found = difference(a, b);
  ASSERT_EQ(found.figures.size(), 3u);
  EXPECT_EQ(found.figures[0].name, "gemm forward bf16 m=2, whole GPU");
  EXPECT_DOUBLE_EQ(relative(found.figures[0]), -0.05);
  EXPECT_EQ(found.only_in_a, 2u) << "another rank is another figure";
  EXPECT_EQ(found.only_in_b, 2u);
  EXPECT_DOUBLE_EQ(median_abs_relative(found), 0.01);  // of 0.05, 0.01, 0
}

TEST(Difference, MemoryDoesNotHideTimes) {
  Calibration a;
  a.work = {gemm(1, 1000)};
  MeasuredMemory memory;
  memory.work = gemm(1, 0).work;
  memory.kept_by_forward = {100};
  a.memory = {memory};
  Calibration b = a;
  b.work[0].time.median = {1100};
  EXPECT_DOUBLE_EQ(median_abs_relative(difference(a, b)), 0.1);
  EXPECT_DOUBLE_EQ(median_abs_relative(difference(a, b), "memory"), 0);
  a.work.clear();
  b.work.clear();
  EXPECT_DOUBLE_EQ(median_abs_relative(difference(a, b)), 0);
}

TEST(Difference, ADocumentOfOneLayerIsComparedByItsLayer) {
  const auto& [name, content] = *bundled_calibrations().begin();
  const Calibration a = parse_calibration(content, name);
  Calibration b = a;
  b.forward.front().duration.ns *= 2;
  const CalibrationDifference found = difference(a, b);
  EXPECT_EQ(found.figures.front().name, "layer forward");
  EXPECT_GT(relative(found.figures.front()), 0);
  EXPECT_EQ(found.only_in_a, 0u);
}

TEST(Difference, TellsTheClocksShareFromTheRest) {
  // 10 % longer at a clock 10 % lower: 1,100 x 1,350 = 1,000 x 1,485 cycles.
  Calibration a;
  a.work = {gemm(1, 1000)};
  a.work[0].time.sm_clock_mhz = 1485;
  Calibration b;
  b.work = {gemm(1, 1100)};
  b.work[0].time.sm_clock_mhz = 1350;
  EXPECT_DOUBLE_EQ(median_abs_relative(difference(a, b)), 0.1);
  EXPECT_DOUBLE_EQ(*median_abs_relative_cycles(difference(a, b)), 0);
  b.work[0].time.sm_clock_mhz = 0;
  EXPECT_FALSE(median_abs_relative_cycles(difference(a, b)));
}

TEST(Difference, OfNothingIsAWhole) {
  EXPECT_EQ(relative({"work", "x", "ns", 0, 0}), 0);
  EXPECT_EQ(relative({"work", "x", "ns", 0, 5}), 1);
}

}  // namespace
}  // namespace plumb
