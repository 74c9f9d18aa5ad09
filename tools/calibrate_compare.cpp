#include "tools/calibrate_compare.hpp"

#include "calibrate/calibration.hpp"
#include "calibrate/difference.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "tools/options.hpp"
#include "tools/render/common_words.hpp"
#include "tools/render/table.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

std::string percent(double ratio) { return fmt::format("{:.2f} %", 100 * ratio); }

constexpr std::array<const char*, 5> groups{"work", "transfers", "slowdowns", "memory", "layer"};

// The figures of a group, which stand in `found` the furthest apart first.
std::vector<const FigureDifference*> of_group(const CalibrationDifference& found, const std::string& group) {
  std::vector<const FigureDifference*> all;
  for (const FigureDifference& one : found.figures) {
    if (one.group == group) all.push_back(&one);
  }
  return all;
}

std::string value_text(std::int64_t value, const std::string& unit) {
  if (unit == "ns") return fmt::format("{:.2f} us", static_cast<double>(value) / 1e3);
  if (unit == "ppm") return fmt::format("{:.3f} times", static_cast<double>(value) / 1e6);
  return fmt::format("{} {}", value, unit);
}

void compare_json(std::ostream& out, const CalibrationDifference& found) {
  const auto figure = [](const FigureDifference& one) {
    return fmt::format(R"({{"name":{},"group":"{}","rel":{:.6f},"a_{}":{},"b_{}":{}}})",
                       json_quoted(one.name), one.group, relative(one), one.unit, one.a, one.unit, one.b);
  };
  fmt::print(out,
             R"({{"schema":"plumb.calibration_diff/1","median_abs_rel":{:.6f},"worst":{},"compared":{},)",
             median_abs_relative(found), figure(found.figures.front()), found.figures.size());
  if (const auto cycles = median_abs_relative_cycles(found)) {
    fmt::print(out, R"("work_median_abs_rel_cycles":{:.6f},)", *cycles);
  }
  fmt::print(out, R"("only_in_a":{},"only_in_b":{},"groups":[)", found.only_in_a, found.only_in_b);
  bool first = true;
  for (const std::string group : groups) {
    const auto all = of_group(found, group);
    if (all.empty()) continue;
    fmt::print(out, R"({}{{"group":"{}","compared":{},"median_abs_rel":{:.6f},"worst":{}}})",
               first ? "" : ",", group, all.size(), median_abs_relative(found, group), figure(*all.front()));
    first = false;
  }
  fmt::print(out, "],\"figures\":[");
  for (std::size_t k = 0; k < found.figures.size(); ++k)
    out << (k > 0 ? ",\n" : "\n") << figure(found.figures[k]);
  fmt::print(out, "]}}\n");
}

}  // namespace

int compare_calibrations(const std::string& name_a, const std::string& name_b, bool force, bool json,
                         Console& console) {
  const Calibration a = load_calibration(name_a, "--compare");
  const Calibration b = load_calibration(name_b, "--compare");
  if (!same_gpu_class(a.provenance.gpu, b.provenance.gpu) && !force) {
    throw BadInput(name_a, fmt::format("was measured on {}, {} on {}; --force compares them all the same",
                                       a.provenance.gpu, name_b, b.provenance.gpu));
  }
  const CalibrationDifference found = difference(a, b);
  if (found.figures.empty()) {
    throw BadInput(name_a, fmt::format("has no figure in common with {}", name_b));
  }
  if (json) {
    compare_json(console.out, found);
    return 0;
  }
  fmt::print(console.out, "{} figures in both, {} only in {}, {} only in {}\nmedian |difference| {}\n",
             found.figures.size(), found.only_in_a, name_a, found.only_in_b, name_b,
             percent(median_abs_relative(found)));
  if (const auto cycles = median_abs_relative_cycles(found)) {
    fmt::print(console.out, "of the work, in clock cycles {}\n", percent(*cycles));
  }
  render::Table by_group;
  by_group.head = {"of", "figures", "median |difference|", "furthest"};
  for (const std::string group : groups) {
    const auto all = of_group(found, group);
    if (all.empty()) continue;
    by_group.rows.push_back({group, fmt::format("{}", all.size()), percent(median_abs_relative(found, group)),
                             percent(relative(*all.front()))});
  }
  console.out << "\n" << to_text(by_group);
  // Names are long: they stand last, and what most have in common is said once.
  const std::size_t shown = std::min<std::size_t>(20, found.figures.size());
  std::vector<std::string> names;
  for (std::size_t k = 0; k < shown; ++k) names.push_back(found.figures[k].name);
  const render::CommonWords words = render::common_words(names);
  fmt::print(console.out, "\n{:>10}  {:>14}  {:>14}  furthest apart{}\n", "difference", "a", "b",
             words.common.empty() ? "" : fmt::format(" ({}; where a row says nothing else)", words.common));
  for (std::size_t k = 0; k < shown; ++k) {
    const FigureDifference& one = found.figures[k];
    fmt::print(console.out, "{:>10}  {:>14}  {:>14}  {}\n", percent(relative(one)),
               value_text(one.a, one.unit), value_text(one.b, one.unit), words.names[k]);
  }
  return 0;
}

}  // namespace plumb::tools
