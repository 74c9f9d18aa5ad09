#include "calibrate/ranks/sample_together.hpp"

#include "tests/support/rank_threads.hpp"

#include <algorithm>
#include <atomic>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb::ranks {
namespace {

using test::run_ranks;
using ::testing::HasSubstr;

const StoppingRule six{0.01, 6, 6, Duration{1'000'000'000}};
const Pace at_once{{}, {}, 1, {}, 32};

// A ping-pong whose ends keep clocks of their own: rank 0 sees 1,000 ns there and back, of which the last
// rank computes 400, so that a hop takes 300.
TEST(SampleTogether, CombinesIntervalsOfSeveralClocks) {
  for (const std::uint32_t ranks : {2u, 3u, 8u}) {
    const auto out = run_ranks(ranks, [&](Rendezvous& rendezvous) {
      Joint joint;
      joint.play = [&](std::uint32_t repeats) {
        const std::uint32_t rank = rendezvous.rank();
        const std::int64_t took = rank == 0 ? 1'000 : rank == ranks - 1 ? 400 : 77;
        return Round{std::vector<Duration>(repeats, {took}), 1'500 + rank};
      };
      joint.combine = [&](const std::vector<Round>& rounds, std::uint32_t&) {
        std::vector<Duration> hops;
        for (std::size_t k = 0; k < rounds[0].durations.size(); ++k)
          hops.push_back({(rounds[0].durations[k] - rounds[ranks - 1].durations[k]).ns / 2});
        return hops;
      };
      const SampleSet set = sample_together(rendezvous, joint, at_once, six);
      if (rendezvous.rank() != 0) return fmt::format("{}", set.samples().size());
      return fmt::format("{} of {} at {}", set.samples().size(), set.summary().median.ns,
                         set.samples().front().sm_clock_mhz);
    });
    EXPECT_EQ(out[0], "6 of 300 at 1500");
    for (std::uint32_t r = 1; r < ranks; ++r) EXPECT_EQ(out[r], "0");
  }
}

// Six samples, one a round; two rounds before them do not count.
TEST(SampleTogether, AllRanksPlayTheSameRounds) {
  std::atomic<int> played{0};
  run_ranks(3, [&](Rendezvous& rendezvous) {
    Joint joint;
    joint.play = [&](std::uint32_t repeats) {
      ++played;
      return Round{std::vector<Duration>(repeats, {1'000}), 0};
    };
    joint.combine = [](const std::vector<Round>& rounds, std::uint32_t&) { return rounds[0].durations; };
    sample_together(rendezvous, joint, at_once, six);
    return std::string();
  });
  EXPECT_EQ(played, 3 * (2 + 6));
}

// A round is to take 5 ms, and one of the thing takes 1 ms or, on a busy machine, more: there are never more
// than 5 in a round, and in some round behind the first there are several.
TEST(SampleTogether, RepeatsWhatIsShortUntilARoundIsWorthIt) {
  std::vector<std::uint32_t> asked;
  run_ranks(2, [&](Rendezvous& rendezvous) {
    Joint joint;
    joint.play = [&](std::uint32_t repeats) {
      if (rendezvous.rank() == 0) asked.push_back(repeats);
      std::this_thread::sleep_for(std::chrono::milliseconds(1) * repeats);
      return Round{std::vector<Duration>(repeats, {1'000'000}), 0};
    };
    joint.combine = [](const std::vector<Round>& rounds, std::uint32_t&) { return rounds[0].durations; };
    Pace pace = at_once;
    pace.round = Duration{5'000'000};
    sample_together(rendezvous, joint, pace, {0.01, 40, 40, Duration{5'000'000'000}});
    return std::string();
  });
  EXPECT_EQ(asked.front(), 1u);
  EXPECT_GT(*std::max_element(asked.begin(), asked.end()), 1u);
  EXPECT_LE(*std::max_element(asked.begin(), asked.end()), 5u);
}

// Rank 0 finds a round too short to count and asks for twice as much in the next: 1, 2, 4, then 8 are enough.
TEST(SampleTogether, ARoundWithoutASampleIsFollowedByALongerOne) {
  std::vector<std::uint32_t> asked;
  const auto out = run_ranks(2, [&](Rendezvous& rendezvous) {
    Joint joint;
    joint.play = [&](std::uint32_t repeats) {
      if (rendezvous.rank() == 1) asked.push_back(repeats);
      return Round{{{repeats * std::int64_t{100}}}, 0};
    };
    joint.combine = [](const std::vector<Round>& rounds, std::uint32_t& repeats) {
      const bool enough = rounds[1].durations[0] >= Duration{800};
      if (!enough) repeats *= 2;
      return enough ? rounds[1].durations : std::vector<Duration>{};
    };
    const SampleSet set = sample_together(rendezvous, joint, at_once, six);
    return set.samples().empty() ? std::string() : fmt::format("{}", set.summary().median.ns);
  });
  EXPECT_EQ(out[0], "800");
  ASSERT_GE(asked.size(), 4u);
  EXPECT_EQ(std::vector<std::uint32_t>(asked.begin(), asked.begin() + 4),
            (std::vector<std::uint32_t>{1, 2, 4, 8}));
}

// All ranks end together and can go on with something else.
TEST(SampleTogether, EndsWithoutSamplesWhereNoRoundCounts) {
  const auto out = run_ranks(
      2,
      [](Rendezvous& rendezvous) {
        Joint joint;
        joint.play = [](std::uint32_t) { return Round{}; };
        joint.combine = [](const std::vector<Round>&, std::uint32_t&) { return std::vector<Duration>{}; };
        const SampleSet set = sample_together(rendezvous, joint, at_once, {0.01, 6, 6, Duration{2'000'000}});
        rendezvous.barrier();
        return fmt::format("{} samples", set.samples().size());
      },
      std::chrono::seconds{5});
  EXPECT_EQ(out[0], "0 samples");
  EXPECT_EQ(out[1], "0 samples");
}

}  // namespace
}  // namespace plumb::ranks
