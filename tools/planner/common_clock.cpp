#include "tools/planner/common_clock.hpp"

#include "calibrate/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

namespace plumb {

Setting under_full_load(Setting setting) {
  setting.idle_others = 0;
  setting.others_compute = OthersCompute::as_in_steps;
  return setting;
}

namespace {

constexpr double million = 1e6;
constexpr double sure = 0.1;
// Stages of a kind differ by that much for reasons of their own, however well each of them knows.
constexpr double of_its_own = 0.05;

bool is_op(const TimedWork& work) {
  return (work.work.name == "layer" || work.work.name == "stage") && is_clocked(work.work.kind);
}
bool is_pair(const TimedWork& work) { return work.work.kind == WorkKind::forward_beside_backward; }

// A mean of what is known more or less well.
struct Pool {
  double weights = 0;
  double sum = 0;
  void add(double value, double error) {
    const double weight = 1 / (error * error + of_its_own * of_its_own);
    weights += weight;
    sum += weight * value;
  }
  bool is_sure() const { return weights > 0 && 1 / std::sqrt(weights) <= sure; }
  double mean() const { return std::clamp(sum / weights, 0.0, 1.0); }
};

void scale(Summary& time, double factor) {
  for (Duration* one : {&time.minimum, &time.lower_quartile, &time.median, &time.upper_quartile,
                        &time.maximum, &time.low, &time.high})
    one->ns = std::llround(static_cast<double>(one->ns) * factor);
}

}  // namespace

std::uint32_t clock_in(const Calibration& calibration, const Setting& setting, bool pairs) {
  std::vector<std::uint32_t> clocks;
  for (const TimedWork& work : calibration.work) {
    if (work.setting == setting && is_op(work) && is_pair(work) == pairs && work.time.sm_clock_mhz > 0)
      clocks.push_back(work.time.sm_clock_mhz);
  }
  if (clocks.empty()) return 0;
  const auto half = clocks.begin() + static_cast<std::ptrdiff_t>((clocks.size() - 1) / 2);
  std::nth_element(clocks.begin(), half, clocks.end());
  return *half;
}

std::array<double, clocked_kinds> clock_exponents(const Calibration& calibration, const Setting& setting) {
  std::array<Pool, clocked_kinds> of_kind{};
  Pool of_all;
  for (const TimedWork& work : calibration.work) {
    if (work.setting != setting || !is_op(work) || !work.time.clock_exponent_ppm) continue;
    const double exponent = static_cast<double>(*work.time.clock_exponent_ppm) / million;
    const double error = static_cast<double>(work.time.clock_exponent_error_ppm) / million;
    of_kind[static_cast<std::size_t>(work.work.kind)].add(exponent, error);
    of_all.add(exponent, error);
  }
  std::array<double, clocked_kinds> exponents{};
  for (std::size_t k = 0; k < clocked_kinds; ++k) {
    const Pool& known = of_kind[k].is_sure() ? of_kind[k] : of_all;
    if (known.is_sure()) exponents[k] = known.mean();
  }
  return exponents;
}

Calibration at_common_clock(Calibration calibration) {
  std::map<Setting, std::array<double, clocked_kinds>> exponents;
  std::map<std::pair<Setting, bool>, std::uint32_t> clocks;
  for (const TimedWork& work : calibration.work) {
    if (!is_op(work) || !work.setting.others_busy || work.setting.of < 2 || work.setting.flushed) continue;
    // Partial loads meet a clock that hardly moves, which tells nothing: durations follow it as under full
    // load beside what neighbours do in a step.
    const Setting full = under_full_load(work.setting);
    if (!exponents.contains(full)) exponents[full] = clock_exponents(calibration, full);
    const std::pair<Setting, bool> company{work.setting, is_pair(work)};
    if (!clocks.contains(company)) clocks[company] = clock_in(calibration, work.setting, is_pair(work));
  }
  for (TimedWork& work : calibration.work) {
    const auto common = clocks.find({work.setting, is_pair(work)});
    if (!is_op(work) || common == clocks.end() || common->second == 0 || work.time.sm_clock_mhz == 0)
      continue;
    const Setting full = under_full_load(work.setting);
    const double exponent = exponents.at(full)[static_cast<std::size_t>(work.work.kind)];
    scale(work.time, std::pow(static_cast<double>(work.time.sm_clock_mhz) / common->second, exponent));
    work.time.sm_clock_mhz = common->second;
  }
  return calibration;
}

}  // namespace plumb
