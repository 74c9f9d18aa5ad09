#include "calibrate/measure/sampler.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

namespace plumb::measure {
namespace {
constexpr int few_runs = 3;
constexpr Duration settling{400'000'000};
// Where the load has hardly ceased since the last measurement.
constexpr Duration settling_again{40'000'000};
constexpr Duration hardly{50'000'000};
constexpr Duration least_gate{60'000};  // for the clock to be read to a per cent or two

Duration since(std::chrono::steady_clock::time_point begin) {
  return {std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count()};
}
}  // namespace

Duration Load::settling() const {
  return until_ && since(*until_) < hardly ? settling_again : measure::settling;
}

Sampler::Taken Sampler::once(const Timed& timed) {
  gate_.close(timed.stream);
  if (timed.before) timed.before();
  const auto launched = std::chrono::steady_clock::now();
  timed.launch();
  const Duration launch = since(launched);
  while (since(launched) < least_gate) {
  }
  gate_.open();
  timed.end.synchronize();
  return {{device::between(timed.begin, timed.end), gate_.clock_mhz()}, launch};
}

Sampled Sampler::sample(const Timed& timed, WarmUp warm_up, const StoppingRule& rule) {
  const auto begun = std::chrono::steady_clock::now();
  const bool under_load = warm_up == WarmUp::until_the_clock_settles;
  const Duration warming = under_load ? load_.settling() : Duration{};
  auto warmed_up = begun;
  Sampled result;
  std::vector<Duration> launches;
  for (int run = 0;; ++run) {
    const Taken taken = once(timed);
    if (run < few_runs || since(begun) < warming) continue;
    if (result.set.samples().empty()) warmed_up = std::chrono::steady_clock::now();
    launches.push_back(taken.host_launch);
    result.set.add(taken.sample);
    if (timed.took) timed.took(taken.sample);
    const Verdict verdict = result.set.verdict(rule, since(warmed_up));
    const bool long_enough = !under_load || since(warmed_up) >= std::min(observing_load, rule.budget);
    if (verdict == Verdict::most_samples || (verdict != Verdict::go_on && long_enough)) break;
  }
  const auto middle = launches.begin() + static_cast<std::ptrdiff_t>(launches.size() / 2);
  std::nth_element(launches.begin(), middle, launches.end());
  result.host_launch = *middle;
  if (under_load) load_.was_until_now();
  return result;
}

}  // namespace plumb::measure
