// The rules of the families, worked out by hand at small sizes from the papers' words; the sizes are chosen
// so that every special case of a rule is met once.
#include "schedules/generators/generator.hpp"
#include "tests/support/reference.hpp"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb::test {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> made(std::string_view name, std::uint32_t ranks, std::uint32_t microbatches,
                              std::optional<std::uint32_t> chunks = {},
                              std::optional<std::uint32_t> group = {}) {
  std::vector<std::string> lists;
  for (const auto& actions : make_schedule(generator(name), {ranks, microbatches, chunks, group}).actions) {
    lists.push_back(tokens(actions));
  }
  return lists;
}

TEST(Rule, GPipeRunsBackwardsInTheOrderOfTheForwards) {
  EXPECT_THAT(made("gpipe", 2, 2), ElementsAre("0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1"));
}

TEST(Rule, OneFOneBWarmsUpOncePerRankBehind) {
  EXPECT_THAT(made("1f1b", 3, 3),
              ElementsAre("0F0 0F1 0F2 0B0 0B1 0B2", "1F0 1F1 1B0 1F2 1B1 1B2", "2F0 2B0 2F1 2B1 2F2 2B2"));
}

TEST(Rule, OneFOneBTakesFewerMicrobatchesThanRanks) {
  EXPECT_THAT(made("1f1b", 3, 1), ElementsAre("0F0 0B0", "1F0 1B0", "2F0 2B0"));
}

TEST(Rule, LoopedBfsTurnsEverythingRound) {
  EXPECT_THAT(made("looped-bfs", 1, 2, 2), ElementsAre("0F0 0F1 1F0 1F1 1B1 1B0 0B1 0B0"));
}

// Groups {0,1,2} and {3,4}: forwards 0F0-2 2F0-2 0F3-4 2F3-4, backwards 2B0-2 0B0-2 2B3-4 0B3-4. Warm-up
// 2(p-1-r)+(v-1)g is 5 on rank 0 and 3 on rank 1.
TEST(Rule, InterleavedGoesThroughTheChunksGroupByGroupAndTheLastMayBeShort) {
  EXPECT_THAT(made("interleaved-1f1b", 2, 5, 2, 3),
              ElementsAre("0F0 0F1 0F2 2F0 2F1 2F2 2B0 0F3 2B1 0F4 2B2 2F3 0B0 2F4 0B1 0B2 2B3 2B4 0B3 0B4",
                          "1F0 1F1 1F2 3F0 3B0 3F1 3B1 3F2 3B2 1F3 1B0 1F4 1B1 3F3 1B2 3F4 3B3 3B4 1B3 1B4"));
}

// m = 5 on 2 ranks would leave a group of one, so the default group of 6 on 2 is 6 / (6/2) = 2, of 5 on 4
// all 5.
TEST(Rule, DefaultGroupIsMOverFloorOfMOverP) {
  EXPECT_EQ(made("interleaved-1f1b", 2, 6), made("interleaved-1f1b", 2, 6, 2, 2));
  EXPECT_EQ(made("interleaved-1f1b", 4, 5), made("interleaved-1f1b", 4, 5, 2, 5));
  EXPECT_EQ(made("interleaved-zb", 4, 10), made("interleaved-zb", 4, 10, 2, 5));
}

// Warm-up 2(p-1-r)+1: 3 on rank 0, 1 on rank 1.
TEST(Rule, OverlapPairsTheForwardAfterTheWarmUpWithTheOldestBackward) {
  EXPECT_THAT(made("1f1b-overlap", 2, 4),
              ElementsAre("0F0 0F1 0F2 (0F3;0B0)OVERLAP_F_B 0B1 0B2 0B3",
                          "1F0 (1F1;1B0)OVERLAP_F_B (1F2;1B1)OVERLAP_F_B (1F3;1B2)OVERLAP_F_B 1B3"));
}

// Warm-up 2(p-1-r)+(v-1)g+1: 5, of which there are 4, on rank 0; 3 on rank 1.
TEST(Rule, InterleavedOverlapWarmsUpOneMore) {
  EXPECT_THAT(made("interleaved-1f1b-overlap", 2, 2),
              ElementsAre("0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1", "1F0 1F1 3F0 (3F1;3B0)OVERLAP_F_B 3B1 1B0 1B1"));
}

// Warm-up p-1-r; backward_weight r behind.
TEST(Rule, ZbH1KeepsTheWeightsAsFarBehindAsTheRankIsDown) {
  EXPECT_THAT(made("zb-h1", 2, 3),
              ElementsAre("0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2", "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2"));
}

// Warm-up 2(p-1-r); backward_weight 2r behind.
TEST(Rule, ZbH2DoublesBoth) {
  EXPECT_THAT(made("zb-h2", 2, 3),
              ElementsAre("0F0 0F1 0F2 0I0 0W0 0I1 0W1 0I2 0W2", "1F0 1I0 1F1 1I1 1F2 1I2 1W0 1W1 1W2"));
  EXPECT_THAT(made("zb-h2", 2, 1), ElementsAre("0F0 0I0 0W0", "1F0 1I0 1W0"));
}

// Warm-up (v-1)g+(p-1-r): 3 and 2.
TEST(Rule, InterleavedZeroBubbleWarmsUpOncePerRankBehind) {
  EXPECT_THAT(made("interleaved-zb", 2, 2), ElementsAre("0F0 0F1 2F0 2F1 2I0 2W0 2I1 2W1 0I0 0W0 0I1 0W1",
                                                        "1F0 1F1 3F0 3I0 3F1 3I1 3W0 1I0 3W1 1I1 1W0 1W1"));
}

