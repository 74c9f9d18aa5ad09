#include "tools/render/charts.hpp"

#include "tools/render/palette.hpp"
#include "tools/render/svg_text.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace plumb::render {
namespace {

constexpr std::string_view quiet = "#6a737d";
constexpr std::string_view faint = "#d8dee4";
constexpr std::string_view compute_fill = "#57606a";
constexpr std::array<IdleCause, idle_causes> causes{IdleCause::warm_up, IdleCause::waiting_for_message,
                                                    IdleCause::imbalance, IdleCause::exposed_communication,
                                                    IdleCause::drain};

class Svg {
 public:
  Svg(std::int64_t width, std::int64_t height, std::string_view title) {
    put(R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" )", width,
        height);
    put(R"(font-family="Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif" role="img">)");
    put("\n<title>{}</title>\n", escaped(title));
  }
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }
  void words(Px x, Px y, std::string_view anchor, int size, std::string_view colour, std::string_view text) {
    put(R"(<text x="{}" y="{}" font-size="{}" text-anchor="{}" fill="{}">{}</text>)"
        "\n",
        to_text(x), to_text(y), size, anchor, colour, escaped(text));
  }
  std::string finish() {
    text_ += "</svg>\n";
    return std::move(text_);
  }

 private:
  std::string text_;
};

std::int64_t letters_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

bool points_in_bytes(const std::vector<TimeAndMemory>& points) {
  return std::all_of(points.begin(), points.end(), [](const auto& point) { return point.bytes.has_value(); });
}
std::int64_t need_of(const TimeAndMemory& point, bool bytes) {
  return bytes ? point.bytes->count : point.activations_milli;
}

}  // namespace

std::string cause_bars(const std::vector<ReportInput>& inputs) {
  // Room for the longest title.
  std::int64_t left = 170;
  for (const ReportInput& input : inputs) left = std::max(left, letters_of(title_of(input)) * 7 + 20);
  const std::int64_t width = left + 930;
  constexpr std::int64_t bar = 26;
  constexpr std::int64_t pitch = 38;
  constexpr std::int64_t top = 40;
  const Px plot = px(width - left - 130);
  Duration most{1};
  for (const ReportInput& input : inputs) {
    most = std::max(most, input.report.makespan);
  }
  const TimeUnit unit = unit_for(most);
  const std::int64_t bottom = top + static_cast<std::int64_t>(inputs.size()) * pitch;
  Svg svg(width, bottom + 42, "Where the time of a rank goes, on average");

  std::int64_t at = left;
  const auto legend = [&](std::string_view colour, const std::string& name) {
    svg.put(R"(<rect x="{}" y="8" width="14" height="14" fill="{}"/>)", at, colour);
    svg.words(px(at + 20), px(20), "start", 11, ink, name);
    at += 20 + letters_of(name) * 6 + 24;
  };
  legend(compute_fill, "compute");
  for (const IdleCause cause : causes) legend(fill(cause), words(cause));

  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Report& report = inputs[i].report;
    const std::int64_t y = top + static_cast<std::int64_t>(i) * pitch;
    // Sums over ranks, drawn as their mean: the bar is as long as the makespan, whatever the number of ranks.
    const auto ranks = static_cast<std::int64_t>(report.ranks.size());
    const Duration all = report.makespan * ranks;
    svg.words(px(left - 10), px(y + 18), "end", 12, ink, title_of(inputs[i]));
    svg.put("<g class=\"bar\">\n");
    Duration before;
    const auto part = [&](const std::string& name, Duration duration, std::string_view colour,
                          std::string_view text) {
      const Px from = share(plot, before.ns, most.ns * ranks);
      before += duration;
      const Px length = share(plot, before.ns, most.ns * ranks) - from;
      if (duration <= Duration{}) return;
      const std::string figure = percent(duration, all);
      svg.put(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}: {} ms, {} %</title></rect>)"
              "\n",
              to_text(px(left) + from), y, to_text(length), bar, colour, name,
              milliseconds({duration.ns / ranks}), figure);
      if (length >= px(36)) {
        svg.words(px(left) + from + Px{length.hundredths / 2}, px(y + 17), "middle", 10, text,
                  percent(duration, all, 1) + " %");
      }
    };
    part("compute", compute_of(report), compute_fill, "#ffffff");
    for (const IdleCause cause : causes) part(words(cause), idle_of(report, cause), fill(cause), ink);
    svg.put("</g>\n");
    svg.words(px(left) + share(plot, report.makespan.ns, most.ns) + px(8), px(y + 18), "start", 11, quiet,
              fmt::format("bubble {:.1f} %", 100 * report.idle_share));
  }

  svg.put(R"(<path d="M{} {}H{}" stroke="{}" fill="none"/>)"
          "\n",
          left, bottom, to_text(px(left) + plot), quiet);
  const std::int64_t step = round_step(most.ns, 8);
  for (std::int64_t time = 0; time <= most.ns; time += step) {
    const Px x = px(left) + share(plot, time, most.ns);
    svg.put(R"(<path d="M{} {}v5" stroke="{}"/>)", to_text(x), bottom, quiet);
    svg.words(x, px(bottom + 18), "middle", 10, quiet, in_unit({time}, unit));
  }
  svg.words(px(left - 10), px(bottom + 18), "end", 10, quiet, fmt::format("a rank's time in {}", unit.name));
  return svg.finish();
}

