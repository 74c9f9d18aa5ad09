#include "schedules/ir/cost_json.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace plumb {

WorkClass read_class(const JsonView& name, const std::vector<std::string>& classes) {
  const auto found = std::find(classes.begin(), classes.end(), name.text());
  if (found == classes.end()) {
    name.fail(fmt::format("is \"{}\", which is none of the classes", name.text().substr(0, 60)));
  }
  return WorkClass{static_cast<std::uint32_t>(found - classes.begin())};
}

std::vector<std::vector<std::uint32_t>> read_slowdown(const JsonView& rows,
                                                      const std::vector<std::string>& classes) {
  constexpr std::int64_t million = 1'000'000;
  std::vector<std::vector<std::uint32_t>> table;
  for (const JsonView& row : rows.elements()) {
    auto& factors = table.emplace_back();
    for (const JsonView& factor : row.elements()) {
      factors.push_back(static_cast<std::uint32_t>(factor.integer(million, 1000 * million)));
    }
    if (factors.size() != classes.size()) {
      row.fail(fmt::format("has {} factors for {} classes", factors.size(), classes.size()));
    }
  }
  if (!table.empty() && table.size() != classes.size()) {
    rows.fail(fmt::format("has {} rows for {} classes", table.size(), classes.size()));
  }
  return table;
}

std::vector<Segment> read_segments(const JsonView& list, const std::vector<std::string>& classes) {
  std::vector<Segment> segments;
  for (const JsonView& entry : list.elements()) {
    entry.allow_keys({"name", "lane", "class", "duration_ns", "deferred", "tail_ppm"});
    Segment segment;
    if (const auto name = entry.member("name")) segment.name = name->text();
    if (const auto lane = entry.member("lane")) {
      if (lane->text() != "compute" && lane->text() != "communication") {
        lane->fail("is neither \"compute\" nor \"communication\"");
      }
      segment.lane = lane->text() == "compute" ? Lane::compute : Lane::communication;
    }
    if (const auto name = entry.member("class")) segment.work_class = read_class(*name, classes);
    segment.duration = entry.required("duration_ns").duration_ns();
    if (const auto deferred = entry.member("deferred")) segment.deferred = deferred->boolean();
    if (const auto tail = entry.member("tail_ppm"))
      segment.tail_ppm = static_cast<std::uint32_t>(tail->integer(0, 1'000'000));
    segments.push_back(segment);
  }
  return segments;
}

Link read_link(const JsonView& view, std::initializer_list<std::string_view> keys) {
  view.allow_keys(keys);
  Link link;
  if (const auto latency = view.member("latency_ns")) link.latency = latency->duration_ns();
  if (const auto bandwidth = view.member("bytes_per_s"); bandwidth && !bandwidth->is_null()) {
    link.bandwidth = BytesPerSecond{bandwidth->number(1, 1e18)};
  }
  return link;
}

}  // namespace plumb
