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
  std::string out = "# " + heading(title) + "\n\n";
  const auto put_section = [&](const Section& section) {
    out += "## " + heading(section.title) + "\n\n";
    if (!section.text.empty()) out += section.text + "\n\n";
    if (!section.table.head.empty()) out += to_markdown(section.table) + "\n";
  };
  if (!sections.empty()) {
    put_section(sections.front());
    out += "## Steps\n\n";
  }
  out += to_markdown(step_table(inputs));
  out +=
      "\nThe bubble is the idle share of ranks x makespan; the makespan runs from the first compute start to "
      "the last compute\nend, the step also to the end of the last gradient reduction. The span is the "
      "longest "
      "of one rank.\n\n"
      "## Where the time goes\n\n" +
      to_markdown(cause_table(inputs)) + "\n";
  for (std::size_t i = 1; i < sections.size(); ++i) put_section(sections[i]);
  for (const ReportInput& input : inputs) {
    out += "## Ranks of " + heading(title_of(input)) + "\n\n" + to_markdown(rank_table(input.report)) + "\n";
  }
  out.pop_back();  // the file's last line is not an empty one
  return out;
}

}  // namespace plumb::render
