#include "tools/render/markdown_report.hpp"

namespace plumb::render {
namespace {

std::string heading(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

}  // namespace

std::string markdown_report(const std::string& title, const std::vector<ReportInput>& inputs,
                            const std::vector<Section>& sections) {
  std::string out = "# " + heading(title) + "\n\n" + to_markdown(step_table(inputs));
  out +=
      "\nThe bubble is the idle share of ranks x makespan; the makespan runs from the first compute start to "
      "the last compute\nend, the step also to the end of the last gradient reduction. The span is the "
      "longest "
      "of one rank.\n\n"
      "## Where the time goes\n\n" +
      to_markdown(cause_table(inputs));
  for (const Section& section : sections) {
    out += "\n## " + heading(section.title) + "\n\n";
    if (!section.text.empty()) out += section.text + "\n\n";
    if (!section.table.head.empty()) out += to_markdown(section.table);
  }
  for (const ReportInput& input : inputs) {
    out += "\n## Ranks of " + heading(title_of(input)) + "\n\n" + to_markdown(rank_table(input.report));
  }
  return out;
}

}  // namespace plumb::render
