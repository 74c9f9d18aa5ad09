// What many timings of one thing come to, and when there are enough of them. Nothing here knows what was
// timed.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace plumb {

/// One timing, with the clock of the multiprocessors while it ran (0: it was not read).
struct Sample {
  Duration duration;
  std::uint32_t sm_clock_mhz = 0;
  bool operator==(const Sample&) const = default;
};

/// How the samples lie: around one value; around a value that moves while they are taken; or around two.
enum class Steadiness : std::uint8_t { steady, drifting, bimodal };
std::string_view words(Steadiness steadiness);

/// No distribution is assumed: kernels' times have a hard floor and a long tail, so mean and deviation
/// mislead.
struct Summary {
  std::uint32_t samples = 0;    // that the figures below are of
  std::uint32_t set_aside = 0;  // throttled ones, which count for nothing
  Duration minimum;
  Duration lower_quartile;
  Duration median;
  Duration upper_quartile;
  Duration maximum;
  /// The median of what is being measured lies from `low` to `high` with 95 % confidence; with fewer than 6
  /// samples no two of them enclose it so surely, and these are minimum and maximum.
  Duration low;
  Duration high;
  Steadiness steadiness = Steadiness::steady;
  std::uint32_t sm_clock_mhz = 0;  // the samples' median; 0: not known
  /// In millionths, how durations follow the clock: as the clock to the power of minus that. 1,000,000: all
  /// of the work counts cycles; 0: none does. Only where the clock moved meanwhile.
  std::optional<std::int64_t> clock_exponent_ppm = {};
  std::int64_t clock_exponent_error_ppm = 0;  // its standard error
  bool operator==(const Summary&) const = default;
};

/// (high - low) / median; infinite where there is no such interval.
double relative_width(const Summary& summary);

/// The order statistics (counted from 0) that enclose a distribution's median with at least 95 % confidence,
/// by the binomial distribution of how many of n samples fall below it; nothing below 6 samples.
std::optional<std::pair<std::size_t, std::size_t>> median_interval(std::size_t n);

/// The value below which `share` of the sorted durations lie, linear between neighbours. At least one.
Duration quantile(std::span<const Duration> sorted, double share);

/// The sorted durations' median. A device's events tick (an H200's every 32 ns, a hundredth of a small
/// message), so many samples are equal: those at the middle count as spread evenly over the tick around them,
/// which is the samples' greatest common divisor (one of more than a fiftieth is chance). At least one.
Duration median(std::span<const Duration> sorted);

/// Which samples ran while the chip was slowed down: their clock is more than `tolerance` below the median
/// clock of all. A chip that computes at its power limit has its own clock, lower than the one on the box,
/// and its control swings by some percent (an H200 under load: 1,300 to 1,500 MHz): that is its speed, and
/// setting the slower half aside would make it look faster than it is. What heat or a brake does is a step
/// well beyond that. Samples without a clock are never throttled.
std::vector<bool> throttled(std::span<const Sample> samples, double tolerance = 0.15);

struct ClockExponent {
  double value = 0;
  double error = 0;  // standard error
};
/// By least squares between the logarithms of durations and clocks; nothing from fewer than 5 samples with a
/// clock, where that did not move, or where the error is beyond 1: a number between 0 and 1 is asked for.
std::optional<ClockExponent> clock_exponent(std::span<const Sample> samples);

/// In the order they were taken. Throttled ones are set aside. Throws nothing; at least one sample.
Summary summary_of(std::span<const Sample> samples);

/// When to stop taking samples.
struct StoppingRule {
  double relative_width = 0.01;  // of the median's 95 % interval
  std::uint32_t least = 11;      // samples, however well they agree
  std::uint32_t most = 2000;     // samples, throttled ones counted
  Duration budget{2'000'000'000};
  bool operator==(const StoppingRule&) const = default;
};

enum class Verdict : std::uint8_t { go_on, precise, most_samples, out_of_time };
std::string_view words(Verdict verdict);

/// Samples as they come, and whether they suffice.
class SampleSet {
 public:
  void add(Sample sample) { samples_.push_back(sample); }
  const std::vector<Sample>& samples() const { return samples_; }
  Summary summary() const { return summary_of(samples_); }
  /// `elapsed`: since the measuring of this thing began, warm-up included. Never out of time before `least`
  /// samples are there, unless ten times the budget is spent. Cheap enough to ask after every sample: the
  /// interval is looked at only when the number of samples has grown by a twentieth.
  Verdict verdict(const StoppingRule& rule, Duration elapsed);

 private:
  std::vector<Sample> samples_;
  std::size_t next_look_ = 0;
  bool precise_ = false;
};

}  // namespace plumb
