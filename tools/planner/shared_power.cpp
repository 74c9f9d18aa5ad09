#include "tools/planner/shared_power.hpp"

#include "calibrate/lookup.hpp"
#include "tools/planner/common_clock.hpp"
#include "tools/planner/step_clock.hpp"

#include <algorithm>
#include <cmath>
#include <set>

namespace plumb {
namespace {

constexpr std::int64_t million = 1'000'000;
constexpr std::array<WorkKind, clocked_kinds> kinds{WorkKind::forward, WorkKind::backward_input,
                                                    WorkKind::backward_weight, WorkKind::backward,
                                                    WorkKind::forward_beside_backward};
constexpr std::size_t pair_kind = 4;
// The load of an op hardly depends on its pace: some four of them settle a step to a ten-thousandth.
constexpr int most_rounds = 8;

Duration scaled(Duration duration, std::int64_t ppm) { return {(duration.ns * ppm + million / 2) / million}; }

/// Of every kind, what the setting makes of a layer; nothing where a kind was not measured in it.
std::optional<SharedPower::Load> load_in(const Calibration& calibration, const Setting& setting,
                                         const Setting& full) {
  SharedPower::Load load;
  load.busy = 1 - static_cast<double>(setting.idle_others) / setting.of;
  load.sm_clock_mhz = clock_in(calibration, setting, false);
  load.pair_clock_mhz = clock_in(calibration, setting, true);
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

/// How a layer's kind changes where the busy neighbours all compute one thing; 1 where that was not measured.
double beside(const Calibration& calibration, std::size_t kind, OthersCompute what, const Setting& full,
              double exponent) {
  Setting company = full;
  company.others_compute = what;
  double there = 0;
  double usual = 0;
  for (const TimedWork& work : calibration.work) {
    if (work.setting != company || work.work.name != "layer" || work.work.kind != kinds[kind]) continue;
    const auto in_steps = find_duration(calibration, work.work, full);
    if (!in_steps) return 1;
    there += static_cast<double>(work.time.median.ns);
    usual += static_cast<double>(in_steps->duration.ns);
  }
  const std::uint32_t clock = clock_in(calibration, company, false);
  const std::uint32_t full_clock = clock_in(calibration, full, false);
  if (there == 0 || usual == 0 || clock == 0 || full_clock == 0) return 1;
  return there / usual * std::pow(static_cast<double>(clock) / full_clock, exponent);
}

constexpr std::array<OthersCompute, 3> companies{OthersCompute::forwards, OthersCompute::backwards,
                                                 OthersCompute::pairs};

std::size_t company_of(const Action& action) {
  if (action.is_pair()) return 2;
  return action.first().kind == OpKind::forward ? 0 : 1;
}

std::size_t kind_of(const Action& action) {
  return action.is_pair() ? pair_kind : static_cast<std::size_t>(action.first().kind);
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
    single.duration = scaled(single.duration, ppm[kind_of(single.action)]);
  }
  return cost;
}

/// How many ranks compute, or one sort of actions (company_of), over time.
class BusyRanks {
 public:
  explicit BusyRanks(const Timeline& timeline, std::optional<std::size_t> company = std::nullopt) {
    std::vector<std::pair<std::int64_t, int>> changes;
    for (const RankTimeline& rank : timeline.ranks) {
      for (const ComputeSpan& span : rank.compute) {
        if (company && company_of(span.action) != *company) continue;
        changes.emplace_back(span.begin.ns, 1);
        changes.emplace_back(span.end.ns, -1);
      }
    }
    std::sort(changes.begin(), changes.end());
    std::int64_t computed = 0;
    std::int64_t now = changes.empty() ? 0 : changes.front().first;
    int busy = 0;
    for (const auto& [time, change] : changes) {
      computed += busy * (time - now);
      now = time;
      busy += change;
      if (!knots_.empty() && knots_.back().time == time) knots_.pop_back();
      knots_.push_back({time, computed, busy});
    }
  }

  double mean(TimePoint begin, TimePoint end) const {
    return static_cast<double>(computed_until(end) - computed_until(begin)) /
           static_cast<double>((end - begin).ns);
  }

