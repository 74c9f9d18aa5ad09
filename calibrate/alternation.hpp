// Several things timed in turns, one sample of each a round. Under its power limit a GPU's clock swings by
// some percent within a second: figures taken one after the other differ by that, what is a few milliseconds
// apart hardly does, and their ratio holds for any clock.
#pragma once
#include "calibrate/statistics.hpp"
#include "schedules/ir/units.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace plumb {

/// A ratio of two things' durations, in millionths: the median over rounds and where it lies with 95 %
/// confidence (with fewer than 6 ratios: the least and the largest).
struct Ratio {
  std::int64_t ppm = 1'000'000;
  std::int64_t low_ppm = 1'000'000;
  std::int64_t high_ppm = 1'000'000;
  bool operator==(const Ratio&) const = default;
};
/// (high - low) / median.
double relative_width(const Ratio& ratio);

/// Samples of things that were timed in turns, in the order they were taken.
class Alternation {
 public:
  /// One sample of each thing, in the same order every time.
  void add(std::vector<Sample> round) { rounds_.push_back(std::move(round)); }
  std::size_t size() const { return rounds_.size(); }
  SampleSet of(std::size_t thing) const;

  /// How long thing `a` lasts in lengths of thing `b`: each sample of `a` over the mean of the samples of `b`
  /// right before and right after it, so that what changes steadily cancels. At least one round.
  Ratio ratio(std::size_t a, std::size_t b) const;

 private:
  std::vector<std::vector<Sample>> rounds_;
};

/// When to stop: when the ratio of every thing to the first one is as precise as `rule` demands of a median
/// and `observed` has passed since the first round that counts, or the rule's budget is spent. Rounds of
/// the first `warming` count for nothing.
struct AlternationRule {
  StoppingRule rule;
  Duration warming;
  Duration observed;
};

/// Takes a sample of each in turns. `now`: since any moment, monotonic.
Alternation alternate(std::span<const std::function<Sample()>> things, const AlternationRule& rule,
                      const std::function<Duration()>& now);

}  // namespace plumb
