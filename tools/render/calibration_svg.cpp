#include "tools/render/calibration_svg.hpp"

#include "tools/render/palette.hpp"
#include "tools/render/slowdown_matrix.hpp"
#include "tools/render/svg_text.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace plumb::render {
namespace {

constexpr std::string_view quiet = "#6a737d";
constexpr std::string_view faint = "#d8dee4";
constexpr std::string_view paper = "#ffffff";
// Told apart in pairs, by people who see no red or green as well; what comes after them is dashed.
constexpr std::array<std::string_view, 6> colours{"#0b62a4", "#d1495b", "#2a9134",
                                                  "#7b3fa0", "#e08a00", "#111827"};
constexpr double left = 160;  // of all that is drawn: `attention_backward` stands beside it

class Svg {
 public:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }
  void words(double x, double y, std::string_view anchor, int size, std::string_view colour,
             std::string_view text) {
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\" text-anchor=\"{}\" fill=\"{}\">{}</text>\n", x, y,
        size, anchor, colour, escaped(text));
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// Ticks from the one below `low` to the one above `high`: 1, 2 and 5 times powers of ten; powers of four.
std::vector<double> round_times(double low, double high) {
  std::vector<double> out;
  double decade = std::pow(10.0, std::floor(std::log10(low)));
  for (; out.size() < 2 || out.back() < high; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (decade * step <= low) out.clear();
      if (out.size() < 2 || out.back() < high) out.push_back(decade * step);
    }
  }
  return out;
}
std::vector<double> round_sizes(double low, double high) {
  std::vector<double> out{std::pow(4.0, std::floor(std::log2(low) / 2))};
  while (out.back() < high || out.size() < 2) out.push_back(out.back() * 4);
  return out;
}

std::string size_words(double bytes) {
  constexpr std::array<std::pair<double, std::string_view>, 4> units{
      {{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}, {1, "B"}}};
  for (const auto& [unit, name] : units) {
    if (bytes >= unit) return fmt::format("{:g} {}", bytes / unit, name);
  }
  return "0";
}

std::string time_words(double ns) {
  constexpr std::array<std::pair<double, std::string_view>, 4> units{
      {{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}, {1, "ns"}}};
  for (const auto& [unit, name] : units) {
    if (ns >= unit) return fmt::format("{:g} {}", ns / unit, name);
  }
  return "0";
}

// What all series have in common is said once: how they travel, and on how much of a GPU.
std::string common_words(const std::vector<TransferSeries>& all) {
  const TransferKey& first = all.front().key;
  const auto share_of = [](Setting setting) {
    setting.others_busy = false;
    return setting;
  };
  for (const TransferSeries& series : all) {
    if (series.key.transport != first.transport || series.key.link != first.link ||
        share_of(series.key.setting) != share_of(first.setting))
      return "";
  }
  return fmt::format("{}{}, {}", first.transport, first.link.empty() ? "" : " over " + first.link,
                     to_string(share_of(first.setting)));
}

std::string own_words(const TransferKey& key) {
  const bool message = key.kind <= TransferKind::hop;
  std::string out(words(key.kind));
  for (std::size_t k = 0; k < key.ranks.size(); ++k)
    out += fmt::format("{}{}", k == 0 ? ", ranks " : message ? ">" : ",", key.ranks[k]);
  if (key.at_once != 1) out += fmt::format(", {} of them", key.at_once);
  if (key.setting.others_busy) out += ", others busy";
  return out;
}

// A message of no bytes, and a time of none, have no place on a logarithmic axis: they stand at 1.
double at_least_one(std::int64_t value) { return static_cast<double>(std::max<std::int64_t>(1, value)); }

bool are_messages(const std::vector<TransferSeries>& all) {
  return std::all_of(all.begin(), all.end(),
                     [](const TransferSeries& series) { return series.key.kind <= TransferKind::hop; });
}

