#include "tools/planner/sensitivity.hpp"

#include "schedules/generators/generator.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr std::int64_t ms = 1'000'000;

TEST(Sensitivity, IsAsLargeAsThePartOfTheStep) {
  // Two stages, 3 microbatches of 1F1B: (3 + 1) x (F + B), with F = 10 ms of gemm, B = 15 of gemm and 5 of
  // attention: 120 ms, of which a tenth of gemm is 10 and a tenth of attention 2. Messages of 1 ms go forth
  // and back once: 0.2; the last reduction, of 2 ms: 0.2.
  CostModel cost;
  cost.classes = {"gemm", "attention", "unused"};
  StageCost stage;
  stage.forward.recipe = {{Lane::compute, {10 * ms}, WorkClass{0}, "f", false}};
  stage.backward.recipe = {{Lane::compute, {15 * ms}, WorkClass{0}, "b", false},
                           {Lane::compute, {5 * ms}, WorkClass{1}, "a", false}};
  stage.gradient_reduction = {2 * ms};
  cost.stages = {stage};
  cost.link.latency = {1 * ms};
  const LoweredSchedule schedule =
      make_lowered(generator("1f1b"), {2, 3, std::nullopt, std::nullopt}, {CommPlacement::per_op, 2});
  const std::vector<Sensitivity> all = sensitivity(schedule, cost, {});
  const auto find = [&](const std::string& name) {
    for (const Sensitivity& one : all) {
      if (one.cost == name) return one.longer - one.shorter;
    }
    return Duration{-1};
  };
  EXPECT_EQ(all.front().cost, "gemm");
  EXPECT_EQ(find("gemm").ns, 20 * ms);
  EXPECT_EQ(find("attention").ns, 4 * ms);
  EXPECT_GT(find("pipeline messages").ns, 0);
  EXPECT_EQ(find("gradient reduction").ns, 2 * 2 * ms / 10);
  EXPECT_EQ(find("optimizer step").ns, 0);
  EXPECT_EQ(find("unused").ns, -1) << "no op has any";
}

TEST(WithClassScaled, LeavesTheOtherClasses) {
  CostModel cost;
  cost.stages.resize(1);
  cost.stages[0].forward.recipe = {{Lane::compute, {15}, WorkClass{0}, "f", false},
                                   {Lane::communication, {15}, WorkClass{1}, "c", false}};
  const CostModel scaled = with_class_scaled(cost, WorkClass{1}, 1'100'000);
  EXPECT_EQ(scaled.stages[0].forward.recipe[0].duration.ns, 15);
  EXPECT_EQ(scaled.stages[0].forward.recipe[1].duration.ns, 17) << "16.5, to the nearest";
}

}  // namespace
}  // namespace plumb