TimeAndMemory time_and_memory(const ReportInput& input) {
  const RankReport* top = fullest_rank(input.report);
  return {title_of(input), input.report.step_time, activation_share_milli(input.report),
          top == nullptr ? std::nullopt : top->peak_bytes};
}

std::vector<bool> pareto_front(const std::vector<TimeAndMemory>& points) {
  const bool bytes = points_in_bytes(points);
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](std::size_t k) {
    return std::pair(points[k].step_time.ns, need_of(points[k], bytes));
  };
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  std::vector<bool> front(points.size(), false);
  std::optional<std::pair<std::int64_t, std::int64_t>> best;  // the last one on the front
  for (const std::size_t k : order) {
    // Later ones are no faster: they must need less, or be the same point again.
    if (best && key(k).second >= best->second && key(k) != *best) continue;
    front[k] = true;
    best = key(k);
  }
  return front;
}

std::string pareto_plot(const std::vector<TimeAndMemory>& points) {
  constexpr std::int64_t width = 900;
  constexpr std::int64_t height = 420;
  constexpr std::int64_t left = 80;
  constexpr std::int64_t top = 24;
  const Px across = px(width - left - 40);
  const Px up = px(height - top - 56);
  const bool bytes = points_in_bytes(points);
  const std::vector<bool> front = pareto_front(points);

  // The axes begin below the least and end beyond the most, with room for labels on the right.
  struct Range {
    std::int64_t low = 0;
    std::int64_t high = 1;
  };
  const auto range_of = [&](const auto& value, std::int64_t room_percent) {
    if (points.empty()) return Range{};
    Range range{value(points.front()), value(points.front())};
    for (const TimeAndMemory& point : points) {
      range.low = std::min(range.low, value(point));
      range.high = std::max(range.high, value(point));
    }
    const std::int64_t span = std::max<std::int64_t>({1, range.high - range.low, range.high / 20});
    range.low = std::max<std::int64_t>(0, range.low - span / 8 - 1);
    range.high += span / 100 * room_percent + span % 100 * room_percent / 100 + 1;
    return range;
  };
  const Range time = range_of([](const TimeAndMemory& point) { return point.step_time.ns; }, 22);
  const Range need = range_of([&](const TimeAndMemory& point) { return need_of(point, bytes); }, 12);
  const auto x_of = [&](std::int64_t ns) {
    return px(left) + share(across, ns - time.low, time.high - time.low);
  };
  const auto y_of = [&](std::int64_t value) {
    return px(top) + up - share(up, value - need.low, need.high - need.low);
  };

  Svg svg(width, height, "Step time against memory");
  svg.put(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="#ffffff" stroke="{}"/>)"
          "\n",
          left, top, to_text(across), to_text(up), faint);
  const TimeUnit unit = unit_for({time.high});
  const std::int64_t time_step = round_step(time.high - time.low, 8);
  for (std::int64_t ns = (time.low + time_step - 1) / time_step * time_step; ns <= time.high;
       ns += time_step) {
    svg.put(R"(<path d="M{} {}V{}" stroke="{}" stroke-width="0.5"/>)", to_text(x_of(ns)), top,
            to_text(px(top) + up), faint);
    svg.words(x_of(ns), px(top) + up + px(16), "middle", 10, quiet, in_unit({ns}, unit));
  }
  // In thousandths of a GiB, so that the ticks are round in GiB.
  const std::int64_t scale = bytes ? (std::int64_t{1} << 30) : 1'000;
  const std::int64_t parts = 1'000;
  __extension__ using Wide = __int128;
  const auto in_parts = [&](std::int64_t value) {
    return static_cast<std::int64_t>(Wide{value} * parts / scale);
  };
  const std::int64_t need_step =
      round_step(std::max<std::int64_t>(1, in_parts(need.high) - in_parts(need.low)), 6);
  for (std::int64_t part = (in_parts(need.low) / need_step + 1) * need_step; part <= in_parts(need.high);
       part += need_step) {
    const Px y = y_of(static_cast<std::int64_t>(Wide{part} * scale / parts));
    svg.put(R"(<path d="M{} {}H{}" stroke="{}" stroke-width="0.5"/>)", left, to_text(y),
            to_text(px(left) + across), faint);
    svg.words(px(left - 8), y + px(4), "end", 10, quiet, in_unit({part}, {"", parts}));
  }
  svg.words(px(left) + Px{across.hundredths / 2}, px(height - 12), "middle", 11, ink,
            fmt::format("step time in {}", unit.name));
  svg.words(px(left - 8), px(top - 8), "start", 11, ink,
            bytes ? "peak memory of the fullest rank in GiB"
                  : "peak activations of the fullest rank, in microbatches of model / ranks");

  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(points[a].step_time.ns, need_of(points[a], bytes)) <
           std::pair(points[b].step_time.ns, need_of(points[b], bytes));
  });
  std::string path;
  Px level;
  for (const std::size_t k : order) {
    if (!front[k]) continue;
    const Px x = x_of(points[k].step_time.ns);
    const Px y = y_of(need_of(points[k], bytes));
    path += path.empty() ? fmt::format("M{} {}", to_text(x), to_text(y))
                         : fmt::format("H{}V{}", to_text(x), to_text(y));
    level = y;
  }
  if (!path.empty()) {
    svg.put(R"(<path d="{}" fill="none" stroke="#8250df" stroke-width="1.2" stroke-dasharray="4 3"/>)"
            "\n",
            path);
  }
  // A label stands right of its point, or above or below it where another stands there already.
  struct Box {
    std::int64_t x;
    std::int64_t y;
    std::int64_t width;
  };
  std::vector<Box> taken;
  for (const std::size_t k : order) {
    const Px x = x_of(points[k].step_time.ns);
    const Px y = y_of(need_of(points[k], bytes));
    svg.put(
        R"(<circle cx="{}" cy="{}" r="5" fill="{}" stroke="#6639ba" stroke-width="1.5"><title>{}: {} ms, {}</title></circle>)"
        "\n",
        to_text(x), to_text(y), front[k] ? "#8250df" : "#ffffff", escaped(points[k].label),
        milliseconds(points[k].step_time),
        bytes ? plumb::to_text(*points[k].bytes)
              : fmt::format("{} activations", in_unit({points[k].activations_milli}, {"", 1'000})));
    taken.push_back({x.hundredths / 100 - 6, y.hundredths / 100 - 6, 12});
  }
  for (const std::size_t k : order) {
    const std::int64_t x = x_of(points[k].step_time.ns).hundredths / 100;
    const std::int64_t y = y_of(need_of(points[k], bytes)).hundredths / 100;
    const std::int64_t length = letters_of(points[k].label) * 6 + 4;
    Box box{};
    for (const auto& [dx, dy] : std::array<std::pair<std::int64_t, std::int64_t>, 8>{{{7, -19},
                                                                                      {-length - 7, -6},
                                                                                      {9, -6},
                                                                                      {9, 8},
                                                                                      {-length / 2, -22},
                                                                                      {-length / 2, 10},
                                                                                      {9, -33},
                                                                                      {9, 21}}}) {
      box = {x + dx, y + dy, length};
      const bool free = std::none_of(taken.begin(), taken.end(), [&](const Box& other) {
        return box.x < other.x + other.width && other.x < box.x + box.width && box.y < other.y + 12 &&
               other.y < box.y + 12;
      });
      if (free && box.x > left && box.x + box.width < width) break;
    }
    taken.push_back(box);
    svg.words(px(box.x), px(box.y + 10), "start", 11, ink, points[k].label);
  }
  return svg.finish();
}

}  // namespace plumb::render
