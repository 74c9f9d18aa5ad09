#include "schedules/ir/schedule_file.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/schedule_json.hpp"
#include "schedules/ir/schedule_text.hpp"

#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::HasSubstr;

// 1F1B by hand for 2 ranks and 2 microbatches.
constexpr const char* one_f_one_b =
    R"({"schema":"plumb.schedule/1","name":"1f1b","ranks":2,"stages":2,"microbatches":2,)"
    R"("actions":[["0F0","0F1","0B0","0B1"],["1F0","1B0","1F1","1B1"]]})";

std::string bad_input(std::string_view content) {
  try {
    parse_schedule(content, "in");
  } catch (const BadInput& error) {
    return error.what();
  }
  return "parsed";
}

std::vector<std::string> summary(const CheckResult& result) {
  std::vector<std::string> out;
  for (const Violation& v : result.violations) {
    out.push_back(std::to_string(v.rank) + ":" + std::to_string(v.index) + " " + v.action + " " +
                  std::string(to_string(v.kind)));
  }
  return out;
}
std::vector<std::string> violations(std::string_view content) {
  return summary(check(parse_schedule(content, "in")));
}

TEST(ScheduleFile, JsonReadsBackWhatItWrites) {
  const ScheduleFile file = parse_schedule(one_f_one_b, "in");
  EXPECT_TRUE(check(file).valid());
  std::ostringstream out;
  write_schedule_json(out, without_messages(file.lowered));
  EXPECT_EQ(out.str(), std::string(one_f_one_b) + "\n");
}

TEST(ScheduleFile, MessagesSurviveJsonAndText) {
  const Schedule schedule = without_messages(parse_schedule(one_f_one_b, "in").lowered);
  for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
    const LoweredSchedule lowered = lower(schedule, {placement, 1});
    std::ostringstream json, text;
    write_schedule_json(json, lowered);
    write_schedule_text(text, lowered);
    EXPECT_EQ(parse_schedule(json.str(), "json").lowered, lowered) << json.str();
    EXPECT_EQ(parse_schedule(text.str(), "text").lowered, lowered) << text.str();
    EXPECT_TRUE(check(parse_schedule(json.str(), "json")).valid());
  }
}

TEST(ScheduleFile, BatchesAreLeftoverSendsAndOwnReceives) {
  // By hand: rank 0's first forward leaves a send; it travels with the group ahead of the next action.
  const LoweredSchedule lowered =
      lower(without_messages(parse_schedule(one_f_one_b, "in").lowered), {CommPlacement::batched, 1});
  std::ostringstream text;
  write_schedule_text(text, lowered);
  EXPECT_EQ(text.str(),
            "plumb.schedule/1 1f1b ranks=2 stages=2 microbatches=2\n"
            "0: 0F0 { 0SEND_F0>1 } 0F1 { 0SEND_F1>1 0RECV_B0<1 } 0B0 { 0RECV_B1<1 } 0B1\n"
            "1: { 1RECV_F0<0 } 1F0 1B0 { 1SEND_B0>0 1RECV_F1<0 } 1F1 1B1 { 1SEND_B1>0 }\n");
}

TEST(ScheduleFile, PytorchCsvHasBlankCellsAndKeepsTheirCount) {
  const ScheduleFile file = parse_schedule("0F0,0F1,,0B0,0B1\n,1F0,1B0,1F1,1F1\n", "in");
  EXPECT_EQ(file.form, ScheduleForm::pytorch_csv);
  EXPECT_EQ(file.lowered.stages, 2u);
  EXPECT_EQ(file.lowered.microbatches, 2u);
  EXPECT_THAT(summary(check(file)), ::testing::ElementsAre("1:-1 1B1 missing", "1:4 1F1 doubled"));
}

