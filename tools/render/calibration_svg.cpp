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
constexpr std::array<std::string_view, 8> colours{"#0b62a4", "#c2410c", "#15803d", "#7e22ce",
                                                  "#b45309", "#0f766e", "#be185d", "#4b5563"};

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

// Powers of ten from the one below `low` to the one above `high`, as exponents.
std::pair<int, int> decades(double low, double high) {
  const int from = static_cast<int>(std::floor(std::log10(low)));
  const int to = static_cast<int>(std::ceil(std::log10(high)));
  return {from, std::max(to, from + 1)};
}

std::string size_words(double bytes) {
  constexpr std::array<std::pair<double, std::string_view>, 4> units{
      {{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "B"}}};
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

// A message of no bytes, and a time of none, have no place on a logarithmic axis: they stand at 1.
double at_least_one(std::int64_t value) { return static_cast<double>(std::max<std::int64_t>(1, value)); }

double draw_transfers(Svg& svg, const std::vector<TransferSeries>& all, double top) {
  constexpr double left = 80, width = 620, height = 360;
  double least_size = 1e18, most_size = 1, least_time = 1e18, most_time = 1;
  for (const TransferSeries& series : all) {
    for (const SizedSummary& point : series.points) {
      least_size = std::min(least_size, at_least_one(point.size.count));
      most_size = std::max(most_size, at_least_one(point.size.count));
      least_time = std::min(least_time, at_least_one(point.time.lower_quartile.ns));
      most_time = std::max(most_time, at_least_one(point.time.upper_quartile.ns));
    }
  }
  const auto [size_from, size_to] = decades(least_size, most_size);
  const auto [time_from, time_to] = decades(least_time, most_time);
  const auto x = [&, from = size_from, to = size_to](double bytes) {
    return left + width * (std::log10(bytes) - from) / (to - from);
  };
  const auto y = [&, from = time_from, to = time_to](double ns) {
    return top + height * (1 - (std::log10(ns) - from) / (to - from));
  };
  svg.words(left, top - 14, "start", 14, ink, "Messages and collectives: time over size, with fits");
  for (int e = size_from; e <= size_to; ++e) {
    const double at = x(std::pow(10.0, e));
    svg.put("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\"/>\n", at, top, top + height, faint);
    svg.words(at, top + height + 18, "middle", 11, quiet, size_words(std::pow(10.0, e)));
  }
  for (int e = time_from; e <= time_to; ++e) {
    const double at = y(std::pow(10.0, e));
    svg.put("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"{}\"/>\n", left, at, left + width, faint);
    svg.words(left - 8, at + 4, "end", 11, quiet, time_words(std::pow(10.0, e)));
  }
  double legend = top + 6;
  for (std::size_t k = 0; k < all.size(); ++k) {
    const std::string_view colour = colours[k % colours.size()];
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
      svg.put("<path d=\"{}\" stroke=\"{}\" fill=\"none\" stroke-width=\"1.5\"/>\n", path, colour);
    }
    for (const SizedSummary& point : all[k].points) {
      const double at = x(at_least_one(point.size.count));
      svg.put("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\" stroke-opacity=\"0.5\" stroke-width=\"3\"/>\n",
              at, y(at_least_one(point.time.lower_quartile.ns)),
              y(at_least_one(point.time.upper_quartile.ns)), colour);
      svg.put(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>{} B: {:.2f} us</title></circle>\n",
          at, y(at_least_one(point.time.median.ns)), colour, point.size.count,
          static_cast<double>(point.time.median.ns) / 1e3);
    }
    svg.put("</g>\n");
    svg.put("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n", left + width + 20,
            legend - 10, colour);
    svg.words(left + width + 38, legend, "start", 11, ink, to_string(all[k].key));
    legend += 18;
  }
  return std::max(top + height + 40, legend + 20);
}

constexpr double cell_width = 116;  // `attention_backward` fits

double draw_matrix(Svg& svg, const SlowdownMatrix& matrix, double top) {
  constexpr double left = 160, cell_height = 30;
  svg.words(left, top - 30, "start", 14, ink, "How much longer work lasts: " + matrix.title);
  for (std::size_t column = 0; column < matrix.classes.size(); ++column) {
    svg.words(left + (static_cast<double>(column) + 0.5) * cell_width, top - 8, "middle", 11, quiet,
              matrix.classes[column]);
  }
  svg.words(left - 10, top - 8, "end", 11, quiet, "beside");
  for (std::size_t row = 0; row < matrix.classes.size(); ++row) {
    const double at = top + static_cast<double>(row) * cell_height;
    svg.words(left - 10, at + 20, "end", 12, ink, matrix.classes[row]);
    for (std::size_t column = 0; column < matrix.classes.size(); ++column) {
      const auto cell = matrix.cells.find({matrix.classes[row], matrix.classes[column]});
      const double x = left + static_cast<double>(column) * cell_width;
      if (cell == matrix.cells.end()) {
        svg.put(
            "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.0f}\" height=\"28\" fill=\"none\" stroke=\"{}\"/>\n",
            x, at, cell_width - 2, faint);
        continue;
      }
      // White at 1, full colour at twice the time and beyond; dark text can be read on all of it.
      const double heat = std::clamp(slowdown_ppm(*cell->second) / 1e6 - 1, 0.0, 1.0);
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
  double bottom = 40;
  if (!calibration.transfers.empty()) bottom = draw_transfers(body, calibration.transfers, bottom) + 30;
  double width = 1240;
  for (const SlowdownMatrix& matrix : slowdown_matrices(calibration)) {
    width = std::max(width, 200 + cell_width * static_cast<double>(matrix.classes.size()));
    bottom = draw_matrix(body, matrix, bottom + 30);
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
