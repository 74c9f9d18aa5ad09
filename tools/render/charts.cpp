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

// Step time across, memory upwards: grid, front, points, and their names where there is room.
class ParetoPlot {
 public:
  explicit ParetoPlot(const std::vector<TimeAndMemory>& points)
      : points_(points), bytes_(points_in_bytes(points)), front_(pareto_front(points)) {
    time_ = range_of([](const TimeAndMemory& point) { return point.step_time.ns; }, 22);
    need_ = range_of([&](const TimeAndMemory& point) { return need_of(point, bytes_); }, 12);
    order_.resize(points.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
      return std::pair(points[a].step_time.ns, need_of(points[a], bytes_)) <
             std::pair(points[b].step_time.ns, need_of(points[b], bytes_));
    });
  }

  std::string draw() {
    svg_.put(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="#ffffff" stroke="{}"/>)"
             "\n",
             left, top, to_text(across), to_text(up), faint);
    draw_times();
    draw_needs();
    draw_front();
    draw_points();
    write_names();
    return svg_.finish();
  }

 private:
  static constexpr std::int64_t width = 900;
  static constexpr std::int64_t height = 420;
  static constexpr std::int64_t left = 80;
  static constexpr std::int64_t top = 24;
  static constexpr Px across = px(width - left - 40);
  static constexpr Px up = px(height - top - 56);

  struct Range {
    std::int64_t low = 0;
    std::int64_t high = 1;
  };
  // The axes begin below the least and end beyond the most, with room for names on the right.
  template <class Value>
  Range range_of(const Value& value, std::int64_t room_percent) const {
    if (points_.empty()) return {};
    Range range{value(points_.front()), value(points_.front())};
    for (const TimeAndMemory& point : points_) {
      range.low = std::min(range.low, value(point));
      range.high = std::max(range.high, value(point));
    }
    const std::int64_t span = std::max<std::int64_t>({1, range.high - range.low, range.high / 20});
    range.low = std::max<std::int64_t>(0, range.low - span / 8 - 1);
    range.high += span / 100 * room_percent + span % 100 * room_percent / 100 + 1;
    return range;
  }
  Px x_of(std::int64_t ns) const { return px(left) + share(across, ns - time_.low, time_.high - time_.low); }
  Px y_of(std::int64_t value) const {
    return px(top) + up - share(up, value - need_.low, need_.high - need_.low);
  }
  Px x_of(const TimeAndMemory& point) const { return x_of(point.step_time.ns); }
  Px y_of(const TimeAndMemory& point) const { return y_of(need_of(point, bytes_)); }

  void draw_times() {
    const TimeUnit unit = unit_for({time_.high});
    const std::int64_t step = round_step(time_.high - time_.low, 8);
    for (std::int64_t ns = (time_.low + step - 1) / step * step; ns <= time_.high; ns += step) {
      svg_.put(R"(<path d="M{} {}V{}" stroke="{}" stroke-width="0.5"/>)", to_text(x_of(ns)), top,
               to_text(px(top) + up), faint);
      svg_.words(x_of(ns), px(top) + up + px(16), "middle", 10, quiet, in_unit({ns}, unit));
    }
    svg_.words(px(left) + Px{across.hundredths / 2}, px(height - 12), "middle", 11, ink,
               fmt::format("step time in {}", unit.name));
  }

  // In thousandths of a GiB, so that the ticks are round in GiB.
  void draw_needs() {
    __extension__ using Wide = __int128;
    const std::int64_t scale = bytes_ ? (std::int64_t{1} << 30) : 1'000;
    constexpr std::int64_t parts = 1'000;
    const auto in_parts = [&](std::int64_t value) {
      return static_cast<std::int64_t>(Wide{value} * parts / scale);
    };
    const std::int64_t step =
        round_step(std::max<std::int64_t>(1, in_parts(need_.high) - in_parts(need_.low)), 6);
    for (std::int64_t part = (in_parts(need_.low) / step + 1) * step; part <= in_parts(need_.high);
         part += step) {
      const Px y = y_of(static_cast<std::int64_t>(Wide{part} * scale / parts));
      svg_.put(R"(<path d="M{} {}H{}" stroke="{}" stroke-width="0.5"/>)", left, to_text(y),
               to_text(px(left) + across), faint);
      svg_.words(px(left - 8), y + px(4), "end", 10, quiet, in_unit({part}, {"", parts}));
    }
    svg_.words(px(left - 8), px(top - 8), "start", 11, ink,
               bytes_ ? "peak memory of the fullest rank in GiB"
                      : "peak activations of the fullest rank, in microbatches of model / ranks");
  }

  void draw_front() {
    std::string path;
    for (const std::size_t k : order_) {
      if (!front_[k]) continue;
      const std::string x = to_text(x_of(points_[k])), y = to_text(y_of(points_[k]));
      path += path.empty() ? fmt::format("M{} {}", x, y) : fmt::format("H{}V{}", x, y);
    }
    if (path.empty()) return;
    svg_.put(R"(<path d="{}" fill="none" stroke="#8250df" stroke-width="1.2" stroke-dasharray="4 3"/>)"
             "\n",
             path);
  }

  void draw_points() {
    for (const std::size_t k : order_) {
      const TimeAndMemory& point = points_[k];
      const Px x = x_of(point), y = y_of(point);
      const std::string need =
          bytes_ ? plumb::to_text(*point.bytes)
                 : fmt::format("{} activations", in_unit({point.activations_milli}, {"", 1'000}));
      svg_.put(
          R"(<circle cx="{}" cy="{}" r="5" fill="{}" stroke="#6639ba" stroke-width="1.5"><title>{}: {} ms, {}</title></circle>)"
          "\n",
          to_text(x), to_text(y), front_[k] ? "#8250df" : "#ffffff", escaped(point.label),
          milliseconds(point.step_time), need);
      taken_.push_back({x.hundredths / 100 - 6, y.hundredths / 100 - 6, 12});
    }
  }

  // A name stands right of its point, or above or below it where another stands there already.
  void write_names() {
    for (const std::size_t k : order_) {
      const std::int64_t x = x_of(points_[k]).hundredths / 100, y = y_of(points_[k]).hundredths / 100;
      const std::int64_t length = letters_of(points_[k].label) * 6 + 4;
      const std::array<std::pair<std::int64_t, std::int64_t>, 8> places{{{7, -19},
                                                                         {-length - 7, -6},
                                                                         {9, -6},
                                                                         {9, 8},
                                                                         {-length / 2, -22},
                                                                         {-length / 2, 10},
                                                                         {9, -33},
                                                                         {9, 21}}};
      Box box{};
      for (const auto& [dx, dy] : places) {
        box = {x + dx, y + dy, length};
        const bool free = std::none_of(taken_.begin(), taken_.end(), [&](const Box& other) {
          return box.x < other.x + other.width && other.x < box.x + box.width && box.y < other.y + 12 &&
                 other.y < box.y + 12;
        });
        if (free && box.x > left && box.x + box.width < width) break;
      }
      taken_.push_back(box);
      svg_.words(px(box.x), px(box.y + 10), "start", 11, ink, points_[k].label);
    }
  }

  struct Box {
    std::int64_t x, y, width;
  };

  const std::vector<TimeAndMemory>& points_;
  bool bytes_;
  std::vector<bool> front_;
  Range time_, need_;
  std::vector<std::size_t> order_;  // from left to right
  std::vector<Box> taken_;          // by points and names
  Svg svg_{width, height, "Step time against memory"};
};

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

std::string pareto_plot(const std::vector<TimeAndMemory>& points) { return ParetoPlot(points).draw(); }

}  // namespace plumb::render