 private:
  struct Knot {
    std::int64_t time;
    std::int64_t computed;  // by all ranks, until then
    int busy;               // from then on
  };
  std::int64_t computed_until(TimePoint time) const {
    const auto behind = std::upper_bound(knots_.begin(), knots_.end(), time.ns,
                                         [](std::int64_t t, const Knot& knot) { return t < knot.time; });
    if (behind == knots_.begin()) return 0;
    const Knot& knot = *(behind - 1);
    return knot.computed + knot.busy * (time.ns - knot.time);
  }
  std::vector<Knot> knots_;
};

/// What a span's action takes beside what its neighbours compute meanwhile, of what it takes beside those of
/// full load.
double company_factor(const SharedPower& power, const std::array<BusyRanks, 3>& sorts,
                      const ComputeSpan& span, std::uint32_t ranks) {
  double factor = 1;
  if (ranks < 2) return factor;
  for (std::size_t c = 0; c < sorts.size(); ++c) {
    const double own = company_of(span.action) == c ? 1 : 0;
    const double share = (sorts[c].mean(span.begin, span.end) - own) / (ranks - 1);
    factor += share * (power.beside[kind_of(span.action)][c] - 1);
  }
  return factor;
}

/// Measured on an H200: within steps of 600 ms that its power limit slows, each op's duration is explained
/// best by the load of its last 40 to 70 ms.
constexpr Duration control_lag{50'000'000};

StepClock clock_of(const SharedPower& power, const Timeline& timeline) {
  return StepClock(timeline, control_lag,
                   [&](double busy, double pairs) { return power.clock(busy, pairs); });
}

// All ops at the pace of the step's mean load.
Prediction at_mean_load(const LoweredSchedule& schedule, const CostModel& cost,
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

}  // namespace

SharedPower::Load SharedPower::at(double busy) const {
  busy = std::clamp(busy, 0.0, 1.0);
  if (loads.size() == 1) {
    const std::int64_t least = million * full_mhz() / most_mhz;
    const std::int64_t ppm = std::clamp<std::int64_t>(
        std::llround(std::cbrt(busy) * static_cast<double>(million)), least, million);
    Load load{busy, static_cast<std::uint32_t>((million * full_mhz() + ppm / 2) / ppm), {}, 0};
    load.pace_ppm.fill(ppm);
    return load;
  }
  const auto above = std::find_if(loads.begin(), loads.end(), [&](const Load& l) { return l.busy >= busy; });
  if (above == loads.begin()) return loads.front();
  const Load& less = *(above - 1);
  const Load& more = *above;
  const double share = (busy - less.busy) / (more.busy - less.busy);
  // On a straight line between logarithms: the clock goes with a power of the load.
  const double share_of_log = std::log(busy / less.busy) / std::log(more.busy / less.busy);
  const auto clock_between = [&](std::uint32_t a, std::uint32_t b) {
    if (a == 0 || b == 0) return std::uint32_t{0};
    return static_cast<std::uint32_t>(
        std::lround(a * std::pow(static_cast<double>(b) / static_cast<double>(a), share_of_log)));
  };
  Load load{busy,
            clock_between(less.sm_clock_mhz, more.sm_clock_mhz),
            {},
            clock_between(less.pair_clock_mhz, more.pair_clock_mhz)};
  for (std::size_t k = 0; k < load.pace_ppm.size(); ++k) {
    // What neighbours leave goes by how many there are, and the clock by its own law.
    const double left = at_full_clock(less, k) + share * (at_full_clock(more, k) - at_full_clock(less, k));
    load.pace_ppm[k] = std::llround(left * clock_factor(k, clock_of_kind(load, k)));
  }
  return load;
}

std::uint32_t SharedPower::clock_of_kind(const Load& load, std::size_t kind) {
  return kind == pair_kind ? load.pair_clock_mhz : load.sm_clock_mhz;
}

double SharedPower::clock_factor(std::size_t kind, double clock_mhz) const {
  if (clock_exponent[kind] == 0) return 1;
  return std::pow(clock_of_kind(loads.back(), kind) / clock_mhz, clock_exponent[kind]);
}

double SharedPower::at_full_clock(const Load& load, std::size_t kind) const {
  return static_cast<double>(load.pace_ppm[kind]) / clock_factor(kind, clock_of_kind(load, kind));
}

double SharedPower::clock(double busy, double pairs) const {
  const Load load = at(busy);
  if (load.pair_clock_mhz == 0) return load.sm_clock_mhz;
  return (1 - pairs) * load.sm_clock_mhz + pairs * load.pair_clock_mhz;
}

std::int64_t SharedPower::pace_ppm(std::size_t kind, double busy, double clock_mhz) const {
  return std::llround(at_full_clock(at(busy), kind) * clock_factor(kind, clock_mhz));
}

std::optional<SharedPower> shared_power(const Calibration& measured) {
  const Calibration calibration = at_common_clock(measured);
  const Setting full = main_setting(calibration);
  if (full.share == Share::whole_gpu || full.of < 2 || !full.others_busy || full.idle_others > 0)
    return std::nullopt;
  SharedPower power;
  power.most_mhz = calibration.provenance.most_sm_clock_mhz;
  const std::uint32_t mhz = clock_in(calibration, full, false);
  if (mhz == 0 || power.most_mhz == 0) return std::nullopt;
  std::set<Setting> partial;
  for (const TimedWork& work : calibration.work) {
    if (work.setting.idle_others > 0 && under_full_load(work.setting) == full) partial.insert(work.setting);
  }
  for (const Setting& setting : partial) {
    if (const auto load = load_in(calibration, setting, full)) power.loads.push_back(*load);
  }
  std::sort(power.loads.begin(), power.loads.end(),
            [](const SharedPower::Load& a, const SharedPower::Load& b) { return a.busy < b.busy; });
  power.loads.push_back({1, std::min(mhz, power.most_mhz), {}, clock_in(calibration, full, true)});
  power.loads.back().pace_ppm.fill(million);
  const auto knows_clocks = [](const SharedPower::Load& load) {
    return load.sm_clock_mhz > 0 && load.pair_clock_mhz > 0;
  };
  if (std::all_of(power.loads.begin(), power.loads.end(), knows_clocks))
    power.clock_exponent = clock_exponents(calibration, full);
  for (std::size_t k = 0; k < pair_kind; ++k) {
    for (std::size_t c = 0; c < companies.size(); ++c)
      power.beside[k][c] = beside(calibration, k, companies[c], full, power.clock_exponent[k]);
  }
  return power;
}

Prediction predict_at_shared_power(const LoweredSchedule& schedule, const CostModel& cost,
                                   const ExecutionOptions& options, const SharedPower& power, Detail detail) {
  if (power.loads.size() == 1) return at_mean_load(schedule, cost, options, power, detail);
  // What every op takes under full load and undisturbed by messages.
  CostModel undisturbed = cost;
  undisturbed.slowdown_ppm.clear();
  undisturbed.message_class.reset();
  const Timeline alone = simulate(schedule, undisturbed, options, Detail::actions);
  std::set<std::pair<Rank, Action>> given;
  for (const OpOverride& single : cost.overrides) given.insert({single.rank, single.action});

  CostModel paced = cost;
  Prediction prediction = predict(schedule, paced, options, detail);
  for (int round = 0; round < most_rounds; ++round) {
    const BusyRanks busy(prediction.timeline);
    const std::array<BusyRanks, 3> sorts{BusyRanks(prediction.timeline, 0), BusyRanks(prediction.timeline, 1),
                                         BusyRanks(prediction.timeline, 2)};
    const StepClock clock = clock_of(power, prediction.timeline);
    paced.overrides = cost.overrides;
    for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
      const auto& spans = prediction.timeline.ranks[r].compute;
      for (std::size_t i = 0; i < spans.size(); ++i) {
        const ComputeSpan& span = spans[i];
        if (span.begin == span.end || given.contains({Rank{r}, span.action})) continue;
        const std::int64_t pace =
            power.pace_ppm(kind_of(span.action), busy.mean(span.begin, span.end) / schedule.ranks(),
                           clock.mean_mhz(span.begin, span.end));
        const double company = company_factor(power, sorts, span, schedule.ranks());
        const ComputeSpan& base = alone.ranks[r].compute[i];
        paced.overrides.push_back(
            {Rank{r}, span.action,
             scaled(base.end - base.begin, std::llround(static_cast<double>(pace) * company))});
      }
    }
    const Duration before = prediction.report.step_time;
    prediction = predict(schedule, paced, options, detail);
    if (std::abs((prediction.report.step_time - before).ns) * 10'000 < before.ns) break;
  }
  prediction.sm_clock_mhz =
      static_cast<std::uint32_t>(std::lround(clock_of(power, prediction.timeline).mean_mhz()));
  return prediction;
}

}  // namespace plumb
