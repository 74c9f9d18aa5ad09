// Every family against the lists that the original projects' own code makes, token for token.
#include "tests/support/reference.hpp"

#include "schedules/generators/generator.hpp"

#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace plumb::test {
namespace {

struct Family {
  std::string name;    // ours
  std::string prefix;  // theirs
};

class EqualsReference : public ::testing::TestWithParam<Family> {};

TEST_P(EqualsReference, TokenForToken) {
  PLUMB_NEEDS_REFERENCE();
  const auto lists = reference_lists(GetParam().prefix);
  EXPECT_GE(lists.size(), 3u);
  for (const ReferenceList& list : lists) {
    const Generator& family = generator(GetParam().name);
    Shape shape{list.schedule.ranks(), list.schedule.microbatches, std::nullopt, std::nullopt};
    if (family.takes_chunks) shape.chunks = list.chunks;
    EXPECT_TRUE(same_actions(make_schedule(family, shape), list.schedule)) << list.file;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EqualsReference,
                         ::testing::Values(Family{"gpipe", "torch_gpipe_"}, Family{"1f1b", "zbpp_1f1b_"},
                                           Family{"interleaved-1f1b", "torch_interleaved1f1b_"},
                                           Family{"interleaved-1f1b", "zbpp_vpp_"},
                                           Family{"looped-bfs", "torch_loopedbfs_"},
                                           Family{"zb-h1", "zbpp_zb-h1_"}, Family{"zb-h2", "zbpp_zb-h2_"},
                                           Family{"interleaved-zb", "torch_interleavedzerobubble_"},
                                           Family{"zb-v", "torch_zbvzerobubble_"},
                                           Family{"chimera", "chimera_"},
                                           Family{"dualpipe", "dualpipe_"},
                                           Family{"dualpipe-v", "dualpipev_"},
                                           Family{"dualpipe-v", "torch_dualpipev_"}),
                         [](const auto& instance) {
                           std::string name = instance.param.prefix;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// A rank's list as the reference writes it down: tokens, and groups of (token, peer).
std::vector<Element> elements(const LoweredRank& rank) {
  std::vector<Element> list;
  for (const Step& step : rank.steps) {
    if (const auto* action = std::get_if<Action>(&step)) list.emplace_back(to_string(*action));
    if (const auto* batch = std::get_if<CommBatch>(&step)) {
      EXPECT_TRUE(batch->waited_together);
      Group group;
      for (const Message& message : rank.messages_of(*batch)) {
        group.emplace_back(to_string(message.op), message.peer.value);
      }
      list.emplace_back(group);
    }
  }
  return list;
}

TEST(BatchedMessages, AreTheReferenceRuntimesGroups) {
  PLUMB_NEEDS_REFERENCE();
  for (const auto& [name, prefix] : {Family{"dualpipe", "dualpipe_"}, Family{"dualpipe-v", "dualpipev_"}}) {
    const auto lists = reference_lists(prefix);
    EXPECT_EQ(lists.size(), 4u);
    for (const ReferenceList& list : lists) {
      const LoweredSchedule ours =
          make_lowered(generator(name), {list.schedule.ranks(), list.schedule.microbatches, {}, {}},
                       {.placement = CommPlacement::batched, .data_parallel = 1});
      for (std::uint32_t rank = 0; rank < ours.ranks(); ++rank) {
        EXPECT_EQ(elements(ours.per_rank[rank]), list.with_groups[rank]) << list.file << " rank " << rank;
      }
    }
  }
}

}  // namespace
}  // namespace plumb::test