// n = 1, h = 0, so each part that counts n-h-1 is empty: [F0 F1] [F0 B1 FB(F1,B0)] [B1 I0] [W].
TEST(Rule, DualPipeOnTwoRanks) {
  EXPECT_THAT(made("dualpipe", 2, 4), ElementsAre("0F0 1F2 0F1 1B2 (1F3;0B0)OVERLAP_F_B 1B3 0I1 0W1",
                                                  "0F2 1F0 0F3 1B0 (1F1;0B2)OVERLAP_F_B 1B1 0I3 0W3"));
}

// n = 2. Rank 0, h = 0: 2 F0, [F0 F1], [I1 W F1], [FB FB], [B1 FB(F1,B0)], [B1 I0], [W I0], [W]; the first
// half of part 6 is its B1. Rank 1, h = 1: [F0 F1] twice, 2 of part 4 with the first pair apart, [B1 B0] [I1
// I0], [W W]: an odd h splits from B1 on.
TEST(Rule, DualPipeOnFourRanks) {
  const auto lists = made("dualpipe", 4, 8);
  EXPECT_EQ(lists[0],
            "0F0 0F1 0F2 3F4 3I4 3W4 3F5 (0F3;3B5)OVERLAP_F_B (3F6;0B0)OVERLAP_F_B 3B6 (3F7;0B1)OVERLAP_F_B "
            "3B7 0I2 0W2 0I3 0W3");
  EXPECT_EQ(lists[1],
            "1F0 2F4 1F1 2F5 1F2 2B4 (2F6;1B0)OVERLAP_F_B (1F3;2B5)OVERLAP_F_B (2F7;1B1)OVERLAP_F_B 2B6 1B2 "
            "2I7 1I3 2W7 1W3");
}

// The mirror of rank r is rank p-1-r with the streams exchanged.
TEST(Rule, DualPipeIsItsOwnMirror) {
  for (const auto& [p, m] : {std::pair{2u, 6u}, {4u, 8u}, {6u, 14u}, {8u, 16u}}) {
    const Schedule schedule = make_schedule(generator("dualpipe"), {p, m, {}, {}});
    for (std::uint32_t rank = 0; rank < p; ++rank) {
      std::vector<Action> mirrored;
      for (const Action& action : schedule.actions[p - 1 - rank]) {
        const auto mirror = [half = m / 2](Op op) {
          op.microbatch = Microbatch{(op.microbatch.value + half) % (2 * half)};
          return op;
        };
        mirrored.push_back(action.is_pair() ? Action(mirror(action.first()), mirror(action.second()))
                                            : Action(mirror(action.first())));
      }
      EXPECT_EQ(tokens(schedule.actions[rank]), tokens(mirrored));
    }
  }
}

// DualPipe of two ranks, of which only the first is left and hands over to itself.
TEST(Rule, DualPipeVOnOneRank) {
  EXPECT_THAT(made("dualpipe-v", 1, 2), ElementsAre("0F0 1F0 0F1 1B0 (1F1;0B0)OVERLAP_F_B 1B1 0I1 0W1"));
}

std::string with_messages(const LoweredRank& rank) {
  std::string text;
  for (const Step& step : rank.steps) {
    if (!text.empty()) text += ' ';
    if (const auto* action = std::get_if<Action>(&step)) text += to_string(*action);
    if (const auto* batch = std::get_if<CommBatch>(&step)) {
      std::string group;
      for (const Message& message : rank.messages_of(*batch)) {
        if (!group.empty()) group += ' ';
        group += to_string(message.op) + "@" + std::to_string(message.peer.value);
      }
      text += '[' + group + ']';
    }
  }
  return text;
}

// Before an action: what earlier ones left to send, then what it receives. 0F1 and 1B2 run one after the
// other and their sends leave together, with the next pair's receives.
TEST(Rule, DualPipeLaunchesLeftOverSendsWithTheNextReceives) {
  EXPECT_EQ(with_messages(generator("dualpipe").make_batched({2, 4, 1, {}}).per_rank[0]),
            "0F0 [0SEND_F0@1 1RECV_F2@1] 1F2 0F1 1B2 [0SEND_F1@1 1SEND_B2@1 1RECV_F3@1 0RECV_B0@1] "
            "(1F3;0B0)OVERLAP_F_B 1B3 [1SEND_B3@1 0RECV_B1@1] 0I1 0W1");
}

// Nothing is sent at the bottom of the V: one rank has no messages at all.
TEST(Rule, DualPipeVHandsOverInPlaceOnItsLastRank) {
  EXPECT_TRUE(generator("dualpipe-v").make_batched({1, 2, 2, {}}).per_rank[0].messages.empty());
  const LoweredSchedule two = generator("dualpipe-v").make_batched({2, 4, 2, {}});
  for (const LoweredRank& rank : two.per_rank) {
    for (const Message& message : rank.messages) {
      EXPECT_FALSE(message.op.stage == Stage{1} && message.op.kind == OpKind::send_forward);
      EXPECT_FALSE(message.op.stage == Stage{2} && message.op.kind == OpKind::send_backward);
    }
  }
}

}  // namespace
}  // namespace plumb::test
