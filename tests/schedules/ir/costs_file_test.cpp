#include "schedules/ir/costs_file.hpp"

#include "schedules/ir/error.hpp"

#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::HasSubstr;

template <class Run>
std::string refusal(Run run) {
  try {
    run();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

std::string list_refusal(std::string_view text) {
  return refusal([&] { parse_cost_list(text, "--costs"); });
}

TEST(CostList, HasDefaultsForTheWholeBackwardAndThePair) {
  const CostModel cost = parse_cost_list("forward=1ms,backward_input=1.5ms,backward_weight=500us", "--costs");
  EXPECT_EQ(total(cost.stages.front().backward).ns, 2'000'000);
  EXPECT_EQ(cost.any_pair->ns, 3'000'000);
  EXPECT_EQ(cost.link.latency.ns, 0);
}

TEST(CostList, TakesAWholeBackwardAlone) {
  const CostModel cost = parse_cost_list("forward=1s,backward=2s", "--costs");
  EXPECT_TRUE(cost.stages.front().backward_input.recipe.empty());
  EXPECT_EQ(cost.any_pair->ns, 3'000'000'000);
}

TEST(CostList, RefusesWithTheNameOfWhatIsWrong) {
  EXPECT_THAT(list_refusal("forward=1,backward=2ms"), HasSubstr("forward: '1' has no unit"));
  EXPECT_THAT(list_refusal("forward=-1ms,backward=2ms"), HasSubstr("'-1ms' is not a non-negative"));
  EXPECT_THAT(list_refusal("forward=nanms,backward=2ms"), HasSubstr("forward"));
  EXPECT_THAT(list_refusal("forward=1e3ms,backward=2ms"), HasSubstr("forward"));
  EXPECT_THAT(list_refusal("forward=infs,backward=2ms"), HasSubstr("forward"));
  EXPECT_THAT(list_refusal("forward=1ms,forward=1ms,backward=2ms"), HasSubstr("forward is given twice"));
  EXPECT_THAT(list_refusal("forward=1ms,backwards=2ms"), HasSubstr("'backwards' is not one of"));
  EXPECT_THAT(list_refusal("forward=1ms"), HasSubstr("needs backward, or both"));
  EXPECT_THAT(list_refusal("backward=1ms"), HasSubstr("forward is missing"));
  EXPECT_THAT(list_refusal("forward=99999999999s,backward=1ms"), HasSubstr("too large"));
  EXPECT_THAT(list_refusal("forward=1ms,,backward=2ms"), HasSubstr("is not name=duration"));
}

TEST(Units, DecimalsAreExactToTheNanosecond) {
  EXPECT_EQ(parse_duration("18.522ms", "x").ns, 18'522'000);
  EXPECT_EQ(parse_duration("0.0000005s", "x").ns, 500);
  EXPECT_EQ(parse_duration("1.5ns", "x").ns, 2) << "rounded half up";
  EXPECT_EQ(parse_bytes("80GiB", "x").count, 85'899'345'920);
}

TEST(CostsFile, ReadsUnevenStagesFromTotalsAlone) {
  const CostModel cost = parse_costs(
      R"({"schema":"plumb.costs/1","stages":[{"forward_ns":10,"backward_input_ns":12,"backward_weight_ns":8,"overlapped_ns":27},)"
      R"({"forward_ns":20,"backward_ns":40,"overlapped_ns":55}]})",
      "file");
  EXPECT_EQ(total(cost.stages[0].backward).ns, 20);
  // The pair saves what the stage that saves less does: 10 + 20 - 27 = 3, 20 + 40 - 55 = 5.
  EXPECT_EQ(cost.stated_pair(Stage{0}, Stage{1})->ns, 10 + 40 - 3);
  EXPECT_EQ(cost.stated_pair(Stage{1}, Stage{1})->ns, 55);
}

TEST(CostsFile, ReadsBackWhatItWrites) {
  CostModel cost;
  cost.name = "two lanes";
  cost.classes = {"gemm", "all_to_all"};
  cost.slowdown_ppm = {{1'000'000, 1'100'000}, {1'200'000, 1'000'000}};
  cost.message_class = WorkClass{1};
  cost.link = {Duration{5}, BytesPerSecond{4e10}};
  cost.links[{Rank{0}, Rank{1}}] = {Duration{9}, std::nullopt};
  cost.measured_pairs[{Stage{0}, Stage{1}}] = Duration{77};
  StageCost stage;
  stage.forward.recipe = {{Lane::compute, Duration{10}, WorkClass{0}, "attention \"x\"", false, 150'000},
                          {Lane::communication, Duration{20}, WorkClass{1}, "dispatch", true}};
  stage.forward.memory = {Bytes{100}, Bytes{50}, Bytes{-20}};
  stage.backward.recipe = stage.backward_input.recipe = stage.backward_weight.recipe = stage.forward.recipe;
  stage.weights = Bytes{1 << 20};
  stage.optimizer_step = Duration{70};
  stage.owner_exchange = Duration{60};
  cost.reserve = Bytes{1 << 30};
  cost.stages = {stage, stage};
  cost.sources = {{"forward", "measured"}};
  std::ostringstream out;
  write_costs(out, cost,
              {2, StageTotals{Duration{30}, Duration{30}, Duration{30}, Duration{30}, Duration{60}}});
  EXPECT_EQ(parse_costs(out.str(), "file"), cost) << out.str();
}

TEST(CostsFile, RefusesWithThePointer) {
  const auto refused = [](const std::string& content) {
    return refusal([&] { parse_costs(content, "file"); });
  };
  EXPECT_THAT(refused(R"({"schema":"plumb.costs/1","stages":[{"forward_n":1}]})"),
              HasSubstr("/stages/0 has the unknown key \"forward_n\""));
  EXPECT_THAT(refused(R"({"schema":"plumb.costs/1","stages":[{"forward_ns":1}]})"),
              HasSubstr("/stages/0 needs \"backward_ns\""));
  EXPECT_THAT(refused(R"({"schema":"plumb.costs/1","stages":[{"forward_ns":1.5,"backward_ns":1}]})"),
              HasSubstr("/stages/0/forward_ns is not an integer"));
  EXPECT_THAT(refused(R"({"schema":"plumb.costs/1","stages":[]})"), HasSubstr("/stages is empty"));
}

TEST(OpCosts, NameRankActionAndDuration) {
  const auto overrides =
      parse_op_costs("rank,action,duration_ns\n0,0F3,15\r\n1,(1F2;1B0)OVERLAP_F_B,70\n", "file");
  ASSERT_EQ(overrides.size(), 2u);
  EXPECT_EQ(overrides[0].action, Action(Op{Stage{0}, Microbatch{3}, OpKind::forward}));
  EXPECT_TRUE(overrides[1].action.is_pair());
  EXPECT_EQ(overrides[1].duration.ns, 70);
  const auto refused = [](const std::string& content) {
    return refusal([&] { parse_op_costs(content, "file"); });
  };
  EXPECT_THAT(refused("0,0F3,1.5\n"), HasSubstr("line 1"));
  EXPECT_THAT(refused("0,0F3,1\n0,0F3,2\n"), HasSubstr("given twice"));
  EXPECT_THAT(refused("0,0SEND_F3,1\n"), HasSubstr("names no compute action"));
  EXPECT_THAT(refused("x,0F3,1\n"), HasSubstr("names no rank"));
  EXPECT_THAT(refused("0F3\n"), HasSubstr("three columns"));
}

}  // namespace
}  // namespace plumb
