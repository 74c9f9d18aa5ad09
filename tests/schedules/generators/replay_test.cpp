// The replay that the other tests of generators lean on: by hand, and against the published metrics.
#include "tests/support/replay.hpp"

#include "tests/support/picture.hpp"
#include "tests/support/reference.hpp"

#include <cmath>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace plumb::test {
namespace {

using ::testing::ElementsAre;

Schedule read(std::uint32_t stages, std::uint32_t microbatches, const std::vector<std::string>& ranks) {
  Schedule schedule{"by hand", stages, microbatches, {}};
  for (const std::string& rank : ranks) {
    auto& actions = schedule.actions.emplace_back();
    std::istringstream words(rank);
    for (std::string token; words >> token;) actions.push_back(parse_action(token));
  }
  return schedule;
}

TEST(Replay, WaitsForInputsAndMessages) {
  // Rank 1 gets F0 at 1+10, F1 at 2+10, runs 11..12 F0, 12..14 B0, 14..15 F1, 15..17 B1. Rank 0 gets the
  // gradients at 24 and 27: B0 24..26, B1 27..29.
  const Replay r = replay(read(2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}), {.message = 10});
  ASSERT_TRUE(r.finished);
  EXPECT_EQ(r.makespan, 29);
  EXPECT_THAT(r.busy, ElementsAre(6, 6));
  EXPECT_THAT(r.rank_span, ElementsAre(29, 6));
  EXPECT_THAT(r.peak_live, ElementsAre(2, 1));
}

TEST(Replay, PairReleasesBothOutputsAtItsEnd) {
  // On one rank with two stages: F of microbatch 1 at stage 0 beside the backward of microbatch 0 at stage 1;
  // stage 1's forward of microbatch 1 begins when the pair has ended, at 2 + 3.
  const Replay r = replay(read(2, 2, {"0F0 1F0 (0F1;1B0)OVERLAP_F_B 1F1 0B0 1B1 0B1"}));
  ASSERT_TRUE(r.finished);
  EXPECT_EQ(r.times[0][3].begin, 5);
  EXPECT_EQ(r.makespan, 2 + 3 + 1 + 6);
  EXPECT_THAT(r.peak_live, ElementsAre(3));
}

TEST(Replay, SeesRanksThatWaitForOneAnother) {
  EXPECT_FALSE(replay(read(2, 1, {"0B0 0F0", "1F0 1B0"})).finished);
  EXPECT_EQ(fault(read(2, 1, {"0B0 0F0", "1F0 1B0"})), "the ranks wait for one another");
}

TEST(Replay, FaultNamesWhatIsWrong) {
  EXPECT_EQ(fault(read(1, 1, {"0F0 0I0 0W0"})), "");
  EXPECT_EQ(fault(read(1, 1, {"0F0 0I0"})), "stage 0 does microbatch 0 not exactly once");
  EXPECT_EQ(fault(read(1, 1, {"0F0 0B0 0W0"})), "stage 0 does microbatch 0 not exactly once");
  EXPECT_EQ(fault(read(1, 1, {"0F0 0F0 0B0"})), "stage 0 does microbatch 0 not exactly once");
  EXPECT_EQ(fault(read(1, 1, {"0F0", "0B0"})), "0B0 is on two ranks");
  EXPECT_EQ(fault(read(1, 1, {"0F1 0B0"})), "0F1 is out of range");
}

TEST(Picture, DrawsActionsToScale) {
  // Rank 0 waits for B0 until 4 and for B1 until 7.
  EXPECT_EQ(picture(read(2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"})),
            "p=2 m=2, 2 stages; F = I = W = 1, B = 2, a pair 3\n"
            "rank 0 |F0 F1       B0---    B1---\n"
            "rank 1 |   F0 B0--- F1 B1---\n");
  EXPECT_EQ(picture(read(2, 2, {"0F0 1F0 (0F1;1B0)OVERLAP_F_B 1F1 0B0 1I1 1W1 0B1"})),
            "p=1 m=2, 2 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage\n"
            "rank 0 |F0 f0 F1+b0--- f1 B0--- i1 w1 B1---\n");
  EXPECT_EQ(picture(read(3, 1, {"0F0 1F0 2F0 2B0 1B0 0B0"})),
            "p=1 m=1, 3 stages; F = I = W = 1, B = 2, a pair 3\n"
            "rank 0 |0F0 1F0 2F0 2B0---- 1B0---- 0B0----\n");
}

// Costs of the metrics have at most three decimals: in thousandths they are integers.
std::int64_t thousandths(double value) { return std::llround(value * 1000); }

TEST(Replay, EqualsThePublishedMetricsOfEveryValidList) {
  PLUMB_NEEDS_REFERENCE();
  std::ifstream in(reference_dir() + "/schedules/expected_metrics.json");
  const nlohmann::json metrics = nlohmann::json::parse(in);
  int compared = 0, refused = 0;
  for (const ReferenceList& list : reference_lists("")) {
    SCOPED_TRACE(list.file);
    const nlohmann::json& expected = metrics.at("schedules").at(list.file);
    if (expected.contains("INVALID")) {
      EXPECT_FALSE(replay(list.schedule).finished);
      ++refused;
      continue;
    }
    EXPECT_EQ(fault(list.schedule), "");
    for (const auto& [name, costs] : metrics.at("costs").items()) {
      SCOPED_TRACE(name);
      const Replay r = replay(list.schedule, {thousandths(costs.at("F")), thousandths(costs.at("I")),
                                              thousandths(costs.at("W")), thousandths(costs.at("B")),
                                              thousandths(costs.at("OV")), thousandths(costs.at("comm"))});
      const nlohmann::json& want = expected.at(name);
      EXPECT_EQ(r.makespan, thousandths(want.at("makespan")));
      for (std::size_t rank = 0; rank < r.busy.size(); ++rank) {
        EXPECT_EQ(r.idle(rank), thousandths(want.at("bubble_vs_makespan_per_rank").at(rank)));
        EXPECT_EQ(r.rank_span[rank] - r.busy[rank],
                  thousandths(want.at("bubble_within_span_per_rank").at(rank)));
        EXPECT_EQ(r.peak_live[rank], expected.at("peak_live_activations_per_rank").at(rank));
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 110 * 3);  // 115 lists, of which PyTorch's five of 1F1B never end
  EXPECT_EQ(refused, 5);
}

}  // namespace
}  // namespace plumb::test
