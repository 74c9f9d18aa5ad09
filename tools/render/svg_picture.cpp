#include "tools/render/svg_picture.hpp"

#include "schedules/ir/error.hpp"
#include "sim/idle.hpp"
#include "sim/live_activations.hpp"
#include "tools/render/palette.hpp"
#include "tools/render/svg_text.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace plumb::render {
namespace {

constexpr std::int64_t row_height = 26;
constexpr std::int64_t row_pitch = 28;
constexpr std::int64_t left_margin = 78;
constexpr std::int64_t right_margin = 24;
constexpr std::int64_t title_height = 30;
constexpr std::int64_t curve_height = 72;
constexpr std::int64_t panel_gap = 22;
constexpr std::int64_t axis_height = 40;
constexpr std::int64_t legend_height = 34;
constexpr std::int64_t digit_width = 7;  // of a number of 11 pixels, roughly

constexpr std::string_view quiet = "#6a737d";
constexpr std::string_view faint = "#d8dee4";

// A step line: from each time on, the value.
using Curve = std::vector<std::pair<TimePoint, std::int64_t>>;

struct Curves {
  std::vector<Curve> ranks;
  bool bytes = false;
};

Curves curves_of(const PictureInput& input) {
  Curves curves;
  const std::size_t ranks = input.timeline.ranks.size();
  if (input.memory != nullptr && input.memory->ranks.size() == ranks) {
    for (const RankMemory& rank : input.memory->ranks) curves.bytes |= rank.peak.total() != Bytes{};
  }
  for (std::size_t r = 0; r < ranks; ++r) {
    Curve& curve = curves.ranks.emplace_back();
    if (curves.bytes) {
      for (const MemoryPoint& point : input.memory->ranks[r].curve) {
        curve.emplace_back(point.time, point.bytes.count);
      }
    } else {
      for (const LivePoint& point : live_activations(input.timeline.ranks[r], input.timeline.microbatches)) {
        curve.emplace_back(point.time, point.chunks);
      }
    }
  }
  return curves;
}

std::int64_t peak_of(const Curve& curve) {
  std::int64_t peak = 0;
  for (const auto& [time, value] : curve) peak = std::max(peak, value);
  return peak;
}

class Picture {
 public:
  Picture(const std::vector<PictureInput>& inputs, const SvgOptions& options)
      : inputs_(inputs), options_(options) {
    for (const PictureInput& input : inputs) {
      const StepBounds bounds = step_bounds(input.timeline);
      begins_.push_back(bounds.begin);
      shares_.push_back(forward_share_milli(input.timeline));
      full_ = std::max(full_, bounds.makespan());
      for (const RankTimeline& rank : input.timeline.ranks) {
        for (const CollectiveSpan& span : rank.collectives) full_ = std::max(full_, span.end - bounds.begin);
      }
      if (options.memory) curves_.push_back(curves_of(input));
    }
    if (full_ <= Duration{}) full_ = {1};
    for (const Curves& curves : curves_) {
      std::int64_t& most = curves.bytes ? most_bytes_ : most_chunks_;
      for (const Curve& curve : curves.ranks) most = std::max(most, peak_of(curve));
    }
    width_ = options.width == 0 ? natural_width()
                                : std::max<std::int64_t>(options.width, left_margin + right_margin + 100);
    plot_ = px(width_ - left_margin - right_margin);
    unit_ = unit_for(full_);
  }

  std::string draw() {
    std::int64_t y = 8;
    for (std::size_t i = 0; i < inputs_.size(); ++i) y = panel(i, y);
    const std::int64_t plot_bottom = y - panel_gap;
    axis(plot_bottom);
    const std::int64_t height =
        options_.legend ? legend(plot_bottom + axis_height) : plot_bottom + axis_height;
    const std::string body = std::exchange(text_, {});
    put(R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" )", width_,
        height);
    put(R"(font-family="Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif" role="img">)");
    put("\n<title>{}</title>\n", escaped(summary()));
    put(R"(<rect width="{}" height="{}" fill="#ffffff"/>)"
        "\n",
        width_, height);
    return text_ + body + "</svg>\n";
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }

  // Where a time of input i stands. Rounded down once from the origin, so that neighbours meet exactly.
  Px x(std::size_t i, TimePoint time) const {
    return px(left_margin) + share(plot_, (time - begins_[i]).ns, full_.ns);
  }

