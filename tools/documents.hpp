// The files that a comparison or a plan leaves behind: report and picture.
#pragma once
#include "tools/console.hpp"
#include "tools/render/html_report.hpp"
#include "tools/render/markdown_report.hpp"
#include "tools/render/report_tables.hpp"

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// `--report FILE.md|FILE.html … --svg FILE`.
struct DocumentOptions {
  std::vector<std::string> reports;
  std::string svg;

  void add_to(CLI::App& app);
};

struct Page {
  std::string title;
  std::vector<render::Section> sections;
  std::vector<render::TimeAndMemory> points;  // of the time-memory plot; empty: one an input
};

/// Writes what was asked for. Throws BadInput for a report that is neither .md nor .html.
void write_documents(Console& console, const DocumentOptions& options, const Page& page,
                     const std::vector<render::ReportInput>& inputs);

}  // namespace plumb::tools
