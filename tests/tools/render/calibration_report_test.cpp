#include "tools/render/calibration_svg.hpp"
#include "tools/render/calibration_tables.hpp"
#include "tools/render/common_words.hpp"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb::render {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Summary around(std::int64_t ns) {
  Summary s;
  s.samples = 40;
  s.minimum = s.lower_quartile = s.low = {ns - ns / 100};
  s.median = {ns};
  s.maximum = s.upper_quartile = s.high = {ns + ns / 100};
  return s;
}

TimedWork work(WorkKind kind, std::int64_t ns, std::optional<std::uint32_t> rank = {}) {
  return {{"layer", "mlp", kind, {{"hidden", 2048}}, "bf16"}, {}, rank, "gemm", around(ns), {}};
}

Calibration measured() {
  Calibration c;
  c.name = "a < b & \"c\"";
  c.classes = {"gemm"};
  c.work = {work(WorkKind::forward, 100'000), work(WorkKind::backward_input, 120'000)};
  const TransferKey key{TransferKind::hop, "nccl", "", {0, 1}, 1, {}};
  for (const std::int64_t bytes : {0, 1'000, 10'000, 100'000}) {
    add(c, {Transfer{key, {{bytes}, around(10'000 + bytes)}}, {}});
  }
  const SlowdownKey beside{"gemm", "send_recv", 4, {}};
  add(c, {Slowdown{beside, around(1'000), around(1'300)}, {}});
  derive_layer(c);
  return c;
}

const Table& table(const std::vector<TitledTable>& tables, const std::string& title) {
  const auto found = std::find_if(tables.begin(), tables.end(),
                                  [&](const TitledTable& t) { return t.title.starts_with(title); });
  EXPECT_NE(found, tables.end()) << title;
  return found->table;
}

TEST(CalibrationReport, SaysOfAFitHowFarItIsOffOnlyWhereASizeCanBeHeldOut) {
  // 10 us and 1 ns a byte at four sizes: one straight piece that misses none, seen or unseen.
  const auto row = table(calibration_tables(measured()), "Messages").rows[0];
  EXPECT_EQ((std::vector<std::string>(row.begin() + 5, row.end())),
            (std::vector<std::string>{"1", "0.0", "0.0", "0.0"}));
  Calibration one;
  add(one, {Transfer{{TransferKind::hop, "local", "", {0, 1}, 1, {}}, {{4096}, around(10'000)}}, {}});
  const auto alone = table(calibration_tables(one), "Messages").rows[0];
  EXPECT_EQ((std::vector<std::string>(alone.begin() + 5, alone.end())),
            (std::vector<std::string>{"1", "0.0", "", ""}));
}

TEST(CalibrationReport, ProvenanceStandsInTwoColumnsHoweverLongAName) {
  Provenance p;
  p.host = "here";
  p.environment = {{"CUDA_DEVICE_MAX_CONNECTIONS", "32"}};
  EXPECT_EQ(provenance_lines(p),
            (std::vector<std::string>{"host                        here", "CUDA_DEVICE_MAX_CONNECTIONS 32"}));
}

TEST(CalibrationReport, WorkIsARowAndItsKindsAreColumns) {
  const auto tables = calibration_tables(measured());
  const Table& rows = table(tables, "Work");
  ASSERT_EQ(rows.rows.size(), 1u);
  EXPECT_EQ(rows.head, (std::vector<std::string>{"work", "forward us", "backward_input us", "+- %", "samples",
                                                 "set aside", "unsteady"}));
  // The interval is 2 % wide: ±1 %.
  EXPECT_EQ(rows.rows[0], (std::vector<std::string>{"layer", "100.00", "120.00", "1.00", "80", "0", ""}));
  EXPECT_EQ(tables[1].title,
            "Work: medians\nbf16 [mlp] hidden=2048, whole GPU; where a row says nothing else");
}

// Two stages and a product: hidden and sequence are all stages'; layers are not all alike, a head is one's.
TEST(CalibrationReport, WhatAllWorkHasInCommonIsSaidOnce) {
  Calibration c;
  const auto add_work = [&](WorkKey key, const Setting& setting) {
    c.work.push_back({std::move(key), setting, {}, "gemm", around(1'000), {}});
  };
  const auto stage = [](std::int64_t layers) {
    return WorkKey{
        "stage", "mlp", WorkKind::forward, {{"hidden", 64}, {"layers", layers}, {"sequence", 8}}, "bf16"};
  };
  add_work(stage(1), {});
  WorkKey last = stage(2);
  last.shape["head"] = 1;
  add_work(last, {});
  add_work({"gemm", "", WorkKind::forward, {{"k", 64}, {"m", 8}, {"n", 64}}, "bf16"}, {});
  const Setting share{Share::partition, 16, 8, true};
  add_work(stage(1), share);
  const auto tables = calibration_tables(c);
  const Table& rows = table(tables, "Work");
  ASSERT_EQ(rows.rows.size(), 4u);
  EXPECT_EQ(rows.rows[0][0], "stage layers=1");
  EXPECT_EQ(rows.rows[1][0], "stage head=1 layers=2");
  EXPECT_EQ(rows.rows[2][0], "gemm k=64 m=8 n=64");
  EXPECT_EQ(rows.rows[3][0], "stage layers=1, partition of 16 SMs, 1 of 8, others busy");
  EXPECT_THAT(tables[0].title, HasSubstr("bf16 [mlp] hidden=64 sequence=8, whole GPU;"));
}

TEST(CalibrationReport, TailsOfPartsAreARowAPart) {
  Calibration c;
  for (const WorkKind kind : {WorkKind::forward, WorkKind::backward_weight}) {
    c.work.push_back(work(kind, 100'000));
    c.work.back().tail_ppm = kind == WorkKind::forward ? 120'000 : 15'500;
  }
  const auto tables = calibration_tables(c);
  EXPECT_EQ(table(tables, "Tails").rows,
            (std::vector<std::vector<std::string>>{{"layer", "12.0", "", "1.6"}}));
  EXPECT_THAT(calibration_tables(measured()),
              Not(::testing::Contains(::testing::Field(&TitledTable::title, HasSubstr("Tails")))));
}

TEST(CalibrationReport, RanksThatDifferAreNotAveragedAway) {
  Calibration c;
  for (std::uint32_t rank = 0; rank < 4; ++rank) {
    c.work.push_back(work(WorkKind::forward, rank == 2 ? 110'000 : 100'000, rank));
  }
  const auto tables = calibration_tables(c);
  const Table& ranks = table(tables, "Ranks");
  ASSERT_EQ(ranks.rows.size(), 4u);
  EXPECT_EQ(ranks.rows[2][1], "1.1000");
  EXPECT_EQ(ranks.rows[1][1], "1.0000");
}

TEST(CalibrationReport, MessagesShowHowWellTheFitPredicts) {
  const auto tables = calibration_tables(measured());
  const Table& messages = table(tables, "Messages");
  ASSERT_EQ(messages.rows.size(), 1u);
  // 1 ns a byte behind 10 us: one piece, exact.
  EXPECT_EQ(messages.rows[0][1], "4");
  EXPECT_EQ(messages.rows[0][3], "110.00");
  EXPECT_EQ(messages.rows[0][5], "1");
  EXPECT_EQ(messages.rows[0][6], "0.0");
  EXPECT_EQ(held_out_line(measured()), "held-out sizes: 2 of 2 within 10 %");
  EXPECT_EQ(held_out_line(Calibration{}), "");
  EXPECT_EQ(table(tables, "Mutual").rows[0], (std::vector<std::string>{"gemm", "", "1.300"}));
}

TEST(CalibrationReport, EveryTableIsFull) {
  for (const TitledTable& part : calibration_tables(measured())) {
    for (const auto& row : part.table.rows) EXPECT_EQ(row.size(), part.table.head.size()) << part.title;
  }
}

TEST(CalibrationReport, ThePictureEscapesWhatItIsTold) {
  const std::string svg = calibration_svg(measured());
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; "));
  EXPECT_THAT(svg, HasSubstr("1.300"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_EQ(std::count(svg.begin(), svg.end(), '<'), std::count(svg.begin(), svg.end(), '>'));
  EXPECT_THAT(calibration_svg(Calibration{}), HasSubstr("No message"));
}

// 1 KiB in 5 us, and 6 MiB and a byte in 20 us: ticks from 4^5 to 4^12 bytes, and from 2 to 50 us, quartiles
// lying around the medians.
TEST(CalibrationReport, ThePicturesAxesHaveUnitsAndARaggedSizeIsHollow) {
  Calibration c;
  c.transfers.push_back({{TransferKind::one_way, "local", "", {0, 1}, 1, {}},
                         {{{1 << 10}, around(5'000)}, {{(6 << 20) + 1}, around(20'000)}},
                         std::nullopt});
  const std::string svg = calibration_svg(c);
  for (const char* words : {">size of a message<", ">time<", ">1 KiB<", ">16 MiB<", ">2 us<", ">50 us<",
                            "Messages and collectives: local, whole GPU", ">one_way, ranks 0&gt;1<"})
    EXPECT_THAT(svg, HasSubstr(words));
  EXPECT_THAT(svg, HasSubstr("fill=\"#ffffff\" stroke=\"#0b62a4\"><title>6291457 B"));
  EXPECT_THAT(svg, HasSubstr("fill=\"#0b62a4\" stroke=\"#0b62a4\"><title>1024 B"));
}

// `hidden` and the setting are two thirds of the names'; `stage` is a name's own, however often.
TEST(CalibrationReport, NamesSayOnceWhatMostHaveInCommon) {
  const CommonWords words =
      common_words({"stage forward bf16 [rms_norm swiglu] hidden=64, whole GPU",
                    "stage backward bf16 [rms_norm swiglu] hidden=64 layers=2, whole GPU",
                    "hop local, ranks 0>1, whole GPU, others busy, 4 B"});
  EXPECT_EQ(words.common, "bf16 [rms_norm swiglu] hidden=64, whole GPU");
  EXPECT_EQ(words.names, (std::vector<std::string>{"stage forward", "stage backward layers=2",
                                                   "hop local, ranks 0>1, others busy, 4 B"}));
  EXPECT_EQ(common_words({"a x=1, b", "a x=1, b"}).common, "") << "of two names none is the rule";
}

TEST(CalibrationReport, ProvenanceSaysWhichNcclItWasBuiltWithWhereTheyDiffer) {
  Provenance p;
  p.nccl_library = "2.28.3";
  p.nccl_header = "2.28.9";
  p.argv = {"plumb", "calibrate"};
  EXPECT_THAT(provenance_lines(p), ::testing::Contains(HasSubstr("2.28.3 (built with 2.28.9)")));
  p.nccl_header = p.nccl_library;
  EXPECT_THAT(provenance_lines(p), Not(::testing::Contains(HasSubstr("built with"))));
}

}  // namespace
}  // namespace plumb::render
