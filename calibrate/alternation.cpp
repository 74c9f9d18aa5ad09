#include "calibrate/alternation.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace plumb {
namespace {

constexpr std::size_t untimed_rounds = 1;

std::int64_t middle(const std::vector<std::int64_t>& sorted) {
  const std::int64_t low = sorted[(sorted.size() - 1) / 2];
  const std::int64_t high = sorted[sorted.size() / 2];
  return low + (high - low + 1) / 2;
}

bool precise(const Alternation& rounds, std::size_t things, double width) {
  for (std::size_t k = 1; k < things; ++k) {
    if (relative_width(rounds.ratio(k, 0)) > width) return false;
  }
  return true;
}

}  // namespace

double relative_width(const Ratio& ratio) {
  return static_cast<double>(ratio.high_ppm - ratio.low_ppm) / static_cast<double>(ratio.ppm);
}

SampleSet Alternation::of(std::size_t thing) const {
  SampleSet set;
  for (const std::vector<Sample>& round : rounds_) set.add(round[thing]);
  return set;
}

Ratio Alternation::ratio(std::size_t a, std::size_t b) const {
  PLUMB_CHECK(!rounds_.empty());
  const auto ns = [&](std::size_t round, std::size_t thing) {
    return static_cast<double>(rounds_[round][thing].duration.ns);
  };
  std::vector<std::int64_t> ratios;
  for (std::size_t r = 0; r < rounds_.size(); ++r) {
    // The other sample of `b` beside this one of `a` is in the round before, or in the one after.
    const bool earlier = b > a;
    const bool there = earlier ? r > 0 : r + 1 < rounds_.size();
    const double other = there ? ns(earlier ? r - 1 : r + 1, b) : ns(r, b);
    ratios.push_back(std::llround(2e6 * ns(r, a) / std::max(1.0, ns(r, b) + other)));
  }
  std::sort(ratios.begin(), ratios.end());
  Ratio ratio{middle(ratios), ratios.front(), ratios.back()};
  if (const auto interval = median_interval(ratios.size())) {
    ratio.low_ppm = ratios[interval->first];
    ratio.high_ppm = ratios[interval->second];
  }
  return ratio;
}

Alternation alternate(std::span<const std::function<Sample()>> things, const AlternationRule& rule,
                      const std::function<Duration()>& now) {
  PLUMB_CHECK(!things.empty());
  const auto round = [&] {
    std::vector<Sample> samples;
    samples.reserve(things.size());
    for (const auto& sample : things) samples.push_back(sample());
    return samples;
  };
  const Duration begun = now();
  for (std::size_t k = 0; k < untimed_rounds || now() - begun < rule.warming; ++k) round();
  Alternation rounds;
  const Duration warmed_up = now();
  for (;;) {
    rounds.add(round());
    if (rounds.size() < rule.rule.least) {
      if (now() - warmed_up >= rule.rule.budget * 10) return rounds;
      continue;
    }
    const Duration elapsed = now() - warmed_up;
    if (rounds.size() >= rule.rule.most || elapsed >= rule.rule.budget) return rounds;
    if (elapsed >= rule.observed && precise(rounds, things.size(), rule.rule.relative_width)) return rounds;
  }
}

}  // namespace plumb
