#include "tools/planner/step_clock.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace plumb {
namespace {

constexpr std::size_t pieces = 2048;

/// What the spans cover of each piece, in ranks.
class Coverage {
 public:
  Coverage(TimePoint begin, TimePoint end)
      : begin_(begin.ns), piece_(static_cast<double>((end - begin).ns) / pieces), covered_(pieces, 0.0) {}

  void add(const ComputeSpan& span) {
    const double first = static_cast<double>(span.begin.ns - begin_) / piece_;
    const double last = static_cast<double>(span.end.ns - begin_) / piece_;
    for (auto k = static_cast<std::size_t>(first); k < pieces && static_cast<double>(k) < last; ++k) {
      covered_[k] += std::min(last, static_cast<double>(k + 1)) - std::max(first, static_cast<double>(k));
    }
  }

  // y[k] = keep y[k - 1] + (1 - keep) x[k], where y[-1] is the last one of the step before, which is the
  // same.
  std::vector<double> lagging(double keep) const {
    double y = 0;
    for (const double x : covered_) y = keep * y + (1 - keep) * x;
    y /= 1 - std::pow(keep, static_cast<double>(pieces));
    std::vector<double> out(pieces);
    for (std::size_t k = 0; k < pieces; ++k) out[k] = y = keep * y + (1 - keep) * covered_[k];
    return out;
  }

 private:
  std::int64_t begin_;
  double piece_;
  std::vector<double> covered_;
};

}  // namespace

StepClock::StepClock(const Timeline& step, Duration lag,
                     const std::function<double(double, double)>& clock_mhz)
    : sums_(pieces + 1, 0.0) {
  bool any = false;
  for (const RankTimeline& rank : step.ranks) {
    for (const ComputeSpan& span : rank.compute) {
      begin_ = any ? std::min(begin_, span.begin) : span.begin;
      end_ = any ? std::max(end_, span.end) : span.end;
      any = true;
    }
  }
  if (end_ <= begin_) {
    for (std::size_t k = 0; k <= pieces; ++k) sums_[k] = static_cast<double>(k) * clock_mhz(0, 0);
    return;
  }
  Coverage all(begin_, end_), pairs(begin_, end_);
  for (const RankTimeline& rank : step.ranks) {
    for (const ComputeSpan& span : rank.compute) {
      all.add(span);
      if (span.action.is_pair()) pairs.add(span);
    }
  }
  const double piece = static_cast<double>((end_ - begin_).ns) / pieces;
  const double keep = lag.ns > 0 ? std::exp(-piece / static_cast<double>(lag.ns)) : 0;
  const std::vector<double> busy = all.lagging(keep);
  const std::vector<double> paired = pairs.lagging(keep);
  const auto ranks = static_cast<double>(step.ranks.size());
  for (std::size_t k = 0; k < pieces; ++k) {
    const double share = busy[k] > 0 ? std::min(1.0, paired[k] / busy[k]) : 0;
    sums_[k + 1] = sums_[k] + clock_mhz(busy[k] / ranks, share);
  }
}

double StepClock::until(TimePoint time) const {
  if (end_ <= begin_) return 0;
  const double at =
      std::clamp(static_cast<double>((time - begin_).ns) / static_cast<double>((end_ - begin_).ns) * pieces,
                 0.0, static_cast<double>(pieces));
  const std::size_t whole = std::min(static_cast<std::size_t>(at), pieces - 1);
  return sums_[whole] + (at - static_cast<double>(whole)) * (sums_[whole + 1] - sums_[whole]);
}

double StepClock::mean_mhz(TimePoint begin, TimePoint end) const {
  const double piece = static_cast<double>((end_ - begin_).ns) / pieces;
  if (end <= begin || piece <= 0) return mean_mhz();
  return (until(end) - until(begin)) * piece / static_cast<double>((end - begin).ns);
}

double StepClock::mean_mhz() const { return sums_.back() / pieces; }

}  // namespace plumb
