// What holds for every generator of the table at every small shape.
#include "schedules/generators/generator.hpp"
#include "schedules/ir/check.hpp"
#include "schedules/ir/error.hpp"
#include "tests/schedules/generators/shapes.hpp"
#include "tests/support/picture.hpp"
#include "tests/support/replay.hpp"

#include <cstdio>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb::test {
namespace {

class EveryGenerator : public ::testing::TestWithParam<const Generator*> {};

TEST_P(EveryGenerator, IsValidAndEndsInBothPlacementsOfMessages) {
  const Generator& family = *GetParam();
  int shapes = 0;
  for_every_shape(family, 8, [&](const Shape& shape) {
    SCOPED_TRACE(words_of(family, shape));
    ++shapes;
    const Schedule schedule = make_schedule(family, shape);
    EXPECT_EQ(schedule.name, family.name);
    EXPECT_EQ(schedule.ranks(), shape.ranks);
    EXPECT_EQ(schedule.microbatches, shape.microbatches);
    EXPECT_EQ(schedule.stages, shape.ranks * *shape.chunks);
    EXPECT_EQ(fault(schedule), "");
    const CheckResult alone = check(schedule);
    EXPECT_TRUE(alone.valid()) << alone.violations.front().message;
    for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
      const LoweredSchedule lowered = make_lowered(family, shape, {placement, 1});
      EXPECT_EQ(lowered.placement, placement);
      EXPECT_EQ(without_messages(lowered), schedule);
      const CheckResult result = check(lowered);
      EXPECT_TRUE(result.valid()) << result.violations.front().message;
    }
  });
  EXPECT_GE(shapes, 16);
}

TEST_P(EveryGenerator, HoldsAsManyCopiesAsItsRowSays) {
  const Generator& family = *GetParam();
  for_every_shape(family, 0, [&](const Shape& shape) {
    const Schedule schedule = make_schedule(family, shape);
    std::set<std::pair<std::uint32_t, Stage>> held;
    for (std::uint32_t rank = 0; rank < schedule.ranks(); ++rank) {
      for (const Action& action : schedule.actions[rank]) {
        for (const Op& op : action) held.emplace(rank, op.stage);
      }
    }
    EXPECT_EQ(held.size(), std::size_t{family.copies} * schedule.stages) << words_of(family, shape);
  });
}

// One Collective for every stage a rank holds, where more than one copy of it exists.
TEST_P(EveryGenerator, ReducesGradientsWhereThereAreSeveralCopies) {
  const Generator& family = *GetParam();
  for_every_shape(family, 0, [&](const Shape& shape) {
    if (shape.microbatches > 12 || shape.ranks > 4) return;
    for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
      for (const std::uint32_t data_parallel : {1u, 2u}) {
        const LoweredSchedule lowered = make_lowered(family, shape, {placement, data_parallel});
        EXPECT_EQ(lowered.data_parallel, data_parallel);
        std::size_t reductions = 0;
        for (const LoweredRank& rank : lowered.per_rank) {
          for (const Step& step : rank.steps) reductions += std::holds_alternative<Collective>(step);
        }
        const bool several = family.copies * data_parallel > 1;
        EXPECT_EQ(reductions, several ? std::size_t{family.copies} * lowered.stages : 0u)
            << words_of(family, shape);
      }
    }
  });
}

TEST_P(EveryGenerator, RowCarriesThePictureOfItsOwnSchedule) {
  const Generator& family = *GetParam();
  unsigned p = 0, m = 0, stages = 0;
  ASSERT_EQ(std::sscanf(std::string(family.picture).c_str(), "p=%u m=%u, %u stages", &p, &m, &stages), 3)
      << family.name << " has no picture";
  Shape shape{p, m, std::nullopt, std::nullopt};
  if (family.takes_chunks) shape.chunks = stages / p;
  EXPECT_EQ(family.picture, picture(make_schedule(family, shape)));
}