double draw_transfers(Svg& svg, const std::vector<TransferSeries>& all, double top) {
  constexpr double width = 620, height = 360;
  double least_size = 1e18, most_size = 1, least_time = 1e18, most_time = 1;
  for (const TransferSeries& series : all) {
    for (const SizedSummary& point : series.points) {
      least_size = std::min(least_size, at_least_one(point.size.count));
      most_size = std::max(most_size, at_least_one(point.size.count));
      least_time = std::min(least_time, at_least_one(point.time.lower_quartile.ns));
      most_time = std::max(most_time, at_least_one(point.time.upper_quartile.ns));
    }
  }
  const std::vector<double> sizes = round_sizes(least_size, most_size);
  const std::vector<double> times = round_times(least_time, most_time);
  const auto place = [](const std::vector<double>& axis, double value) {
    return std::log(value / axis.front()) / std::log(axis.back() / axis.front());
  };
  const auto x = [&](double bytes) { return left + width * place(sizes, bytes); };
  const auto y = [&](double ns) { return top + height * (1 - place(times, ns)); };
  const std::string common = common_words(all);
  svg.words(left, top - 34, "start", 14, ink,
            "Messages and collectives" + (common.empty() ? "" : ": " + common));
  svg.words(left, top - 16, "start", 11, quiet,
            "Medians (bars: quartiles; hollow: no whole number of pages) and the fits through them");
  for (const double size : sizes) {
    svg.put("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\"/>\n", x(size), top, top + height, faint);
    svg.words(x(size), top + height + 18, "middle", 11, quiet, size_words(size));
  }
  for (const double time : times) {
    svg.put("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"{}\"/>\n", left, y(time), left + width, faint);
    svg.words(left - 8, y(time) + 4, "end", 11, quiet, time_words(time));
  }
  svg.words(left + width / 2, top + height + 38, "middle", 12, ink,
            are_messages(all) ? "size of a message" : "size: of a message, of a collective on each rank");
  svg.put(
      "<text transform=\"translate({:.1f} {:.1f}) rotate(-90)\" font-size=\"12\" text-anchor=\"middle\" "
      "fill=\"{}\">time</text>\n",
      left - 64, top + height / 2, ink);
  double legend = top + 10;
  for (std::size_t k = 0; k < all.size(); ++k) {
    const std::string_view colour = colours[k % colours.size()];
    const std::string_view dashes = k < colours.size() ? "" : " stroke-dasharray=\"6 4\"";
    svg.put("<g class=\"series\">\n<title>{}</title>\n", escaped(to_string(all[k].key)));
    if (all[k].fit) {
      // A straight piece is a curve on logarithmic axes.
      std::string path;
      const LinkFit& fit = *all[k].fit;
      const double from = std::log10(at_least_one(fit.knots.front().size.count));
      const double to = std::log10(at_least_one(fit.knots.back().size.count));
      constexpr int steps = 96;
      for (int step = 0; step <= steps; ++step) {
        const double bytes = std::pow(10.0, from + (to - from) * step / steps);
        const Bytes pages{std::llround(bytes / page.count) * page.count};
        const Bytes size = pages > copied_in_one_piece ? pages : Bytes{std::llround(bytes)};
        const auto ns = at_least_one(duration_at(fit, size).duration.ns);
        path += fmt::format("{}{:.1f} {:.1f}", step == 0 ? "M" : "L", x(bytes), y(ns));
      }
      svg.put("<path d=\"{}\" stroke=\"{}\" fill=\"none\" stroke-width=\"1.5\"{}/>\n", path, colour, dashes);
    }
    for (const SizedSummary& point : all[k].points) {
      const double at = x(at_least_one(point.size.count));
      svg.put("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\" stroke-opacity=\"0.5\" stroke-width=\"3\"/>\n",
              at, y(at_least_one(point.time.lower_quartile.ns)),
              y(at_least_one(point.time.upper_quartile.ns)), colour);
      svg.put(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\" stroke=\"{}\"><title>{} B: {:.2f} "
          "us</title></circle>\n",
          at, y(at_least_one(point.time.median.ns)), is_ragged(point.size) ? paper : colour, colour,
          point.size.count, static_cast<double>(point.time.median.ns) / 1e3);
    }
    svg.put("</g>\n");
    svg.put("<path d=\"M{:.1f} {:.1f}h24\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", left + width + 20,
            legend - 4, colour, dashes);
    svg.put("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", left + width + 32, legend - 4,
            colour);
    svg.words(left + width + 52, legend, "start", 11, ink,
              common.empty() ? to_string(all[k].key) : own_words(all[k].key));
    legend += 18;
  }
  return std::max(top + height + 50, legend + 20);
}

