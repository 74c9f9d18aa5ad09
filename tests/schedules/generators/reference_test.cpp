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
                         ::testing::Values(Family{"gpipe", "torch_gpipe_"}, Family{"1f1b", "zbpp_1f1b_"}),
                         [](const auto& instance) {
                           std::string name = instance.param.prefix;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace plumb::test
