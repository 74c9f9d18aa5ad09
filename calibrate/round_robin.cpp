#include "calibrate/round_robin.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace plumb {

RoundRobin::RoundRobin(std::size_t things, const StoppingRule& rule, Duration observe, Duration most)
    : rule_(rule), observe_(observe), things_(things), round_(things), at_(things) {
  PLUMB_CHECK(things > 0);
  most_ = std::max(observe, std::min(most, Duration{rule.budget.ns * static_cast<std::int64_t>(things)}));
  std::iota(round_.begin(), round_.end(), std::size_t{0});
}

std::size_t RoundRobin::next() {
  if (at_ == round_.size()) {
    at_ = 0;
    // std::shuffle's order is the library's own; this one is the same everywhere.
    for (std::size_t left = round_.size(); left > 1; --left)
      std::swap(round_[left - 1], round_[order_() % left]);
  }
  return round_[at_++];
}

void RoundRobin::take(std::size_t thing, const Sample& sample, bool on_time) {
  things_[thing].all.push_back({sample, on_time});
  if (on_time) things_[thing].on_time.add(sample);
}

bool RoundRobin::over(Duration elapsed) {
  const auto all = [&](auto&& holds) { return std::all_of(things_.begin(), things_.end(), holds); };
  if (elapsed >= most_) {
    return elapsed.ns >= 10 * most_.ns ||
           all([&](const Thing& thing) { return thing.all.size() >= rule_.least; });
  }
  if (elapsed < observe_) return all([&](const Thing& thing) { return thing.all.size() >= rule_.most; });
  return all([&](Thing& thing) { return thing.on_time.verdict(rule_, Duration{}) != Verdict::go_on; });
}

std::vector<std::size_t> RoundRobin::counting(std::size_t thing) const {
  const Thing& of = things_[thing];
  const bool enough = of.on_time.samples().size() >= rule_.least;
  std::vector<std::size_t> counting;
  for (std::size_t k = 0; k < of.all.size(); ++k) {
    if (of.all[k].on_time || !enough) counting.push_back(k);
  }
  return counting;
}

std::vector<Sample> RoundRobin::samples(std::size_t thing) const {
  std::vector<Sample> samples;
  for (const std::size_t k : counting(thing)) samples.push_back(things_[thing].all[k].sample);
  return samples;
}

}  // namespace plumb
