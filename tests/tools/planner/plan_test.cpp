#include "tools/planner/plan.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr Duration unit{1'000'000};

PlanRequest request(std::uint32_t ranks, std::vector<std::uint32_t> microbatches) {
  PlanRequest request;
  request.ranks = ranks;
  request.microbatches = std::move(microbatches);
  request.chunks = {2};
  return request;
}

CostsForStages share_of(std::uint32_t ranks) {
  const CostModel share = unit_costs({unit, unit, unit, std::nullopt, std::nullopt, Duration{}});
  return [share, ranks](std::uint32_t stages) { return scaled_to_stages(share, ranks, stages); };
}

const Plan* find(const PlanResult& result, std::string_view name) {
  const auto found = std::find_if(result.plans.begin(), result.plans.end(),
                                  [&](const Plan& plan) { return plan.generator->name == name; });
  return found == result.plans.end() ? nullptr : &*found;
}

TEST(Plan, ReproducesTheKnownStepTimesAtEqualResources) {
  // 8 ranks, 20 microbatches, F = I = W = 1 of a rank's layers, a pair 3: DualPipe's README has 66, the
  // zero-bubble papers 67 for ZB-H1 and (8 - 1 + 20) x 3 = 81 for 1F1B. A chunk of ZB-V holds half a rank's
  // layers: 127 chunk units (facts of its own replay) are 63.5.
  const PlanResult result = plan(request(8, {20}), share_of(8));
  EXPECT_EQ(find(result, "dualpipe")->report.step_time.ns, 66 * unit.ns);
  EXPECT_EQ(find(result, "1f1b")->report.step_time.ns, 81 * unit.ns);
  EXPECT_EQ(find(result, "zb-h1")->report.step_time.ns, 67 * unit.ns);
  EXPECT_EQ(find(result, "zb-v")->report.step_time.ns, 127 * unit.ns / 2);
  EXPECT_EQ(find(result, "dualpipe-v")->report.step_time.ns, 67 * unit.ns);
}

TEST(Plan, EveryPlanDoesTheSameWork) {
  const PlanResult result = plan(request(4, {8}), share_of(4));
  for (const Plan& one : result.plans) {
    Duration busy;
    for (const RankReport& rank : one.report.ranks) busy += rank.compute_busy;
    EXPECT_EQ(busy.ns, 4 * 8 * 3 * unit.ns) << one.generator->name;
  }
}

TEST(Plan, RanksByTimeAMicrobatch) {
  const PlanResult result = plan(request(4, {8, 32}), share_of(4));
  EXPECT_TRUE(std::is_sorted(result.plans.begin(), result.plans.end(), [](const Plan& a, const Plan& b) {
    return a.microbatches_per_s > b.microbatches_per_s;
  }));
  EXPECT_EQ(result.plans.front().shape.microbatches, 32u);
}

TEST(Plan, SaysWhatItRuledOutAndWhy) {
  PlanRequest tight = request(4, {6});
  tight.activation_limit = 3.0;
  const PlanResult result = plan(tight, share_of(4));
  for (const Plan& one : result.plans) EXPECT_LE(one.activation_share, 3.0) << one.generator->name;
  const auto reason = [&](std::string_view name) {
    for (const RuledOut& ruled : result.ruled_out) {
      if (ruled.schedule == name) return ruled.reason;
    }
    return std::string();
  };
  // DualPipe needs two microbatches a rank and direction: 6 < 2 x 4. GPipe holds all 6.
  EXPECT_THAT(reason("dualpipe"), ::testing::HasSubstr("dualpipe"));
  EXPECT_THAT(reason("gpipe"), ::testing::HasSubstr("holds 6 shares"));
}

TEST(Plan, TakesTheSmallestLegalGroupWhereTheDefaultLeavesAnIllegalRest) {
  // 120 microbatches on 16 ranks: by default groups of 120 / 7 = 17 and a rest of 1. Groups of 16, 18 and 19
  // leave 8, 12 and 6, fewer than the ranks; 20 leaves nothing.
  const Generator& interleaved = generator("interleaved-1f1b");
  EXPECT_EQ(nearest_legal_shape(interleaved, {16, 120, 2, {}}).group, 20u);
  EXPECT_EQ(nearest_legal_shape(interleaved, {16, 64, 2, {}}).group, std::nullopt) << "the default is legal";
  EXPECT_THROW(nearest_legal_shape(interleaved, {16, 120, 2, 17}), BadInput) << "as asked for, or not at all";
  EXPECT_THROW(nearest_legal_shape(generator("dualpipe"), {4, 6, {}, {}}), BadInput);
  const PlanResult result = plan(request(16, {120}), share_of(16));
  EXPECT_EQ(find(result, "interleaved-1f1b")->shape.group, 20u);
}

TEST(ScaledCosts, AreHalvedOnTwiceTheStages) {
  const CostModel share = unit_costs({unit, unit, unit, std::nullopt, Duration{2'500'000}, Duration{70}});
  const CostModel half = scaled_to_stages(share, 4, 8);
  EXPECT_EQ(total(half.stages.front().forward).ns, 500'000);
  EXPECT_EQ(half.any_pair->ns, 1'250'000);
  EXPECT_EQ(half.link.latency.ns, 70) << "a message is as long as before";
  CostModel uneven = share;
  uneven.stages.resize(4, share.stages.front());
  EXPECT_EQ(scaled_to_stages(uneven, 4, 4), uneven);
  EXPECT_THROW(scaled_to_stages(uneven, 4, 8), BadInput);
}

}  // namespace
}  // namespace plumb
