// Reports as Markdown, to be read as text too.
#pragma once
#include "tools/render/report_tables.hpp"

#include <string>
#include <vector>

namespace plumb::render {

/// A heading and a table that a caller adds: methods, sensitivity, what was ruled out.
struct Section {
  std::string title;
  std::string text = {};
  Table table = {};
};

/// One step: what it takes, where the time goes, a row a rank. Several: side by side first, then the ranks of
/// each. `title` heads the page; the first section, which answers what was asked, comes next, the others
/// before the ranks.
std::string markdown_report(const std::string& title, const std::vector<ReportInput>& inputs,
                            const std::vector<Section>& sections = {});

}  // namespace plumb::render
