#include "calibrate/statistics.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace plumb {
namespace {

std::vector<Duration> sorted(std::vector<Duration> durations) {
  std::sort(durations.begin(), durations.end());
  return durations;
}

Duration median_of(std::span<const Duration> in_order) {
  return median(sorted({in_order.begin(), in_order.end()}));
}

// Whether what was measured moved: the first third's interval of the median and the last third's lie apart,
// and by more than anyone would call noise.
bool is_drifting(std::span<const Duration> in_order) {
  constexpr double noticeable = 0.01;
  const std::size_t third = in_order.size() / 3;
  const auto interval = median_interval(third);
  if (!interval) return false;
  const auto first = sorted({in_order.begin(), in_order.begin() + third});
  const auto last = sorted({in_order.end() - third, in_order.end()});
  const bool apart =
      first[interval->second] < last[interval->first] || last[interval->second] < first[interval->first];
  const double a = static_cast<double>(median_of(first).ns);
  const double b = static_cast<double>(median_of(last).ns);
  return apart && std::abs(b - a) > noticeable * std::min(a, b);
}

// Whether the samples are two heaps: of all ways to cut the sorted samples in two, the one that leaves the
// least variance, and its heaps' distance in their own widths (Ashman's D). A normal distribution cut in the
// middle has D = 2.65, a uniform one 3.46; what is called bimodal is clearly beyond both.
bool is_bimodal(std::span<const Duration> in_size) {
  constexpr double least_d = 5;
  constexpr double noticeable = 0.02;     // of the lower heap's mean
  constexpr double smallest_heap = 0.08;  // a few outliers are no mode
  const std::size_t n = in_size.size();
  if (n < 12) return false;
  // Sums of deviations from the smallest one: exact enough for any spread.
  const double origin = static_cast<double>(in_size.front().ns);
  std::vector<double> sum(n + 1, 0);
  std::vector<double> square(n + 1, 0);
  for (std::size_t k = 0; k < n; ++k) {
    const double x = static_cast<double>(in_size[k].ns) - origin;
    sum[k + 1] = sum[k] + x;
    square[k + 1] = square[k] + x * x;
  }
  const auto scatter = [&](std::size_t from, std::size_t to) {
    const double total = sum[to] - sum[from];
    return std::max(0.0, square[to] - square[from] - total * total / static_cast<double>(to - from));
  };
  std::size_t cut = 1;
  for (std::size_t k = 1; k < n; ++k) {
    if (scatter(0, k) + scatter(k, n) < scatter(0, cut) + scatter(cut, n)) cut = k;
  }
  const double low = static_cast<double>(cut);
  const double high = static_cast<double>(n - cut);
  if (std::min(low, high) < smallest_heap * static_cast<double>(n)) return false;
  const double distance = (sum[n] - sum[cut]) / high - sum[cut] / low;
  if (distance <= noticeable * (origin + sum[cut] / low)) return false;
  const double width = scatter(0, cut) / low + scatter(cut, n) / high;
  return distance * std::sqrt(2.0) > least_d * std::sqrt(width);
}

}  // namespace

std::string_view words(Steadiness steadiness) {
  switch (steadiness) {
    case Steadiness::steady:
      return "steady";
    case Steadiness::drifting:
      return "drifting";
    case Steadiness::bimodal:
      return "bimodal";
  }
  return "";
}

std::string_view words(Verdict verdict) {
  switch (verdict) {
    case Verdict::go_on:
      return "go on";
    case Verdict::precise:
      return "precise";
    case Verdict::most_samples:
      return "most samples";
    case Verdict::out_of_time:
      return "out of time";
  }
  return "";
}

double relative_width(const Summary& summary) {
  if (summary.samples < 6 || summary.median.ns <= 0) return std::numeric_limits<double>::infinity();
  return static_cast<double>((summary.high - summary.low).ns) / static_cast<double>(summary.median.ns);
}

std::optional<std::pair<std::size_t, std::size_t>> median_interval(std::size_t n) {
  // The interval from the k-th smallest to the k-th largest misses the median when fewer than k samples lie
  // on one side of it: probability 2 P(X < k), X binomial (n, 1/2). The largest k that keeps this within 5 %.
  constexpr double miss = 0.05;
  const double count = static_cast<double>(n);
  double below = 0;
  std::size_t k = 0;
  while (k < n) {
    const double x = static_cast<double>(k);
    const double choose = std::lgamma(count + 1) - std::lgamma(x + 1) - std::lgamma(count - x + 1);
    below += std::exp(choose - count * std::log(2.0));
    if (2 * below > miss) break;
    ++k;
  }
  if (k == 0) return std::nullopt;
  return std::pair{k - 1, n - k};
}

Duration quantile(std::span<const Duration> sorted, double share) {
  PLUMB_CHECK(!sorted.empty());
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double step = static_cast<double>((sorted[above] - sorted[below]).ns);
  return {sorted[below].ns + std::llround((place - static_cast<double>(below)) * step)};
}

Duration median(std::span<const Duration> sorted) {
  PLUMB_CHECK(!sorted.empty());
  const Duration middle = sorted[sorted.size() / 2];
  if (sorted[(sorted.size() - 1) / 2] != middle) return quantile(sorted, 0.5);
  const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), middle);
  std::int64_t tick = 0;
  for (const Duration duration : sorted) tick = std::gcd(tick, duration.ns);
  if (tick > middle.ns / 50) return middle;
  const double below = static_cast<double>(first - sorted.begin());
  const double share = (static_cast<double>(sorted.size()) / 2 - below) / static_cast<double>(last - first);
  return {middle.ns + std::llround((share - 0.5) * static_cast<double>(tick))};
}

