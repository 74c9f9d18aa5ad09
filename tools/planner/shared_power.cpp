#include "tools/planner/shared_power.hpp"

#include "calibrate/lookup.hpp"

#include <algorithm>
#include <cmath>
#include <set>

namespace plumb {
namespace {

constexpr std::int64_t million = 1'000'000;
constexpr std::array<WorkKind, 5> kinds{WorkKind::forward, WorkKind::backward_input,
                                        WorkKind::backward_weight, WorkKind::backward,
                                        WorkKind::forward_beside_backward};
constexpr std::size_t pair_kind = 4;

Duration scaled(Duration duration, std::int64_t ppm) { return {(duration.ns * ppm + million / 2) / million}; }

std::uint32_t middle_of(std::vector<std::uint32_t> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::uint32_t clock_in(const Calibration& calibration, const Setting& setting) {
  std::vector<std::uint32_t> clocks;
  for (const TimedWork& work : calibration.work) {
    if (work.setting == setting && work.time.sm_clock_mhz > 0) clocks.push_back(work.time.sm_clock_mhz);
  }
  return middle_of(std::move(clocks));
}

/// Of every kind, what the setting makes of a layer; nothing where a kind was not measured in it.
std::optional<SharedPower::Load> load_in(const Calibration& calibration, const Setting& setting,
                                         const Setting& full) {
  SharedPower::Load load;
  load.busy = 1 - static_cast<double>(setting.idle_others) / setting.of;
  load.sm_clock_mhz = clock_in(calibration, setting);
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    // Every sort of layer counts once.
    std::int64_t some = 0;
    std::int64_t all = 0;
    for (const TimedWork& work : calibration.work) {
      if (work.setting != setting || work.work.name != "layer" || work.work.kind != kinds[k]) continue;
      const auto loaded = find_duration(calibration, work.work, full);
      if (!loaded) return std::nullopt;
      some += work.time.median.ns;
      all += loaded->duration.ns;
    }
    if (some == 0 || all == 0) return std::nullopt;
    load.pace_ppm[k] = std::llround(static_cast<double>(some) / static_cast<double>(all) * million);
  }
  return load;
}

CostModel at_pace(CostModel cost, const std::array<std::int64_t, 5>& ppm) {
  for (StageCost& stage : cost.stages) {
    const std::array<OpCost*, 4> ops{&stage.forward, &stage.backward_input, &stage.backward_weight,
                                     &stage.backward};
    for (std::size_t k = 0; k < ops.size(); ++k) {
      for (Segment& segment : ops[k]->recipe) {
        if (segment.lane == Lane::compute) segment.duration = scaled(segment.duration, ppm[k]);
      }
    }
    if (stage.overlapped) stage.overlapped = scaled(*stage.overlapped, ppm[pair_kind]);
  }
  for (auto& [stages, duration] : cost.measured_pairs) duration = scaled(duration, ppm[pair_kind]);
  if (cost.any_pair) cost.any_pair = scaled(*cost.any_pair, ppm[pair_kind]);
  for (OpOverride& single : cost.overrides) {
    const auto kind =
        single.action.is_pair() ? pair_kind : static_cast<std::size_t>(single.action.first().kind);
    single.duration = scaled(single.duration, ppm[kind]);
  }
  return cost;
}

}  // namespace

SharedPower::Load SharedPower::at(double busy) const {
  busy = std::clamp(busy, 0.0, 1.0);
  if (loads.size() == 1) {
    const std::int64_t least = million * full_mhz() / most_mhz;
    const std::int64_t ppm = std::clamp<std::int64_t>(
        std::llround(std::cbrt(busy) * static_cast<double>(million)), least, million);
    Load load{busy, static_cast<std::uint32_t>((million * full_mhz() + ppm / 2) / ppm), {}};
    load.pace_ppm.fill(ppm);
    return load;
  }
  const auto above = std::find_if(loads.begin(), loads.end(), [&](const Load& l) { return l.busy >= busy; });
  if (above == loads.begin()) return loads.front();
  const Load& less = *(above - 1);
  const Load& more = *above;
  const double share = (busy - less.busy) / (more.busy - less.busy);
  const auto between = [&](double a, double b) { return std::llround(a + share * (b - a)); };
  Load load{busy, static_cast<std::uint32_t>(between(less.sm_clock_mhz, more.sm_clock_mhz)), {}};
  for (std::size_t k = 0; k < load.pace_ppm.size(); ++k)
    load.pace_ppm[k] = between(static_cast<double>(less.pace_ppm[k]), static_cast<double>(more.pace_ppm[k]));
  return load;
}

std::optional<SharedPower> shared_power(const Calibration& calibration) {
  const Setting full = main_setting(calibration);
  if (full.share == Share::whole_gpu || full.of < 2 || !full.others_busy || full.idle_others > 0)
    return std::nullopt;
  SharedPower power;
  power.most_mhz = calibration.provenance.most_sm_clock_mhz;
  const std::uint32_t mhz = clock_in(calibration, full);
  if (mhz == 0 || power.most_mhz == 0) return std::nullopt;
  const Calibration even = at_one_clock(calibration, mhz);
  std::set<Setting> partial;
  for (const TimedWork& work : even.work) {
    Setting all = work.setting;
    all.idle_others = 0;
    if (work.setting.idle_others > 0 && all == full) partial.insert(work.setting);
  }
  for (const Setting& setting : partial) {
    if (const auto load = load_in(even, setting, full)) power.loads.push_back(*load);
  }
  std::sort(power.loads.begin(), power.loads.end(),
            [](const SharedPower::Load& a, const SharedPower::Load& b) { return a.busy < b.busy; });
  power.loads.push_back({1, std::min(mhz, power.most_mhz), {}});
  power.loads.back().pace_ppm.fill(million);
  return power;
}

Calibration at_one_clock(Calibration calibration, std::uint32_t sm_clock_mhz) {
  const Setting setting = main_setting(calibration);
  for (TimedWork& work : calibration.work) {
    Summary& time = work.time;
    if (work.setting != setting || work.work_class == "memory" || time.sm_clock_mhz == 0) continue;
    const std::int64_t ppm = million * time.sm_clock_mhz / sm_clock_mhz;
    for (Duration* one : {&time.minimum, &time.lower_quartile, &time.median, &time.upper_quartile,
                          &time.maximum, &time.low, &time.high})
      *one = scaled(*one, ppm);
    time.sm_clock_mhz = sm_clock_mhz;
  }
  derive_layer(calibration);
  return calibration;
}

Prediction predict_at_shared_power(const LoweredSchedule& schedule, const CostModel& cost,
                                   const ExecutionOptions& options, const SharedPower& power, Detail detail) {
  SharedPower::Load load = power.at(1);
  Prediction prediction = predict(schedule, at_pace(cost, load.pace_ppm), options, detail);
  // The busy share hardly depends on the pace: two rounds settle it, and a bound is a bound.
  for (int round = 0; round < 4; ++round) {
    const SharedPower::Load next = power.at(1 - prediction.report.idle_share);
    if (next.pace_ppm == load.pace_ppm) break;
    load = next;
    prediction = predict(schedule, at_pace(cost, load.pace_ppm), options, detail);
  }
  prediction.sm_clock_mhz = load.sm_clock_mhz;
  return prediction;
}

}  // namespace plumb
