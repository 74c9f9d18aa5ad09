#include "tools/planner/shared_power.hpp"

#include "calibrate/lookup.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace plumb {
namespace {

constexpr std::int64_t million = 1'000'000;

Duration scaled(Duration duration, std::int64_t ppm) { return {(duration.ns * ppm + million / 2) / million}; }

// All computation times ppm / 1,000,000.
CostModel at_pace(CostModel cost, std::int64_t ppm) {
  for (StageCost& stage : cost.stages) {
    for (OpCost* op : {&stage.forward, &stage.backward_input, &stage.backward_weight, &stage.backward}) {
      for (Segment& segment : op->recipe) {
        if (segment.lane == Lane::compute) segment.duration = scaled(segment.duration, ppm);
      }
    }
    if (stage.overlapped) stage.overlapped = scaled(*stage.overlapped, ppm);
  }
  for (auto& [stages, duration] : cost.measured_pairs) duration = scaled(duration, ppm);
  if (cost.any_pair) cost.any_pair = scaled(*cost.any_pair, ppm);
  for (OpOverride& single : cost.overrides) single.duration = scaled(single.duration, ppm);
  return cost;
}

}  // namespace

std::optional<ClockRange> shared_clock(const Calibration& calibration) {
  const Setting setting = main_setting(calibration);
  if (setting.share != Share::partition || !setting.others_busy) return std::nullopt;
  std::vector<std::uint32_t> clocks;
  for (const TimedWork& work : calibration.work) {
    if (work.setting == setting && work.time.sm_clock_mhz > 0) clocks.push_back(work.time.sm_clock_mhz);
  }
  const std::uint32_t most = calibration.provenance.most_sm_clock_mhz;
  if (clocks.empty() || most == 0) return std::nullopt;
  const auto middle = clocks.begin() + static_cast<std::ptrdiff_t>(clocks.size() / 2);
  std::nth_element(clocks.begin(), middle, clocks.end());
  return ClockRange{std::min(*middle, most), most};
}

Prediction predict_at_shared_power(const LoweredSchedule& schedule, const CostModel& cost,
                                   const ExecutionOptions& options, const ClockRange& clock, Detail detail) {
  const std::int64_t least = million * clock.loaded_mhz / clock.most_mhz;
  std::int64_t pace = million;
  Prediction prediction = predict(schedule, cost, options, detail);
  // The busy share hardly depends on the pace: two rounds settle it, and a bound is a bound.
  for (int round = 0; round < 4; ++round) {
    const double busy = std::clamp(1 - prediction.report.idle_share, 0.0, 1.0);
    const std::int64_t next = std::clamp<std::int64_t>(
        std::llround(std::cbrt(busy) * static_cast<double>(million)), least, million);
    if (next == pace) break;
    pace = next;
    prediction = predict(schedule, at_pace(cost, pace), options, detail);
  }
  prediction.sm_clock_mhz = static_cast<std::uint32_t>((million * clock.loaded_mhz + pace / 2) / pace);
  return prediction;
}

}  // namespace plumb
