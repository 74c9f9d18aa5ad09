#include "tools/planner/outline.hpp"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>

namespace plumb {
namespace {

std::vector<std::uint32_t> live_chunks(const Schedule& schedule) {
  std::vector<std::uint32_t> out;
  for (const auto& actions : schedule.actions) {
    std::uint32_t live = 0, most = 0;
    for (const Action& action : actions) {
      for (const Op& op : action) {
        if (op.kind == OpKind::forward) most = std::max(most, ++live);
        if (gives_weight_gradient(op.kind)) --live;
      }
    }
    out.push_back(most);
  }
  return out;
}

TEST(Outline, NoScheduleHoldsLessThanItsOutline) {
  Outlines outlines;
  std::size_t smaller = 0;
  for (const Generator* generator : generators()) {
    for (std::uint32_t p = 1; p <= 6; ++p) {
      for (std::uint32_t m = 1; m <= 11 * p; m += 1 + m / 8) {
        for (const std::uint32_t v : {2u, 3u}) {
          Shape shape{p, m, generator->takes_chunks ? v : generator->default_chunks, std::nullopt};
          if (generator->refuse(shape)) continue;
          const Outline& outline = outlines.of(*generator, shape);
          smaller += outline.schedule.microbatches < m;
          const auto real = live_chunks(make_schedule(*generator, shape));
          ASSERT_EQ(real.size(), outline.live.size());
          for (std::size_t r = 0; r < real.size(); ++r) {
            EXPECT_GE(real[r], std::accumulate(outline.live[r].begin(), outline.live[r].end(), 0u))
                << generator->name << " p=" << p << " m=" << m << " r=" << r;
          }
        }
      }
    }
  }
  EXPECT_GT(smaller, 100u) << "or nothing was saved";
}

TEST(Outline, HoldsExactlyAsMuchWhereTheRanksDivideTheMicrobatches) {
  // Rank 0 of 1F1B on 4 ranks holds 4 however many there are; GPipe holds all 64.
  Outlines outlines;
  const Outline& steady = outlines.of(generator("1f1b"), {4, 64, 1, {}});
  EXPECT_EQ(steady.live, (std::vector<std::vector<std::uint32_t>>{{4}, {3}, {2}, {1}}));
  EXPECT_EQ(steady.schedule.microbatches, 16u);
  const Outline& all = outlines.of(generator("gpipe"), {4, 64, 1, {}});
  EXPECT_EQ(all.live, (std::vector<std::vector<std::uint32_t>>(4, {64})));
  EXPECT_EQ(all.schedule.microbatches, 16u) << "counted on, not made";
}

TEST(Outline, SaysWhoHoldsWhichStageAndForHowManyMicrobatches) {
  Outlines outlines;
  const Outline& two_way = outlines.of(generator("dualpipe"), {4, 64, 1, {}});
  // Half of the 16 microbatches come from either side; rank 1 holds stages 1 and 2.
  EXPECT_EQ(two_way.ranks[1], (std::vector<Outline::Held>{{Stage{1}, 8}, {Stage{2}, 8}}));
  EXPECT_TRUE(two_way.has_pairs);
  const Outline& looped = outlines.of(generator("interleaved-1f1b"), {4, 64, 2, {}});
  EXPECT_EQ(looped.ranks[1], (std::vector<Outline::Held>{{Stage{1}, 16}, {Stage{5}, 16}}));
  EXPECT_FALSE(looped.has_pairs);
  EXPECT_FALSE(looped.has_split_backwards);
}

TEST(Outline, IsMadeOnce) {
  Outlines outlines;
  const Outline* first = &outlines.of(generator("zb-v"), {4, 64, 2, {}});
  EXPECT_EQ(first, &outlines.of(generator("zb-v"), {4, 128, 2, {}}));
}

}  // namespace
}  // namespace plumb