std::vector<bool> throttled(std::span<const Sample> samples, double tolerance) {
  std::vector<std::uint32_t> clocks;
  for (const Sample& sample : samples) {
    if (sample.sm_clock_mhz != 0) clocks.push_back(sample.sm_clock_mhz);
  }
  std::vector<bool> marks(samples.size(), false);
  if (clocks.empty()) return marks;
  const auto middle = clocks.begin() + static_cast<std::ptrdiff_t>(clocks.size() / 2);
  std::nth_element(clocks.begin(), middle, clocks.end());
  const double least = (1 - tolerance) * *middle;
  for (std::size_t k = 0; k < samples.size(); ++k) {
    marks[k] = samples[k].sm_clock_mhz != 0 && samples[k].sm_clock_mhz < least;
  }
  return marks;
}

std::optional<ClockExponent> clock_exponent(std::span<const Sample> samples) {
  constexpr std::size_t least = 5;
  constexpr double useless = 1;
  constexpr double least_spread = 0.001;          // of the clock
  std::vector<std::pair<double, double>> points;  // log clock, log duration
  for (const Sample& sample : samples) {
    if (sample.sm_clock_mhz == 0 || sample.duration.ns <= 0) continue;
    points.emplace_back(std::log(sample.sm_clock_mhz), std::log(static_cast<double>(sample.duration.ns)));
  }
  const auto n = static_cast<double>(points.size());
  if (points.size() < least) return std::nullopt;
  double mean_x = 0, mean_y = 0;
  for (const auto& [x, y] : points) {
    mean_x += x / n;
    mean_y += y / n;
  }
  double xx = 0, xy = 0, yy = 0;
  for (const auto& [x, y] : points) {
    xx += (x - mean_x) * (x - mean_x);
    xy += (x - mean_x) * (y - mean_y);
    yy += (y - mean_y) * (y - mean_y);
  }
  if (xx <= n * least_spread * least_spread) return std::nullopt;
  const double slope = xy / xx;
  const double left = std::max(0.0, yy - slope * xy);
  const double error = std::sqrt(left / (n - 2) / xx);
  if (error > useless) return std::nullopt;
  return ClockExponent{-slope, error};
}

Summary summary_of(std::span<const Sample> samples) {
  PLUMB_CHECK(!samples.empty());
  const std::vector<bool> aside = throttled(samples);
  std::vector<Duration> in_order;
  std::vector<std::uint32_t> clocks;
  for (std::size_t k = 0; k < samples.size(); ++k) {
    if (aside[k]) continue;
    in_order.push_back(samples[k].duration);
    if (samples[k].sm_clock_mhz != 0) clocks.push_back(samples[k].sm_clock_mhz);
  }
  const std::vector<Duration> in_size = sorted(in_order);
  Summary summary;
  if (!clocks.empty()) {
    std::sort(clocks.begin(), clocks.end());
    summary.sm_clock_mhz = clocks[(clocks.size() - 1) / 2];
  }
  std::vector<Sample> kept;
  for (std::size_t k = 0; k < samples.size(); ++k) {
    if (!aside[k]) kept.push_back(samples[k]);
  }
  if (const auto exponent = clock_exponent(kept)) {
    summary.clock_exponent_ppm = std::llround(exponent->value * 1e6);
    summary.clock_exponent_error_ppm = std::llround(exponent->error * 1e6);
  }
  summary.samples = static_cast<std::uint32_t>(in_size.size());
  summary.set_aside = static_cast<std::uint32_t>(samples.size() - in_size.size());
  summary.minimum = in_size.front();
  summary.median = median(in_size);
  summary.lower_quartile = std::min(quantile(in_size, 0.25), summary.median);
  summary.upper_quartile = std::max(quantile(in_size, 0.75), summary.median);
  summary.maximum = in_size.back();
  const auto interval = median_interval(in_size.size());
  summary.low = std::min(interval ? in_size[interval->first] : summary.minimum, summary.median);
  summary.high = std::max(interval ? in_size[interval->second] : summary.maximum, summary.median);
  if (is_drifting(in_order)) {
    summary.steadiness = Steadiness::drifting;
  } else if (is_bimodal(in_size)) {
    summary.steadiness = Steadiness::bimodal;
  }
  return summary;
}

Verdict SampleSet::verdict(const StoppingRule& rule, Duration elapsed) {
  const std::size_t n = samples_.size();
  if (n >= rule.least && n >= next_look_) {
    next_look_ = n + std::max<std::size_t>(1, n / 20);
    const Summary now = summary();
    precise_ = now.samples >= rule.least && relative_width(now) <= rule.relative_width;
  }
  if (precise_) return Verdict::precise;
  if (n >= rule.most) return Verdict::most_samples;
  const bool spent = elapsed >= rule.budget;
  const bool overspent = elapsed >= rule.budget * 10;
  if ((spent && n >= rule.least) || (overspent && n > 0)) return Verdict::out_of_time;
  return Verdict::go_on;
}

}  // namespace plumb