TEST(ScheduleFile, TheLettersOf2024AreUnderstood) {
  // B was the input gradient and BW both halves.
  for (const char* csv : {"0F0,0B0,0W0,0F1,0BW1\n", "0F0,0B0,0W0,0F1,0B1,0W1\n"}) {
    const ScheduleFile file = parse_schedule(csv, "in");
    EXPECT_TRUE(check(file).valid()) << csv;
    EXPECT_EQ(std::get<Action>(file.lowered.per_rank[0].steps[1]).first().kind, OpKind::backward_input);
  }
}

TEST(ScheduleFile, TwoOwnersInACsvAreRefusedAndDualPipeVOffered) {
  const CheckResult result = check(parse_schedule("0F0,0B0,1F1,1B1\n1F0,1B0,0F1,0B1\n", "in"));
  ASSERT_THAT(summary(result), ::testing::Contains(HasSubstr("two_owners")));
  EXPECT_THAT(result.violations.front().message, HasSubstr("dualpipe-v"));
}

TEST(ScheduleFile, BadJsonNamesThePlace) {
  EXPECT_THAT(
      bad_input(
          R"({"schema":"plumb.schedule/1","ranks":1,"stages":1,"microbatches":1,"actions":[["0F0","0X0"]]})"),
      HasSubstr("in: /actions/0/1: '0X0' is no action"));
  EXPECT_THAT(bad_input(R"({"schema":"plumb.schedule/2"})"), HasSubstr("/schema"));
  EXPECT_THAT(bad_input(R"({"schema":"plumb.schedule/1","ranks":-1})"), HasSubstr("/ranks"));
  EXPECT_THAT(bad_input(R"({"ranks":1,"ranks":1})"), HasSubstr("twice"));
  EXPECT_THAT(bad_input(R"({"schema":"plumb.schedule/1"})"), HasSubstr("has no key \"ranks\""));
  EXPECT_THAT(bad_input(R"({"schema":"plumb.schedule/1",)"), HasSubstr("is not JSON at byte"));
  EXPECT_THAT(bad_input("[1,2]"), HasSubstr("is a list"));
  EXPECT_THAT(bad_input(""), HasSubstr("is empty"));
  EXPECT_THAT(bad_input(R"({"x":)" + std::string(100000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(bad_input("0F0,frog\n"), HasSubstr("line 1, cell 2: 'frog' is no action"));
}

TEST(Check, NamesWhatIsMissingDoubledAndOutOfRange) {
  const std::string head = R"({"schema":"plumb.schedule/1","ranks":2,"stages":2,"microbatches":2,"actions":)";
  EXPECT_THAT(violations(head + R"([["0F0","0F1","0B0"],["1F0","1B0","1F1","1B1"]]})"),
              ::testing::ElementsAre("0:-1 0B1 missing"));
  EXPECT_THAT(violations(head + R"([["0F0","0F1","0F0","0B0","0B1"],["1F0","1B0","1F1","1B1"]]})"),
              ::testing::ElementsAre("0:2 0F0 doubled"));
  EXPECT_THAT(violations(head + R"([["0F0","0F1","0B0","0B1"],["1F0","1B0","1F1","1B1","1F2"]]})"),
              ::testing::ElementsAre("1:4 1F2 out_of_range"));
  EXPECT_THAT(violations(head + R"([["0F0","0F1","0B0","0B1"],["1B0","1F0","1F1","1B1"]]})"),
              ::testing::ElementsAre("1:0 1B0 out_of_order"));
  EXPECT_THAT(violations(head + R"([["0F0","0F1","0B0","1B1","0B1"],["1F0","1B0","1F1"]]})"),
              ::testing::ElementsAre("0:3 1B1 two_owners"));
  // Split backward: a weight gradient alone, and both spellings at once.
  EXPECT_THAT(violations(head + R"([["0F0","0F1","0I0","0B1"],["1F0","1B0","1F1","1B1","1W1"]]})"),
              ::testing::ElementsAre("0:-1 0W0 missing", "1:4 1W1 doubled"));
}

TEST(Check, FindsTheWaitCycleBetweenRanks) {
  const CheckResult result =
      check(parse_schedule(R"({"schema":"plumb.schedule/1","ranks":2,"stages":2,"microbatches":2,"actions":)"
                           R"([["0F0","0B0","0F1","0B1"],["1F0","1F1","1B0","1B1"]]})",
                           "in"));
  // Rank 0 stands at 0B0 for 1B0, which stands behind 1F1, which waits for 0F1 behind 0B0.
  EXPECT_THAT(summary(result), ::testing::ElementsAre("0:1 0B0 deadlock", "1:1 1F1 deadlock"));
  ASSERT_EQ(result.deadlock_cycle.size(), 2u);
  EXPECT_EQ(result.deadlock_cycle[0].action, "0B0");
  EXPECT_EQ(result.deadlock_cycle[1].action, "1F1");
  EXPECT_THAT(result.violations[0].message, HasSubstr("would break the cycle"));
}

TEST(Check, MessagesThatMeetNobodyAreNamed) {
  const std::string head = R"({"schema":"plumb.schedule/1","ranks":2,"stages":2,"microbatches":1,"actions":)";
  EXPECT_THAT(
      violations(head + R"([["0F0","0SEND_F0","0RECV_B0","0B0"],["1RECV_F0","1F0","1B0","1SEND_B0"]]})"),
      ::testing::IsEmpty());
  EXPECT_THAT(violations(head + R"([["0F0","0RECV_B0","0B0"],["1RECV_F0","1F0","1B0","1SEND_B0"]]})"),
              ::testing::ElementsAre("0:-1 0SEND_F0 missing"));
  EXPECT_THAT(
      violations(head + R"([["0SEND_F0","0F0","0RECV_B0","0B0"],["1RECV_F0","1F0","1B0","1SEND_B0"]]})"),
      ::testing::ElementsAre("0:0 0SEND_F0 out_of_order"));
}

TEST(Check, TwoSendsThatFaceEachOtherDeadlockUnderRendezvous) {
  // 1F1B's steady state with plain blocking calls: both ranks send first.
  const std::string head = R"({"schema":"plumb.schedule/1","ranks":2,"stages":2,"microbatches":2,"actions":)";
  const std::string crossed = R"([["0F0","0SEND_F0","0F1","0SEND_F1","0RECV_B0","0B0","0RECV_B1","0B1"],)"
                              R"(["1RECV_F0","1F0","1B0","1SEND_B0","1RECV_F1","1F1","1B1","1SEND_B1"]]})";
  const CheckResult result = check(parse_schedule(head + crossed, "in"));
  EXPECT_THAT(summary(result), ::testing::ElementsAre("0:3 0SEND_F1 deadlock", "1:3 1SEND_B0 deadlock"));
  // One group each, as Megatron does, and they pass.
  const std::string fused =
      R"([["0F0","0SEND_F0","0F1",{"group":[["0SEND_F1",1],["0RECV_B0",1]]},"0B0","0RECV_B1","0B1"],)"
      R"(["1RECV_F0","1F0","1B0",{"group":[["1SEND_B0",0],["1RECV_F1",0]]},"1F1","1B1","1SEND_B1"]]})";
  EXPECT_TRUE(check(parse_schedule(head + fused, "in")).valid());
}

TEST(Check, DeadlockGridMarksTheFailingCells) {
  const ScheduleFile file =
      parse_schedule(R"({"schema":"plumb.schedule/1","ranks":2,"stages":2,"microbatches":2,"actions":)"
                     R"([["0F0","0B0","0F1","0B1"],["1F0","1F1","1B0","1B1"]]})",
                     "in");
  EXPECT_EQ(check(file).deadlock_grid,
            "  element    0       1       2       3\n"
            "   rank 0   0F0    >0B0<    0F1     0B1\n"
            "   rank 1   1F0    >1F1<    1B0     1B1\n");
}

}  // namespace
}  // namespace plumb
