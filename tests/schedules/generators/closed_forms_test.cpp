// What the rows say of bubble and memory, by brute force: every small shape x many costs through the plain
// replay. The formulas are the papers'; here p ranks, m microbatches, v chunks, g a group, F, I, W, Bf = I+W
// and FB the costs of one chunk.
#include "schedules/generators/generator.hpp"
#include "tests/schedules/generators/shapes.hpp"
#include "tests/support/reference.hpp"
#include "tests/support/replay.hpp"

#include <algorithm>
#include <functional>
#include <string>

#include <gtest/gtest.h>

namespace plumb::test {
namespace {

// One shape at one set of costs.
struct Case {
  std::int64_t p, m, v, g;
  std::int64_t F, I, W, Bf, FB;
};

// Calls use(case, replay) for every small legal shape and F, I, W in 1..3, and, where `pairs`, with FB from
// the longer of F and Bf to one more than both.
template <class Use>
void for_every_case(std::string_view name, bool pairs, Use use) {
  const Generator& family = generator(name);
  for_every_shape(family, 6, [&](const Shape& shape) {
    SCOPED_TRACE(words_of(family, shape));
    const Schedule schedule = make_schedule(family, shape);
    const std::int64_t p = shape.ranks, m = shape.microbatches, v = *shape.chunks;
    const std::int64_t g = shape.group ? std::int64_t{*shape.group} : m / std::max<std::int64_t>(1, m / p);
    for (std::int64_t F = 1; F <= 3; ++F) {
      for (std::int64_t I = 1; I <= 3; ++I) {
        for (std::int64_t W = 1; W <= 3; ++W) {
          const std::int64_t both = F + I + W;
          for (std::int64_t FB = pairs ? std::max(F, I + W) : both; FB <= (pairs ? both + 1 : both); ++FB) {
            const Replay times = replay(schedule, {F, I, W, I + W, FB, 0});
            use(Case{p, m, v, g, F, I, W, I + W, FB}, times);
          }
        }
      }
    }
  });
}

// Every rank idle for `bubble` and alive at most `live(rank)`.
void expect_idle(const Case& c, const Replay& times, std::int64_t bubble) {
  for (std::size_t rank = 0; rank < times.busy.size(); ++rank) {
    EXPECT_EQ(times.idle(rank), bubble) << "rank " << rank << ", F " << c.F << " I " << c.I << " W " << c.W;
  }
}
template <class Live>
void expect_live(const Replay& times, Live live) {
  for (std::size_t rank = 0; rank < times.peak_live.size(); ++rank) {
    EXPECT_EQ(times.peak_live[rank], live(static_cast<std::int64_t>(rank))) << "rank " << rank;
  }
}

TEST(ClosedForm, GPipe) {
  for_every_case("gpipe", false, [](const Case& c, const Replay& times) {
    expect_idle(c, times, (c.p - 1) * (c.F + c.Bf));
    expect_live(times, [&](std::int64_t) { return c.m; });
  });
}

TEST(ClosedForm, OneFOneB) {
  for_every_case("1f1b", false, [](const Case& c, const Replay& times) {
    expect_idle(c, times, (c.p - 1) * (c.F + c.Bf));
    expect_live(times, [&](std::int64_t r) { return std::min(c.p - r, c.m); });
  });
}

TEST(ClosedForm, LoopedBfs) {
  for_every_case("looped-bfs", false, [](const Case& c, const Replay& times) {
    if (c.m >= c.p) expect_idle(c, times, (c.p - 1) * (c.F + c.Bf));
    expect_live(times, [&](std::int64_t) { return c.m * c.v; });
  });
}

TEST(ClosedForm, InterleavedOneFOneB) {
  for_every_case("interleaved-1f1b", false, [](const Case& c, const Replay& times) {
    if (c.m >= c.p) expect_idle(c, times, (c.p - 1) * (c.F + c.Bf));
    expect_live(times,
                [&](std::int64_t r) { return std::min(2 * (c.p - 1 - r) + (c.v - 1) * c.g + 1, c.m * c.v); });
  });
}

// Both overlapped families: rank r runs warm_up(r) microbatches unpaired, the last rank the fewest; the last
// rank is idle while the first forward comes down and the last backward goes up.
void expect_overlapped(const Case& c, const Replay& times) {
  const auto warm_up = [&](std::int64_t r) {
    return std::min(2 * (c.p - 1 - r) + (c.v - 1) * c.g + 1, c.m * c.v);
  };
  const std::int64_t least = warm_up(c.p - 1);
  EXPECT_EQ(times.makespan, (c.p - 1 + least) * (c.F + c.Bf) + (c.m * c.v - least) * c.FB);
  for (std::int64_t r = 0; r < c.p; ++r) {
    EXPECT_EQ(times.idle(static_cast<std::size_t>(r)),
              (c.p - 1) * (c.F + c.Bf) - (warm_up(r) - least) * (c.F + c.Bf - c.FB));
  }
}

TEST(ClosedForm, OneFOneBWithOverlap) {
  for_every_case("1f1b-overlap", true, [](const Case& c, const Replay& times) {
    expect_overlapped(c, times);
    expect_live(times, [&](std::int64_t r) { return std::min(2 * (c.p - r), c.m); });
  });
}

TEST(ClosedForm, InterleavedOneFOneBWithOverlap) {
  for_every_case("interleaved-1f1b-overlap", true, [](const Case& c, const Replay& times) {
    if (c.m >= c.p && c.FB <= c.F + c.Bf) expect_overlapped(c, times);
    expect_live(times, [&](std::int64_t r) { return std::min(2 * (c.p - r) + (c.v - 1) * c.g, c.m * c.v); });
  });
}

// 7 forwards, 9 pairs and 7 backwards on rank 0 are 48; it waits 3 times for F+Bf: 57.
TEST(ClosedForm, OneFOneBWithOverlapOnFourRanksAndSixteenMicrobatchesTakes57) {
  EXPECT_EQ(replay(make_schedule(generator("1f1b-overlap"), {4, 16, {}, {}})).makespan, 57);
}

TEST(ClosedForm, ZbH1) {
  for_every_case("zb-h1", false, [](const Case& c, const Replay& times) {
    if (c.m >= c.p && c.W <= std::min(c.F, c.I)) {
      const std::int64_t bubble = (c.p - 1) * (c.F + c.I - c.W);
      expect_idle(c, times, bubble);
      EXPECT_EQ(times.span - times.busy[0], bubble);
    }
    expect_live(times, [&](std::int64_t) { return std::min(c.p, c.m); });
  });
}

TEST(ClosedForm, ZbH2) {
  for_every_case("zb-h2", false, [](const Case& c, const Replay& times) {
    const std::int64_t bubble = (c.p - 1) * (c.F + c.I - 2 * c.W);
    if (c.m >= 2 * c.p - 1 && c.W <= std::min(c.F, c.I) && bubble >= 0) {
      EXPECT_EQ(times.span - times.busy[0], bubble);
      // With a barrier at the end of the step nothing is gained over ZB-H1 at equal costs.
      if (c.F == c.I && c.I == c.W) expect_idle(c, times, (c.p - 1) * c.F);
    }
    expect_live(times, [&](std::int64_t) { return std::min(2 * c.p - 1, c.m); });
  });
}

TEST(ClosedForm, InterleavedZeroBubble) {
  for_every_case("interleaved-zb", false, [](const Case& c, const Replay& times) {
    if (c.m >= c.p && c.W <= std::min(c.F, c.I)) expect_idle(c, times, (c.p - 1) * (c.F + c.I - c.W));
    expect_live(times, [&](std::int64_t) { return std::min((c.v - 1) * c.g + c.p, c.m * c.v); });
  });
}

// Of half a DualPipe: n ranks from an end to the middle, `all` forwards a rank. Where the streams meet
// (depth n-1) and one before that, all-2n-1 forwards are paired; further out one fewer for each rank.
void expect_two_way(const Case& c, const Replay& times, std::int64_t n, std::int64_t all) {
  if (c.I != c.F || c.W > c.I) return;
  const std::int64_t bubble = (n - 1) * (c.FB + c.Bf - 3 * c.W);
  const std::int64_t gain = c.F + c.Bf - c.FB;
  EXPECT_EQ(times.makespan, all * (c.F + c.Bf) - (all - 2 * n - 1) * gain + bubble);
  for (std::int64_t r = 0; r < c.p; ++r) {
    const std::int64_t depth = std::min(r, 2 * n - 1 - r);
    EXPECT_EQ(times.idle(static_cast<std::size_t>(r)),
              bubble - std::max<std::int64_t>(0, n - 2 - depth) * gain);
  }
}

TEST(ClosedForm, DualPipe) {
  for_every_case("dualpipe", true, [](const Case& c, const Replay& times) {
    expect_two_way(c, times, c.p / 2, c.m);
    expect_live(times, [&](std::int64_t) { return c.p + 1; });
  });
}

TEST(ClosedForm, DualPipeV) {
  for_every_case("dualpipe-v", true, [](const Case& c, const Replay& times) {
    expect_two_way(c, times, c.p, 2 * c.m);
    expect_live(times, [&](std::int64_t) { return 2 * c.p + 1; });
  });
}

// DualPipe's README: 8 ranks, 20 microbatches, a row is 20 x 3 busy and 6 idle. 1F1B: 60 + 7 x 3. ZB1P: 60
// + 7.
TEST(ClosedForm, EightRanksAndTwentyMicrobatches) {
  const auto makespan = [](std::string_view name) {
    return replay(make_schedule(generator(name), {8, 20, {}, {}})).makespan;
  };
  EXPECT_EQ(makespan("dualpipe"), 66);
  EXPECT_EQ(makespan("1f1b"), 81);
  EXPECT_EQ(makespan("zb1p"), 67);
}

// ZB-1p comes from a search; at unit costs the hand rule does no worse.
TEST(ClosedForm, ZbH1IsNoWorseThanTheSearchedZb1pAtUnitCosts) {
  PLUMB_NEEDS_REFERENCE();
  const auto lists = reference_lists("zbpp_zb1p_");
  EXPECT_EQ(lists.size(), 10u);
  for (const ReferenceList& list : lists) {
    const Replay theirs = replay(list.schedule);
    const Replay ours =
        replay(make_schedule(generator("zb1p"), {list.schedule.ranks(), list.schedule.microbatches, {}, {}}));
    EXPECT_EQ(ours.makespan, theirs.makespan) << list.file;
    EXPECT_EQ(ours.span, theirs.span) << list.file;
    EXPECT_EQ(ours.most_live(), theirs.most_live()) << list.file;
  }
}

}  // namespace
}  // namespace plumb::test
