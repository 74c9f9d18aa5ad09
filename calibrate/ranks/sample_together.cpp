#include "calibrate/ranks/sample_together.hpp"

#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace plumb::ranks {
namespace {

constexpr int least_warm_rounds = 2;

std::string to_text(const Round& round) {
  std::string text = fmt::format("{}", round.sm_clock_mhz);
  for (const Duration duration : round.durations) text += fmt::format(" {}", duration.ns);
  return text;
}

std::vector<std::int64_t> numbers(std::string_view text) {
  std::vector<std::int64_t> all;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    std::int64_t value = 0;
    const auto [stop, error] = std::from_chars(at, end, value);
    PLUMB_CHECK(error == std::errc{});
    all.push_back(value);
    at = stop == end ? end : stop + 1;
  }
  return all;
}

Round read_round(std::string_view text) {
  const std::vector<std::int64_t> all = numbers(text);
  PLUMB_CHECK(!all.empty());
  Round round;
  round.sm_clock_mhz = static_cast<std::uint32_t>(all[0]);
  for (std::size_t k = 1; k < all.size(); ++k) round.durations.push_back({all[k]});
  return round;
}

using Clock = std::chrono::steady_clock;
Duration since(Clock::time_point begin) { return {std::chrono::nanoseconds(Clock::now() - begin).count()}; }

// As often as fits into a round of the wished length, going by the last one.
std::uint32_t paced(std::uint32_t repeats, Duration took, const Pace& pace) {
  if (pace.round.ns == 0) return repeats;
  const std::int64_t fitting = repeats * pace.round.ns / std::max<std::int64_t>(took.ns, 1);
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(fitting, 1, pace.most_repeats));
}

}  // namespace

SampleSet sample_together(Rendezvous& rendezvous, const Joint& joint, const Pace& pace,
                          const StoppingRule& rule) {
  const bool leads = rendezvous.rank() == 0;
  const auto begun = Clock::now();
  auto warmed_up = begun;
  SampleSet set;
  std::uint32_t repeats = pace.repeats;
  for (int round = 0; repeats != 0; ++round) {
    const auto round_begun = Clock::now();
    const std::vector<std::string> all = rendezvous.gather(to_text(joint.play(repeats)));
    if (leads) {
      std::vector<Round> rounds;
      for (const std::string& one : all) rounds.push_back(read_round(one));
      std::uint32_t next = paced(repeats, since(round_begun), pace);
      const std::vector<Duration> samples = joint.combine(rounds, next);
      PLUMB_CHECK(next > 0);
      if (round < least_warm_rounds || since(begun) < pace.warm_up) {
        warmed_up = Clock::now();
      } else {
        for (const Duration sample : samples) set.add({sample, rounds.front().sm_clock_mhz});
        const Duration elapsed = since(warmed_up);
        const Verdict verdict = set.verdict(rule, elapsed);
        const bool long_enough = elapsed >= std::min(pace.observe, rule.budget);
        if (verdict == Verdict::most_samples || (verdict != Verdict::go_on && long_enough)) next = 0;
        if (set.samples().empty() && elapsed.ns > 10 * rule.budget.ns) next = 0;
      }
      repeats = next;
    }
    repeats = static_cast<std::uint32_t>(numbers(rendezvous.broadcast(fmt::format("{}", repeats)))[0]);
  }
  return set;
}

}  // namespace plumb::ranks