  // So wide that of ten actions nine have room for their number.
  std::int64_t natural_width() const {
    std::vector<std::int64_t> wanted;  // plot width, in pixels
    for (const PictureInput& input : inputs_) {
      for (const RankTimeline& rank : input.timeline.ranks) {
        for (const ComputeSpan& span : rank.compute) {
          std::int64_t digits = 0;
          for (const Op& op : span.action) {
            digits += static_cast<std::int64_t>(fmt::formatted_size("{}", op.microbatch.value));
          }
          const std::int64_t room = digits * digit_width + 5 * static_cast<std::int64_t>(span.action.size());
          const std::int64_t duration = (span.end - span.begin).ns;
          if (duration <= 0) continue;
          wanted.push_back(share(px(room), full_.ns, duration).hundredths / 100 + 1);
        }
      }
    }
    if (wanted.empty()) return 900;
    const auto most = wanted.begin() + static_cast<std::ptrdiff_t>(wanted.size() * 9 / 10);
    std::nth_element(wanted.begin(), most, wanted.end());
    return std::clamp<std::int64_t>(*most + left_margin + right_margin, 900,
                                    std::max<std::int64_t>(900, options_.most_width));
  }

  std::string title_of(std::size_t i) const {
    return inputs_[i].title.empty() ? inputs_[i].timeline.name : inputs_[i].title;
  }
  std::string summary() const {
    std::string text = "Pipeline timeline";
    for (std::size_t i = 0; i < inputs_.size(); ++i) text += (i == 0 ? ": " : ", ") + title_of(i);
    return text;
  }

  std::int64_t panel(std::size_t i, std::int64_t y) {
    const PictureInput& input = inputs_[i];
    put(R"(<text x="{}" y="{}" font-size="14" font-weight="600" fill="{}">{})", left_margin, y + 16, ink,
        escaped(title_of(i)));
    std::string facts =
        fmt::format("{} ranks, {} microbatches", input.timeline.ranks.size(), input.timeline.microbatches);
    if (input.report != nullptr) {
      facts += fmt::format(" · step {} · bubble {:.1f} %", plumb::to_text(input.report->step_time),
                           100 * input.report->idle_share);
    }
    put(R"(<tspan dx="12" font-size="12" font-weight="400" fill="{}">{}</tspan></text>)"
        "\n",
        quiet, escaped(facts));
    y += title_height;

    const Shading shading(input.timeline);
    // One legend for all: what a shade means here, and what it means in another timeline.
    for (std::size_t k = 0; k < shading.names().size(); ++k) {
      const std::string& name = shading.names()[k];
      if (k == shade_names_.size()) {
        shade_names_.push_back(name);
      } else if (shade_names_[k].find(name) == std::string::npos) {
        shade_names_[k] += " or " + name;
      }
    }
    const auto idle = options_.tooltips ? idle_gaps(input.timeline) : std::vector<std::vector<IdleSlice>>{};
    for (std::uint32_t r = 0; r < input.timeline.ranks.size(); ++r, y += row_pitch) {
      row(i, r, shading, y);
      if (!idle.empty()) waits(i, idle[r], y);
    }
    if (options_.memory) {
      curve(i, y + 8);
      y += curve_height + 12;
    }
    return y + panel_gap;
  }

  void row(std::size_t i, std::uint32_t r, const Shading& shading, std::int64_t y) {
    const RankTimeline& rank = inputs_[i].timeline.ranks[r];
    const std::int64_t forward_share = shares_[i];
    put(R"(<text x="{}" y="{}" font-size="11" text-anchor="end" fill="{}">rank {}</text>)"
        "\n",
        left_margin - 8, y + 17, quiet, r);
    put(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="#ffffff" stroke="{}" stroke-width="1"/>)"
        "\n",
        left_margin, y, to_text(plot_), row_height, faint);
    put(R"(<g stroke="#ffffff" stroke-width="0.6" text-anchor="middle" class="cells">)"
        "\n");
    for (const ComputeSpan& span : rank.compute) {
      const Px begin = x(i, span.begin);
      const Px end = x(i, span.end);
      if (!span.action.is_pair()) {
        cell(i, r, span, span.action.first(), begin, end, y, shading);
        continue;
      }
      const Px middle = begin + share(end - begin, forward_share, 1000);
      cell(i, r, span, span.action.first(), begin, middle, y, shading);
      cell(i, r, span, span.action.second(), middle, end, y, shading);
    }
    put("</g>\n");
    // Above the cells, so that no neighbour covers a border.
    put(R"(<g fill="none" stroke="#000000" stroke-width="1.4" class="pairs">)"
        "\n");
    for (const ComputeSpan& span : rank.compute) {
      if (!span.action.is_pair()) continue;
      const Px begin = x(i, span.begin);
      const Px width = x(i, span.end) - begin;
      put(R"(<rect x="{}" y="{}.7" width="{}" height="{}.6"/>)"
          "\n",
          to_text(begin + Px{70}), y, to_text(std::max(Px{20}, width - Px{140})), row_height - 2);
    }
    put("</g>\n");
    for (const CollectiveSpan& span : rank.collectives) {
      if (span.begin == span.end) continue;
      has_collectives_ = true;
      put(R"(<rect x="{}" y="{}" width="{}" height="5" fill="#8c959f" class="collective">{}</rect>)"
          "\n",
          to_text(x(i, span.begin)), y + row_height - 5, to_text(x(i, span.end) - x(i, span.begin)),
          tooltip(plumb::to_string(span.op), span.begin, span.end, begins_[i]));
    }
  }

