#include "calibrate/measure/sampler.hpp"

#include <algorithm>
#include <chrono>
#include <vector>

namespace plumb::measure {
namespace {
constexpr int few_runs = 3;
constexpr Duration settling{400'000'000};
constexpr Duration least_gate{25'000};  // for the clock to be read

Duration since(std::chrono::steady_clock::time_point begin) {
  return {std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count()};
}
}  // namespace

Sampled Sampler::sample(const Timed& timed, WarmUp warm_up, const StoppingRule& rule) {
  const auto begun = std::chrono::steady_clock::now();
  auto warmed_up = begun;
  Sampled result;
  std::vector<Duration> launches;
  for (int run = 0;; ++run) {
    gate_.close(timed.stream);
    const auto launched = std::chrono::steady_clock::now();
    timed.launch();
    const Duration launch = since(launched);
    while (since(launched) < least_gate) {
    }
    gate_.open();
    timed.end.synchronize();
    if (run < few_runs || (warm_up == WarmUp::until_the_clock_settles && since(begun) < settling)) continue;
    if (result.set.samples().empty()) warmed_up = std::chrono::steady_clock::now();
    launches.push_back(launch);
    result.set.add({device::between(timed.begin, timed.end), gate_.clock_mhz()});
    if (result.set.verdict(rule, since(warmed_up)) != Verdict::go_on) break;
  }
  const auto middle = launches.begin() + static_cast<std::ptrdiff_t>(launches.size() / 2);
  std::nth_element(launches.begin(), middle, launches.end());
  result.host_launch = *middle;
  return result;
}

}  // namespace plumb::measure
