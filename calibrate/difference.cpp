#include "calibrate/difference.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

// [group, name] of each figure of a calibration.
struct Value {
  std::string unit;
  std::int64_t value = 0;
  std::uint32_t clock_mhz = 0;
};
using Figures = std::map<std::pair<std::string, std::string>, Value>;

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

void add_segments(Figures& out, std::string_view kind, const std::vector<Segment>& segments) {
  if (segments.empty()) return;
  Duration sum;
  for (const Segment& segment : segments) sum += segment.duration;
  out[{"layer", fmt::format("layer {}", kind)}] = {"ns", sum.ns};
}

Figures figures_of(const Calibration& calibration) {
  Figures out;
  for (const TimedWork& one : calibration.work) {
    std::string name = to_string(Target{WorkTarget{one.work, one.setting}});
    if (one.time.median == Duration{}) continue;  // a part within another's: nothing that could differ
    if (one.rank) name += fmt::format(", rank {}", *one.rank);
    out[{"work", name}] = {"ns", one.time.median.ns, one.time.sm_clock_mhz};
  }
  for (const TransferSeries& series : calibration.transfers) {
    for (const SizedSummary& point : series.points) {
      out[{"transfers", to_string(Target{TransferTarget{series.key, point.size}})}] = {"ns",
                                                                                       point.time.median.ns};
    }
  }
  for (const Slowdown& one : calibration.slowdowns) {
    out[{"slowdowns", to_string(one.key)}] = {"ppm", slowdown_ppm(one)};
  }
  for (const MeasuredMemory& one : calibration.memory) {
    const std::string name = to_string(Target{MemoryTarget{one.work}});
    out[{"memory", name + ", kept by forward"}] = {"bytes", one.kept_by_forward.count};
    out[{"memory", name + ", freed by backward_input"}] = {"bytes", one.freed_by_backward_input.count};
    out[{"memory", name + ", weights"}] = {"bytes", one.weights.count};
  }
  if (out.empty()) {
    add_segments(out, "forward", calibration.forward);
    add_segments(out, "backward_input", calibration.backward_input);
    add_segments(out, "backward_weight", calibration.backward_weight);
    add_segments(out, "backward", calibration.backward);
    out[{"layer", "link latency"}] = {"ns", calibration.link.latency.ns};
  }
  return out;
}

}  // namespace

double relative(const FigureDifference& difference) {
  if (difference.a == difference.b) return 0;
  if (difference.a == 0) return 1;
  return static_cast<double>(difference.b - difference.a) / static_cast<double>(difference.a);
}

std::optional<double> relative_cycles(const FigureDifference& difference) {
  if (difference.a_clock_mhz == 0 || difference.b_clock_mhz == 0 || difference.a == 0) return std::nullopt;
  const double a = static_cast<double>(difference.a) * difference.a_clock_mhz;
  const double b = static_cast<double>(difference.b) * difference.b_clock_mhz;
  return (b - a) / a;
}

CalibrationDifference difference(const Calibration& a, const Calibration& b) {
  const Figures of_a = figures_of(a);
  const Figures of_b = figures_of(b);
  CalibrationDifference out;
  for (const auto& [key, value] : of_a) {
    const auto other = of_b.find(key);
    if (other == of_b.end()) {
      ++out.only_in_a;
    } else {
      out.figures.push_back({key.first, key.second, value.unit, value.value, other->second.value,
                             value.clock_mhz, other->second.clock_mhz});
    }
  }
  out.only_in_b = of_b.size() - out.figures.size();
  std::stable_sort(out.figures.begin(), out.figures.end(),
                   [](const FigureDifference& x, const FigureDifference& y) {
                     return std::abs(relative(x)) > std::abs(relative(y));
                   });
  return out;
}

double median_abs_relative(const CalibrationDifference& difference, const std::string& group) {
  std::vector<double> all;
  for (const FigureDifference& figure : difference.figures) {
    if (group.empty() ? figure.group != "memory" : figure.group == group)
      all.push_back(std::abs(relative(figure)));
  }
  // Memory alone was compared.
  if (all.empty() && group.empty() && !difference.figures.empty())
    return median_abs_relative(difference, "memory");
  PLUMB_CHECK(!all.empty());
  return median_of(std::move(all));
}

std::optional<double> median_abs_relative_cycles(const CalibrationDifference& difference) {
  std::vector<double> all;
  for (const FigureDifference& figure : difference.figures) {
    const auto cycles = relative_cycles(figure);
    if (figure.group == "work" && cycles) all.push_back(std::abs(*cycles));
  }
  if (all.empty()) return std::nullopt;
  return median_of(std::move(all));
}

}  // namespace plumb