constexpr double cell_width = 116;  // `attention_backward` fits

double draw_matrix(Svg& svg, const SlowdownMatrix& matrix, double top) {
  constexpr double cell_height = 30;
  svg.words(left, top - 48, "start", 14, ink, "Mutual slowdown: " + matrix.title);
  svg.words(left, top - 30, "start", 11, quiet,
            "A row's work while a column's runs in another stream: so many times as long as alone");
  for (std::size_t column = 0; column < matrix.classes.size(); ++column) {
    svg.words(left + (static_cast<double>(column) + 0.5) * cell_width, top - 8, "middle", 11, quiet,
              matrix.classes[column]);
  }
  for (std::size_t row = 0; row < matrix.classes.size(); ++row) {
    const double at = top + static_cast<double>(row) * cell_height;
    svg.words(left - 10, at + 20, "end", 12, ink, matrix.classes[row]);
    for (std::size_t column = 0; column < matrix.classes.size(); ++column) {
      const auto cell = matrix.cells.find({matrix.classes[row], matrix.classes[column]});
      const double x = left + static_cast<double>(column) * cell_width;
      if (cell == matrix.cells.end()) {
        svg.put(
            "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.0f}\" height=\"28\" fill=\"{}\" stroke=\"{}\"/>\n", x,
            at, cell_width - 2, "#f6f8fa", faint);
        continue;
      }
      // White at 1, full colour at five times the time and beyond; dark text can be read on all of it.
      const double heat = std::clamp(std::log(slowdown_ppm(*cell->second) / 1e6) / std::log(5.0), 0.0, 1.0);
      const auto fade = static_cast<int>(255 - 125 * heat);
      svg.put(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.0f}\" height=\"28\" fill=\"rgb(255,{},{})\" "
          "stroke=\"{}\"/>\n",
          x, at, cell_width - 2, fade + static_cast<int>(40 * heat), fade, faint);
      svg.words(x + cell_width / 2 - 1, at + 19, "middle", 12, ink,
                matrix.factor(matrix.classes[row], matrix.classes[column]));
    }
  }
  return top + static_cast<double>(matrix.classes.size()) * cell_height + 60;
}

}  // namespace

std::string calibration_svg(const Calibration& calibration) {
  Svg body;
  double bottom = 60;
  const auto& transfers = calibration.transfers;
  if (std::any_of(transfers.begin(), transfers.end(),
                  [](const TransferSeries& t) { return !t.points.empty(); }))
    bottom = draw_transfers(body, calibration.transfers, bottom) + 30;
  double width = 1240;
  for (const SlowdownMatrix& matrix : slowdown_matrices(calibration)) {
    width = std::max(width, 200 + cell_width * static_cast<double>(matrix.classes.size()));
    bottom = draw_matrix(body, matrix, bottom + 40);
  }
  if (body.text().empty()) {
    body.words(40, bottom, "start", 14, ink, "No message and no slowdown was measured.");
    bottom += 30;
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
      "{1:.0f}\" "
      "font-family=\"Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\" role=\"img\">\n"
      "<title>{2}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{3}</svg>\n",
      width, bottom, escaped("Calibration " + calibration.name), body.text());
}

}  // namespace plumb::render