  std::string tooltip(const std::string& what, TimePoint begin, TimePoint end, TimePoint origin) const {
    if (!options_.tooltips) return {};
    return fmt::format("<title>{}: {} to {} {}, {}</title>", escaped(what), in_unit(begin - origin, unit_),
                       in_unit(end - origin, unit_), unit_.name, plumb::to_text(end - begin));
  }

  void cell(std::size_t i, std::uint32_t r, const ComputeSpan& span, const Op& op, Px begin, Px end,
            std::int64_t y, const Shading& shading) {
    const Px width = end - begin;
    const std::uint32_t shade = shading.of(Rank{r}, op);
    drawn_[static_cast<std::size_t>(op.kind)] = true;
    if (span.action.is_pair()) has_pairs_ = true;
    put(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}">{}</rect>)", to_text(begin), y,
        to_text(width), row_height, fill(op.kind, shade),
        tooltip(fmt::format("{} {}", words(op.kind), plumb::to_string(span.action)), span.begin, span.end,
                begins_[i]));
    const std::string number = std::to_string(op.microbatch.value);
    const Px middle = begin + Px{width.hundredths / 2};
    const auto digits = static_cast<std::int64_t>(number.size());
    if (width >= px(digits * digit_width + 2)) {
      put(R"(<text x="{}" y="{}" font-size="11" fill="{}" stroke="none">{}</text>)", to_text(middle), y + 13,
          ink, number);
    } else if (width >= px(digits * 5 + 1)) {
      put(R"(<text x="{}" y="{}" font-size="8" fill="{}" stroke="none">{}</text>)", to_text(middle), y + 12,
          ink, number);
    }
    if (width >= px(7)) {
      put(R"(<text x="{}" y="{}" font-size="7" fill="{}" stroke="none" opacity="0.75">{}</text>)",
          to_text(middle), y + 22, ink, letters(op.kind));
    }
    put("\n");
  }

  // Invisible, there to be pointed at.
  void waits(std::size_t i, const std::vector<IdleSlice>& idle, std::int64_t y) {
    put(R"(<g fill="#ffffff" fill-opacity="0" class="idle">)"
        "\n");
    for (const IdleSlice& slice : idle) {
      put(R"(<rect x="{}" y="{}" width="{}" height="{}">{}</rect>)"
          "\n",
          to_text(x(i, slice.begin)), y + 1, to_text(x(i, slice.end) - x(i, slice.begin)), row_height - 2,
          tooltip(words(slice.cause), slice.begin, slice.end, begins_[i]));
    }
    put("</g>\n");
  }

  static std::string amount(std::int64_t value, bool bytes) {
    return bytes ? plumb::to_text(Bytes{value}) : fmt::format("{} chunk{}", value, value == 1 ? "" : "s");
  }

  void curve(std::size_t i, std::int64_t y) {
    const Curves& curves = curves_[i];
    const std::int64_t most = std::max<std::int64_t>(1, curves.bytes ? most_bytes_ : most_chunks_);
    const std::int64_t foot = y + curve_height - 8;
    const Px height = px(curve_height - 20);
    const auto level = [&](std::int64_t value) { return px(foot) - share(height, value, most); };

    std::size_t top = 0;
    for (std::size_t r = 1; r < curves.ranks.size(); ++r) {
      if (peak_of(curves.ranks[r]) > peak_of(curves.ranks[top])) top = r;
    }
    put(R"(<g fill="{}" font-size="10" text-anchor="end"><text x="{}" y="{}">{}</text><text x="{}" y="{}">0</text></g>)"
        "\n",
        quiet, left_margin - 8, to_text(level(most) + px(4)), amount(most, curves.bytes), left_margin - 8,
        foot + 3);
    put(R"(<path d="M{0} {1}H{2}M{0} {3}H{2}" stroke="{4}" stroke-width="1" fill="none"/>)"
        "\n",
        left_margin, foot, to_text(px(left_margin) + plot_), to_text(level(most)), faint);
    const auto line = [&](std::size_t r, std::string_view colour, std::string_view stroke,
                          std::string_view area) {
      const Curve& points = curves.ranks[r];
      if (points.empty()) return;
      const TimePoint from = std::max(points.front().first, begins_[i]);
      std::string path = fmt::format("M{} {}", to_text(x(i, from)), to_text(level(points.front().second)));
      for (std::size_t k = 1; k < points.size(); ++k) {
        const TimePoint time = std::max(points[k].first, begins_[i]);
        path += fmt::format("H{}V{}", to_text(x(i, time)), to_text(level(points[k].second)));
      }
      path += fmt::format("H{}", to_text(px(left_margin) + share(plot_, last(i).ns, full_.ns)));
      put(R"(<path d="{}{}" fill="{}" fill-opacity="0.35" stroke="none"/>)"
          "\n",
          path, fmt::format("V{}H{}Z", foot, to_text(x(i, from))), area);
      put(R"(<path d="{}" fill="none" stroke="{}" stroke-width="{}"><title>rank {}</title></path>)"
          "\n",
          path, colour, stroke, r);
    };
    for (std::size_t r = 0; r < curves.ranks.size(); ++r) {
      if (r != top) line(r, "#8c959f", "0.8", "none");
    }
    if (curves.ranks.empty()) return;
    line(top, "#8250df", "1.8", "#c8b6f0");
    put(R"(<text x="{}" y="{}" font-size="10" text-anchor="end" fill="#6639ba">{}, rank {}: peak {}</text>)"
        "\n",
        to_text(px(left_margin) + plot_), to_text(level(most) - px(3)),
        curves.bytes ? "memory" : "live activations", top, amount(peak_of(curves.ranks[top]), curves.bytes));
  }

  Duration last(std::size_t i) const { return step_bounds(inputs_[i].timeline).makespan(); }

  void axis(std::int64_t y) {
    const std::int64_t step = round_step(full_.ns, std::max<std::int64_t>(2, plot_.hundredths / 100 / 70));
    put(R"(<g stroke="{}" stroke-width="1">)"
        "\n",
        quiet);
    put(R"(<path d="M{} {}H{}" fill="none"/>)"
        "\n",
        left_margin, y + 4, to_text(px(left_margin) + plot_));
    for (std::int64_t time = 0; time <= full_.ns; time += step) {
      put(R"(<path d="M{} {}v5"/>)", to_text(px(left_margin) + share(plot_, time, full_.ns)), y + 4);
    }
    put("\n</g>\n");
    put(R"(<g font-size="10" text-anchor="middle" fill="{}">)"
        "\n",
        quiet);
    for (std::int64_t time = 0; time <= full_.ns; time += step) {
      put(R"(<text x="{}" y="{}">{}</text>)", to_text(px(left_margin) + share(plot_, time, full_.ns)), y + 21,
          in_unit({time}, unit_));
    }
    put("\n"
        R"(<text x="{}" y="{}" text-anchor="end">time in {}</text></g>)"
        "\n",
        left_margin - 14, y + 21, unit_.name);
  }

  // In as many lines as it takes. Returns where it ends.
  std::int64_t legend(std::int64_t y) {
    constexpr std::int64_t line = 26;
    constexpr std::int64_t gap = 6;
    std::int64_t at = left_margin;
    // A sign of so many pixels, which is then drawn at `at`, and its meaning.
    const auto item = [&](std::int64_t width, const std::string& meaning, const auto& sign) {
      const std::int64_t words = static_cast<std::int64_t>(meaning.size()) * 6;
      if (at > left_margin && at + width + gap + words > width_ - right_margin) {
        at = left_margin;
        y += line;
      }
      sign();
      put(R"(<text x="{}" y="{}" font-size="11" fill="{}">{}</text>)"
          "\n",
          at + width + gap, y + 13, ink, meaning);
      at += width + gap + words + 22;
    };
    const auto swatch = [&](std::int64_t from, OpKind kind, std::uint32_t shade, std::int64_t width,
                            std::string_view letter) {
      put(R"(<rect x="{}" y="{}" width="{}" height="18" fill="{}"/>)", from, y, width, fill(kind, shade));
      put(R"(<text x="{}" y="{}" font-size="10" text-anchor="middle" fill="{}">{}</text>)"
          "\n",
          from + width / 2, y + 13, ink, letter);
    };
    constexpr std::array<OpKind, 4> order{OpKind::forward, OpKind::backward, OpKind::backward_input,
                                          OpKind::backward_weight};
    const std::array<std::string, 4> names{"forward", "backward", "backward for input",
                                           "backward for weights"};
    for (std::size_t k = 0; k < order.size(); ++k) {
      if (!drawn_[static_cast<std::size_t>(order[k])]) continue;
      item(20, names[k], [&] { swatch(at, order[k], 0, 20, letters(order[k])); });
    }
    if (has_pairs_) {
      item(44, "overlapped forward and backward", [&] {
        swatch(at, OpKind::forward, 0, 16, "F");
        swatch(at + 16, OpKind::backward, 0, 28, "B");
        put(R"(<rect x="{}.7" y="{}.7" width="42.6" height="16.6" fill="none" stroke="#000000" stroke-width="1.4"/>)"
            "\n",
            at, y);
      });
    }
    for (std::size_t k = 0; k < shade_names_.size(); ++k) {
      const auto shade = static_cast<std::uint32_t>(k);
      item(24, shade_names_[k], [&] {
        swatch(at, OpKind::forward, shade, 12, "");
        swatch(at + 12, OpKind::backward, shade, 12, "");
      });
    }
    if (has_collectives_) {
      item(20, "gradient reduction",
           [&] { put(R"(<rect x="{}" y="{}" width="20" height="5" fill="#8c959f"/>)", at, y + 7); });
    }
    item(20, "bubble", [&] {
      put(R"(<rect x="{}.5" y="{}.5" width="19" height="17" fill="#ffffff" stroke="{}"/>)", at, y, faint);
    });
    return y + legend_height;
  }

  const std::vector<PictureInput>& inputs_;
  const SvgOptions& options_;
  std::vector<TimePoint> begins_;     // [input]
  std::vector<Curves> curves_;        // [input]
  std::vector<std::int64_t> shares_;  // [input] forward_share_milli
  Duration full_;
  std::int64_t most_bytes_ = 0;
  std::int64_t most_chunks_ = 0;
  std::int64_t width_ = 0;
  Px plot_;
  TimeUnit unit_;
  std::array<bool, 4> drawn_{};
  bool has_pairs_ = false;
  bool has_collectives_ = false;
  std::vector<std::string> shade_names_;
  std::string text_;
};

}  // namespace

std::string svg_picture(const std::vector<PictureInput>& inputs, const SvgOptions& options) {
  return Picture(inputs, options).draw();
}

std::string svg_legend() {
  std::string text =
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="620" height="22" font-family="sans-serif" font-size="11">)";
  std::int64_t at = 0;
  for (const auto& [kind, name] : std::array<std::pair<OpKind, std::string_view>, 4>{
           {{OpKind::forward, "forward"},
            {OpKind::backward, "backward"},
            {OpKind::backward_input, "backward for input"},
            {OpKind::backward_weight, "backward for weights"}}}) {
    text += fmt::format(
        R"(<rect x="{}" y="2" width="20" height="18" fill="{}"/><text x="{}" y="15" text-anchor="middle" fill="{}">{}</text>)"
        R"(<text x="{}" y="15" fill="{}">{}</text>)",
        at, fill(kind, 0), at + 10, ink, letters(kind), at + 26, ink, name);
    at += 50 + 6 * static_cast<std::int64_t>(name.size());
  }
  return text + "</svg>\n";
}

std::int64_t forward_share_milli(const Timeline& timeline) {
  std::array<Duration, 4> shortest{};
  for (const RankTimeline& rank : timeline.ranks) {
    for (const ComputeSpan& span : rank.compute) {
      if (span.action.is_pair()) continue;
      Duration& known = shortest[static_cast<std::size_t>(span.action.first().kind)];
      const Duration duration = span.end - span.begin;
      if (known == Duration{} || duration < known) known = duration;
    }
  }
  const auto of = [&](OpKind kind) { return shortest[static_cast<std::size_t>(kind)]; };
  const Duration forward = of(OpKind::forward);
  Duration backward = of(OpKind::backward);
  if (backward == Duration{}) backward = of(OpKind::backward_input) + of(OpKind::backward_weight);
  if (forward.ns <= 0 || backward.ns <= 0) return 333;
  return std::clamp<std::int64_t>(share({1000}, forward.ns, (forward + backward).ns).hundredths, 200, 500);
}

std::uint64_t count_cells(const std::vector<PictureInput>& inputs) {
  std::uint64_t cells = 0;
  for (const PictureInput& input : inputs) {
    for (const RankTimeline& rank : input.timeline.ranks) {
      for (const ComputeSpan& span : rank.compute) cells += span.action.size();
    }
  }
  return cells;
}

}  // namespace plumb::render
