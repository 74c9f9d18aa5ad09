#include "tools/planner/shared_sockets.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr SharedSockets sockets{4, 2};  // four at once take twice as long as one

TEST(SharedSockets, SlowMessagesAsFarAsWasMeasured) {
  EXPECT_DOUBLE_EQ(sockets.times(0.5), 1);
  EXPECT_DOUBLE_EQ(sockets.times(1), 1);
  EXPECT_DOUBLE_EQ(sockets.times(2.5), 1.5);  // half of the way from 1 to 4
  EXPECT_DOUBLE_EQ(sockets.times(4), 2);
  EXPECT_DOUBLE_EQ(sockets.times(8), 2);
  EXPECT_DOUBLE_EQ((SharedSockets{4, 1}.times(3)), 1);
}

MessageSpan message(std::uint32_t from, std::uint32_t to, std::int64_t begin, std::int64_t end) {
  MessageSpan span;
  span.from = Rank{from};
  span.to = Rank{to};
  span.begin = {begin};
  span.end = {end};
  return span;
}

// 0 -> 1 from 0 to 90 ns, 1 -> 0 from 60 on, both times what the options say. While 0 -> 1 has a message
// there are (60 x 1 + 30 x 2) / 90 = 4/3 at first; the ways' factors then settle where they reproduce
// themselves.
TEST(SharedSockets, AWayIsSlowedByTheMessagesThatItsOwnMeet) {
  const std::pair there{Rank{0}, Rank{1}}, back{Rank{1}, Rank{0}};
  ExecutionOptions last;
  const auto predict = [&](const ExecutionOptions& options) {
    EXPECT_TRUE(options.links_are_shared);
    last = options;
    const auto slow = [&](const auto& way) {
      const auto found = options.slow_links_ppm.find(way);
      return found == options.slow_links_ppm.end() ? std::int64_t{1'000'000} : std::int64_t{found->second};
    };
    Prediction prediction;
    prediction.timeline.messages = {message(0, 1, 0, 90 * slow(there)),
                                    message(1, 0, 60'000'000, 60'000'000 + 90 * slow(back))};
    prediction.report.step_time = {60'000'000 + 90 * slow(back)};
    return prediction;
  };
  predict_at_shared_sockets(sockets, {}, predict);
  // x: the factor of both, by symmetry. Of 90 x the last 90 x - 60 meet another one: n = 1 + (90 x - 60) /
  // (90 x) = 2 - 2 / (3 x), and x = 1 + (n - 1) / 3 = 4/3 - 2 / (9 x): 9 x^2 - 12 x + 2 = 0, x = (12 +
  // sqrt(72)) / 18.
  const double x = 1.13807;
  EXPECT_NEAR(last.slow_links_ppm.at(there) / 1e6, x, 0.004);
  EXPECT_NEAR(last.slow_links_ppm.at(back) / 1e6, x, 0.004);
}

// A way that is slow anyway, by what the user asks, is slowed on top of that.
TEST(SharedSockets, KeepWhatTheUserSaysOfALink) {
  ExecutionOptions options;
  options.slow_links_ppm[{Rank{0}, Rank{1}}] = 3'000'000;
  ExecutionOptions last;
  predict_at_shared_sockets(sockets, options, [&](const ExecutionOptions& with) {
    last = with;
    Prediction prediction;
    prediction.timeline.messages = {message(0, 1, 0, 10), message(1, 0, 0, 10)};
    prediction.report.step_time = {10};
    return prediction;
  });
  // Two at once: 1 + 1/3 times as long.
  EXPECT_NEAR(last.slow_links_ppm.at({Rank{0}, Rank{1}}) / 3e6, 4.0 / 3, 0.05);
}

Calibration calibration(Share share) {
  Calibration c;
  c.activation_message = {1'000};
  const auto series = [&](TransferKind kind, std::uint32_t at_once, std::int64_t ns) {
    TransferSeries one;
    one.key = {kind, "nccl", "", {0, 1}, at_once, {share, 16, 8, false}};
    one.fit = LinkFit{};
    one.fit->knots = {{{500}, {ns / 2}}, {{1'000}, {ns}}};
    return one;
  };
  c.transfers = {series(TransferKind::one_way, 1, 4'000), series(TransferKind::at_once, 4, 6'000)};
  TimedWork work;
  work.work.name = "layer";
  work.setting = {share, 16, 8, true};
  c.work = {work};
  return c;
}

TEST(SharedSockets, AreThoseOfProcessesThatShareAGpu) {
  EXPECT_EQ(shared_sockets(calibration(Share::process)), (SharedSockets{4, 1.5}));
  EXPECT_FALSE(shared_sockets(calibration(Share::whole_gpu)));
  Calibration without = calibration(Share::process);
  without.transfers.pop_back();
  EXPECT_FALSE(shared_sockets(without));
}

}  // namespace
}  // namespace plumb