TEST_P(EveryGenerator, RowSaysWhatItIs) {
  const Generator& family = *GetParam();
  for (const std::string_view text :
       {family.title, family.paper, family.limits, family.bubble, family.memory}) {
    EXPECT_FALSE(text.empty()) << family.name;
  }
  EXPECT_EQ(find_generator(family.name), &family);
}

INSTANTIATE_TEST_SUITE_P(Table, EveryGenerator, ::testing::ValuesIn(generators().begin(), generators().end()),
                         [](const auto& instance) {
                           std::string name(instance.param->name);
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

std::string refusal(std::string_view name, const Shape& shape) {
  try {
    legal_shape(generator(name), shape);
  } catch (const BadInput& refused) {
    return refused.what();
  }
  return "";
}

TEST(Limits, NameTheLimit) {
  EXPECT_EQ(refusal("dualpipe", {3, 8, {}, {}}), "dualpipe: needs an even number of ranks, not 3");
  EXPECT_EQ(refusal("dualpipe", {2, 5, {}, {}}), "dualpipe: needs an even number of microbatches, not 5");
  EXPECT_EQ(refusal("dualpipe", {4, 6, {}, {}}),
            "dualpipe: needs at least 2 microbatches a rank: 8 on 4 ranks, not 6");
  EXPECT_EQ(refusal("dualpipe-v", {3, 5, {}, {}}),
            "dualpipe-v: needs at least 2 microbatches a rank: 6 on 3 ranks, not 5");
  EXPECT_EQ(refusal("interleaved-1f1b", {4, 8, {}, 3}),
            "interleaved-1f1b: a group holds 4 to 8 microbatches, not 3");
  EXPECT_EQ(refusal("interleaved-zb", {4, 8, {}, 9}),
            "interleaved-zb: a group holds 4 to 8 microbatches, not 9");
  EXPECT_EQ(refusal("gpipe", {2, 2, 2, {}}), "gpipe: has always 1 chunk a rank, not 2");
  EXPECT_EQ(refusal("gpipe", {2, 2, {}, 2}), "gpipe: takes no --group");
  EXPECT_EQ(refusal("1f1b", {0, 2, {}, {}}), "1f1b: needs at least 1 rank");
  EXPECT_EQ(refusal("1f1b", {2, 0, {}, {}}), "1f1b: needs at least 1 microbatch");
  EXPECT_EQ(refusal("looped-bfs", {2, 2, 0, {}}), "looped-bfs: needs at least 1 chunk a rank");
  EXPECT_THAT(refusal("1f1b", {4294967295, 4294967295, {}, {}}), ::testing::HasSubstr("beyond the limit"));
}

// PyTorch takes m where m % max(1, m/p) == 0; the rule here is Megatron-LM's (no group smaller than p, the
// last one included). At the default group both say the same.
TEST(Limits, OfTheDefaultGroupArePyTorchs) {
  for (std::uint32_t p = 1; p <= 12; ++p) {
    for (std::uint32_t m = 1; m <= 60; ++m) {
      const bool theirs = m % std::max(1u, m / p) == 0;
      EXPECT_EQ(refusal("interleaved-1f1b", {p, m, {}, {}}).empty(), theirs) << p << " " << m;
    }
  }
}

TEST(Table, FindsByNameAndAliasAndHelpsWithTypos) {
  EXPECT_EQ(find_generator("zb1p"), find_generator("zb-h1"));
  EXPECT_EQ(generator("zb1p").name, "zb-h1");
  EXPECT_EQ(find_generator("dualpip"), nullptr);
  EXPECT_EQ(find_generator(""), nullptr);
  try {
    generator("dualpip");
    FAIL() << "found dualpip";
  } catch (const BadInput& unknown) {
    EXPECT_THAT(unknown.what(),
                ::testing::StartsWith("no schedule is called 'dualpip' (did you mean dualpipe?)"));
    EXPECT_THAT(unknown.what(), ::testing::HasSubstr(" zb-h1"));
  }
}

}  // namespace
}  // namespace plumb::test
