#include "tools/planner/shared_sockets.hpp"

#include "calibrate/fit.hpp"
#include "calibrate/lookup.hpp"
#include "tools/planner/shared_power.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

namespace plumb {
namespace {

constexpr int most_rounds = 16;
// A slower way makes the step longer and fewer messages meet: half of each correction settles it.
constexpr double correction = 0.5;

using Way = std::pair<Rank, Rank>;

// [way] how many messages are under way, on average, while one of its own is.
std::map<Way, double> under_way(const Timeline& timeline) {
  std::vector<std::pair<std::int64_t, int>> changes;
  for (const MessageSpan& message : timeline.messages) {
    if (message.begin == message.end) continue;
    changes.emplace_back(message.begin.ns, 1);
    changes.emplace_back(message.end.ns, -1);
  }
  std::sort(changes.begin(), changes.end());
  std::vector<std::pair<std::int64_t, double>> sums;  // messages x ns until then
  double sum = 0;
  int now = 0;
  for (const auto& [time, change] : changes) {
    if (!sums.empty()) sum += now * static_cast<double>(time - sums.back().first);
    sums.emplace_back(time, sum);
    now += change;
  }
  const auto until = [&](std::int64_t time) {
    return std::lower_bound(sums.begin(), sums.end(), time,
                            [](const auto& one, std::int64_t t) { return one.first < t; })
        ->second;
  };
  std::map<Way, std::pair<double, double>> met;  // messages x ns, ns
  for (const MessageSpan& message : timeline.messages) {
    if (message.begin == message.end) continue;
    auto& [messages, time] = met[{message.from, message.to}];
    messages += until(message.end.ns) - until(message.begin.ns);
    time += static_cast<double>((message.end - message.begin).ns);
  }
  std::map<Way, double> means;
  for (const auto& [way, one] : met) means[way] = one.first / one.second;
  return means;
}

}  // namespace

double SharedSockets::times(double under_way) const {
  if (together <= 1 || under_way <= 1) return 1;
  if (under_way >= together) return longer;
  return 1 + (longer - 1) * (under_way - 1) / (together - 1);
}

std::optional<SharedSockets> shared_sockets(const Calibration& calibration) {
  if (main_setting(calibration).share != Share::process) return std::nullopt;
  const auto time_of = [&](TransferKind kind, bool several) -> std::optional<std::pair<double, double>> {
    for (const TransferSeries& series : calibration.transfers) {
      if (!series.fit || series.key.kind != kind || (series.key.at_once > 1) != several) continue;
      const auto time = duration_at(*series.fit, calibration.activation_message).duration.ns;
      return std::pair{static_cast<double>(series.key.at_once), static_cast<double>(time)};
    }
    return std::nullopt;
  };
  const auto one = time_of(TransferKind::one_way, false);
  const auto several = time_of(TransferKind::at_once, true);
  if (!one || !several || one->second <= 0) return std::nullopt;
  return SharedSockets{several->first, std::max(1.0, several->second / one->second)};
}

Prediction predict_at_shared_sockets(const SharedSockets& sockets, const ExecutionOptions& options,
                                     const std::function<Prediction(const ExecutionOptions&)>& predict) {
  ExecutionOptions slowed = options;
  slowed.links_are_shared = true;
  Prediction prediction = predict(slowed);
  std::map<Way, double> times;
  for (int round = 0; round < most_rounds; ++round) {
    slowed.slow_links_ppm = options.slow_links_ppm;
    for (const auto& [way, messages] : under_way(prediction.timeline)) {
      double& now = times.try_emplace(way, 1.0).first->second;
      now += correction * (sockets.times(messages) - now);
      const auto given = options.slow_links_ppm.find(way);
      const double ppm = given == options.slow_links_ppm.end() ? 1e6 : given->second;
      slowed.slow_links_ppm[way] = static_cast<std::uint32_t>(std::lround(ppm * now));
    }
    const Duration before = prediction.report.step_time;
    prediction = predict(slowed);
    if (round > 2 && std::abs((prediction.report.step_time - before).ns) * 1'000 < before.ns) break;
  }
  return prediction;
}

Prediction predict_as_measured(const LoweredSchedule& schedule, const CostModel& cost,
                               const ExecutionOptions& options, const Calibration& calibration,
                               Detail detail) {
  const std::optional<SharedPower> power = shared_power(calibration);
  const auto predict_with = [&](const ExecutionOptions& with) {
    return power ? predict_at_shared_power(schedule, cost, with, *power, detail)
                 : predict(schedule, cost, with, detail);
  };
  const std::optional<SharedSockets> sockets = shared_sockets(calibration);
  return sockets ? predict_at_shared_sockets(*sockets, options, predict_with) : predict_with(options);
}

}  // namespace plumb
