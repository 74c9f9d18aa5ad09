#include "calibrate/measure/sampler.hpp"

#include <algorithm>
#include <chrono>

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

Sample Sampler::once(const Timed& timed) {
  gate_.close(timed.stream);
  const auto launched = std::chrono::steady_clock::now();
  timed.launch();
  while (since(launched) < least_gate) {
  }
  gate_.open();
  timed.end.synchronize();
  return {device::between(timed.begin, timed.end), gate_.clock_mhz()};
}

SampleSet Sampler::sample(const Timed& timed, WarmUp warm_up, const StoppingRule& rule) {
  const auto begun = std::chrono::steady_clock::now();
  const bool under_load = warm_up == WarmUp::until_the_clock_settles;
  const Duration warming = under_load ? load_.settling() : Duration{};
  auto warmed_up = begun;
  SampleSet set;
  for (int run = 0;; ++run) {
    const Sample taken = once(timed);
    if (run < few_runs || since(begun) < warming) continue;
    if (set.samples().empty()) warmed_up = std::chrono::steady_clock::now();
    set.add(taken);
    const Verdict verdict = set.verdict(rule, since(warmed_up));
    const bool long_enough = !under_load || since(warmed_up) >= std::min(observing_load, rule.budget);
    if (verdict == Verdict::most_samples || (verdict != Verdict::go_on && long_enough)) break;
  }
  if (under_load) load_.was_until_now();
  return set;
}

}  // namespace plumb::measure
