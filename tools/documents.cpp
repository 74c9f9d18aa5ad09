#include "tools/documents.hpp"

#include "schedules/ir/error.hpp"
#include "tools/render/svg_picture.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {

void DocumentOptions::add_to(CLI::App& app) {
  app.add_option("--report", reports, "Write a report: Markdown (.md) or a single page (.html)")
      ->type_name("FILE");
  app.add_option("--svg", svg, "Write a picture, all on one time axis")->type_name("FILE");
}

void write_documents(Console& console, const DocumentOptions& options, const Page& page,
                     const std::vector<render::ReportInput>& inputs) {
  for (const std::string& path : options.reports) {
    std::string text;
    if (path.ends_with(".md")) {
      text = render::markdown_report(page.title, inputs, page.sections);
    } else if (path.ends_with(".html")) {
      render::HtmlOptions html;
      html.title = page.title;
      html.sections = page.sections;
      html.points = page.points;
      text = render::html_report(inputs, html);
    } else {
      throw BadInput("--report", fmt::format("'{}' ends in neither .md nor .html", path));
    }
    write_output(console, path, [&](std::ostream& out) { out << text; });
  }
  if (options.svg.empty()) return;
  std::vector<render::PictureInput> pictures;
  for (const render::ReportInput& input : inputs) {
    if (input.timeline)
      pictures.push_back({*input.timeline, input.memory, &input.report, render::title_of(input)});
  }
  constexpr std::uint64_t comfortable = 5'000;
  if (render::count_cells(pictures) > comfortable) {
    const std::size_t all = pictures.size();
    while (pictures.size() > 1 && render::count_cells(pictures) > comfortable) pictures.pop_back();
    const auto html = std::find_if(options.reports.begin(), options.reports.end(),
                                   [](const std::string& path) { return path.ends_with(".html"); });
    fmt::print(
        console.err, "plumb: {} shows {} of {} steps; an SVG of many thousand ops is slow ({} shows all)\n",
        options.svg, pictures.size(), all, html == options.reports.end() ? "--report FILE.html" : *html);
  }
  write_output(console, options.svg, [&](std::ostream& out) { out << render::svg_picture(pictures, {}); });
}

}  // namespace plumb::tools
