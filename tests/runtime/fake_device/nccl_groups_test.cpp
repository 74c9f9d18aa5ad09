#include "runtime/cuda/nccl_groups.hpp"

#include "schedules/generators/generator.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb::cuda {
namespace {

using testing::UnorderedElementsAre;

LoweredSchedule lowered(const std::string& name, std::uint32_t ranks, CommPlacement placement,
                        std::uint32_t data_parallel = 1) {
  return make_lowered(generator(name), {ranks, 2 * ranks, std::nullopt, std::nullopt},
                      {placement, data_parallel});
}

TEST(NcclGroups, EachPairAndDirectionHasOneAndNoGradientsMeetIn1f1b) {
  const NcclGroups groups = nccl_groups(lowered("1f1b", 3, CommPlacement::per_op), {}, false);
  std::vector<std::vector<std::uint32_t>> workers;
  for (const auto& group : groups.groups) workers.push_back(group.workers);
  using Workers = std::vector<std::uint32_t>;
  EXPECT_THAT(workers, UnorderedElementsAre(Workers{0, 1}, Workers{1, 0}, Workers{1, 2}, Workers{2, 1}));
  EXPECT_TRUE(groups.parents.empty());
  EXPECT_TRUE(groups.of_sums.empty());
}

// A worker makes its groups one after another, each together with the other worker of it. 8 ranks in a row
// have 14 ways; a rank between two others is in 4 of them, so 4 rounds are the fewest: a group's turn is one
// behind the later of its workers' last ones.
TEST(NcclGroups, AreMadeInFourRoundsHoweverManyRanksStandInARow) {
  for (const char* name : {"1f1b", "dualpipe", "zb-v"}) {
    const NcclGroups groups = nccl_groups(lowered(name, 8, CommPlacement::per_op), {}, false);
    std::vector<int> turn(8);
    for (const auto& [ends, group] : groups.of_messages) EXPECT_LT(group, 14U);
    for (std::uint32_t g = 0; g < 14; ++g) {
      const auto& workers = groups.groups.at(g).workers;
      const int round = 1 + std::max(turn[workers[0]], turn[workers[1]]);
      turn[workers[0]] = turn[workers[1]] = round;
    }
    EXPECT_EQ(*std::max_element(turn.begin(), turn.end()), 4) << name;
  }
}

TEST(NcclGroups, WhatIsWaitedForTogetherIsOneOfThePipeline) {
  const NcclGroups groups = nccl_groups(lowered("1f1b", 3, CommPlacement::batched, 2), {}, true);
  const auto& of_first_copy = groups.groups.at(groups.of_messages.at({0, 1}));
  EXPECT_EQ(of_first_copy.workers, (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(groups.of_messages.at({0, 1}), groups.of_messages.at({2, 1}));
  EXPECT_NE(groups.of_messages.at({0, 1}), groups.of_messages.at({3, 4}));
  // Each stage's gradients meet those of the other copy.
  EXPECT_EQ(groups.of_sums.size(), 3U);
}

// In an own communicator, which may have other channels, also where messages have one of the same workers.
TEST(NcclGroups, SumsAndMessagesOfTheSameWorkersAreToldApart) {
  const NcclGroups groups = nccl_groups(lowered("dualpipe", 2, CommPlacement::per_op), {}, false);
  const std::uint32_t sum = groups.of_sums.at({0, 1});
  EXPECT_TRUE(groups.groups.at(sum).sums);
  for (const auto& [ends, group] : groups.of_messages) {
    EXPECT_NE(group, sum);
    EXPECT_FALSE(groups.groups.at(group).sums);
  }
}

// Four ranks in a row: 0-1 and 2-3 share no rank and part together, 1-2 needs a split of its own.
TEST(NcclGroups, NeighboursPartFromTheSameParentInTwoSplits) {
  const NcclGroups groups = nccl_groups(lowered("1f1b", 4, CommPlacement::per_op), {}, true);
  ASSERT_EQ(groups.parents.size(), 2U);
  for (const auto& parent : groups.parents) {
    EXPECT_EQ(parent.workers, (std::vector<std::uint32_t>{0, 1, 2, 3}));
    EXPECT_EQ(parent.splits, 2U);
  }
  const auto at = [&](std::uint32_t from, std::uint32_t to) {
    return groups.groups.at(groups.of_messages.at({from, to}));
  };
  EXPECT_EQ(at(0, 1).split, at(2, 3).split);
  EXPECT_NE(at(0, 1).part, at(2, 3).part);
  EXPECT_NE(at(0, 1).split, at(1, 2).split);
  EXPECT_NE(at(0, 1).parent, at(1, 0).parent);
}

TEST(NcclGroups, NoWorkerIsInTwoPartsOfASplit) {
  std::uint32_t schedules = 0;
  for (const Generator* generator : generators()) {
    for (std::uint32_t ranks = 2; ranks <= 8; ++ranks) {
      LoweredSchedule schedule;
      try {
        schedule = lowered(std::string(generator->name), ranks, CommPlacement::per_op, 2);
      } catch (const BadInput&) {
        continue;  // not a shape of this schedule
      }
      ++schedules;
      const NcclGroups groups = nccl_groups(schedule, {}, true);
      std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>> taken;
      for (const auto& group : groups.groups) {
        if (group.parent == no_index) continue;
        EXPECT_LT(group.split, groups.parents.at(group.parent).splits);
        for (const std::uint32_t worker : group.workers)
          EXPECT_TRUE(taken.insert({group.parent, group.split, worker}).second) << generator->name;
      }
      for (std::uint32_t r = 0; r < ranks; ++r) {
        for (const Message& message : schedule.per_rank[r].messages) {
          const std::uint32_t peer = message.peer.value;
          const std::pair ends = is_send(message.op.kind) ? std::pair{r, peer} : std::pair{peer, r};
          EXPECT_EQ(groups.groups.at(groups.of_messages.at(ends)).workers,
                    (std::vector<std::uint32_t>{ends.first, ends.second}));
        }
      }
    }
  }
  EXPECT_GE(schedules, 4 * generators().size());  // at 2, 4, 6 and 8 ranks at least
}

}  // namespace
}  // namespace plumb::cuda
