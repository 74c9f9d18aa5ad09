#include "calibrate/lookup.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

const Setting busy{Share::partition, 16, 8, true};

TimedWork gemm(std::int64_t m, std::int64_t n, std::int64_t ns, const Setting& setting = busy) {
  TimedWork work;
  work.work = {"gemm", "", WorkKind::forward, {{"m", m}, {"n", n}, {"k", 2048}}, "bf16"};
  work.setting = setting;
  work.time.samples = 30;
  work.time.median = {ns};
  return work;
}

Calibration table() {
  Calibration calibration;
  calibration.work = {gemm(1024, 4096, 100), gemm(4096, 4096, 340), gemm(2048, 1024, 60),
                      gemm(2048, 16384, 900), gemm(1024, 4096, 10, {})};
  return calibration;
}

TEST(Lookup, WhatWasMeasuredIsMeasured) {
  const auto found = find_duration(table(), gemm(1024, 4096, 0).work);
  ASSERT_TRUE(found);
  EXPECT_EQ(*found, (FoundDuration{{100}, false, ""}));
  EXPECT_EQ(find_duration(table(), gemm(1024, 4096, 0).work, Setting{})->duration.ns, 10)
      << "another setting";
}

TEST(Lookup, BetweenTwoShapesItInterpolatesAlongTheNearerPair) {
  // m = 2048 lies a third of the way from 1024 (100) to 4096 (340), a factor of 4 apart; n = 4096 lies
  // between 1024 and 16384, a factor of 16 apart.
  const auto found = find_duration(table(), gemm(2048, 4096, 0).work);
  ASSERT_TRUE(found);
  EXPECT_EQ(*found, (FoundDuration{{180}, true, "between m 1024 and 4096"}));
}

TEST(Lookup, NothingIsExtrapolated) {
  EXPECT_FALSE(find_duration(table(), gemm(8192, 4096, 0).work));
  EXPECT_FALSE(find_duration(table(), gemm(512, 4096, 0).work));
  EXPECT_FALSE(find_duration(table(), gemm(2000, 4000, 0).work)) << "two dimensions at once";
  WorkKey other = gemm(1024, 4096, 0).work;
  other.data_type = "fp32";
  EXPECT_FALSE(find_duration(table(), other));
  other = gemm(1024, 4096, 0).work;
  other.shape["count"] = 2;
  EXPECT_FALSE(find_duration(table(), other)) << "a dimension nobody measured";
}

TEST(Lookup, RanksCountAsTheirMedianUnlessOneIsNamed) {
  Calibration calibration;
  for (std::uint32_t rank = 0; rank < 5; ++rank) {
    calibration.work.push_back(gemm(1024, 1024, rank == 3 ? 500 : 100 + rank));
    calibration.work.back().rank = rank;
  }
  // 100 101 102 500 104
  EXPECT_EQ(find_duration(calibration, gemm(1024, 1024, 0).work)->duration.ns, 102);
  EXPECT_EQ(find_duration(calibration, gemm(1024, 1024, 0).work, busy, 3)->duration.ns, 500);
}

TEST(Lookup, BusyNeighboursAreTheMainSetting) {
  Calibration calibration = table();
  for (int k = 0; k < 9; ++k) calibration.work.push_back(gemm(100 + k, 1, 1, {}));
  EXPECT_EQ(main_setting(calibration), busy);
  EXPECT_EQ(main_setting(Calibration{}), Setting{});
}

TransferSeries series(TransferKind kind, std::vector<std::uint32_t> ranks) {
  TransferSeries s;
  s.key = {kind, "nccl", "", std::move(ranks), 1, {}};
  s.fit = LinkFit{{{{1024}, {10}}}, 0, 0, 0, 0};
  return s;
}

TEST(Lookup, AFlushedCacheIsNoMainSettingBesideAnother) {
  Calibration calibration;
  TimedWork one;
  one.setting = {Share::partition, 16, 8, true};
  calibration.work.push_back(one);
  one.setting.flushed = true;
  calibration.work.insert(calibration.work.end(), 3, one);
  EXPECT_FALSE(main_setting(calibration).flushed);
  calibration.work.erase(calibration.work.begin());
  EXPECT_TRUE(main_setting(calibration).flushed) << "there is no other";
}

TEST(Lookup, AHopInSituWinsOverAnIdleMessage) {
  Calibration calibration;
  EXPECT_EQ(find_messages(calibration), nullptr);
  calibration.transfers = {series(TransferKind::one_way, {2, 3}), series(TransferKind::one_way, {0, 1}),
                           series(TransferKind::all_reduce, {0, 1}), series(TransferKind::both_ways, {0, 1})};
  EXPECT_EQ(find_messages(calibration, 0, 1), &calibration.transfers[1]);
  EXPECT_EQ(find_messages(calibration, 5, 6), &calibration.transfers[0]) << "other ranks' rather than none";
  calibration.transfers.push_back(series(TransferKind::hop, {4, 5}));
  EXPECT_EQ(find_messages(calibration, 0, 1), &calibration.transfers[4]);
  EXPECT_EQ(find_collective(calibration, TransferKind::all_reduce, 2), &calibration.transfers[2]);
  EXPECT_EQ(find_collective(calibration, TransferKind::all_reduce, 4), nullptr);
}

}  // namespace
}  // namespace plumb
