// One HTML file that says everything: no network, no library, a content-security policy that allows its own
// style and script by their hashes and nothing else.
#pragma once
#include "tools/render/charts.hpp"
#include "tools/render/markdown_report.hpp"
#include "tools/render/report_tables.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace plumb::render {

struct HtmlOptions {
  std::string title;
  /// Tables that the caller adds: the first, which answers what was asked, at the top, the others behind
  /// ours.
  std::vector<Section> sections = {};
  /// Of the time-memory plot; empty: one point an input.
  std::vector<TimeAndMemory> points = {};
  /// Up to so many ops the timelines are SVG, above they are drawn on canvas: a browser needs 2.4 s for an
  /// SVG of 98,000 ops, a canvas 0.3 s.
  std::uint64_t most_svg_cells = 5'000;
};

/// Tables, timelines on one time axis with their memory curves, bubbles by cause, time against memory, and a
/// table a rank. Same input, same bytes.
std::string html_report(const std::vector<ReportInput>& inputs, const HtmlOptions& options);

}  // namespace plumb::render
