// plumb draw: a schedule as a picture, in the terminal and as SVG.
#include "schedules/ir/costs_file.hpp"
#include "schedules/ir/error.hpp"
#include "tools/command.hpp"
#include "tools/planner/predict.hpp"
#include "tools/render/svg_picture.hpp"
#include "tools/render/terminal.hpp"
#include "tools/step_options.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  StepOptions step;
  std::string svg;
  std::string quantum;
  std::optional<std::size_t> width;
  bool memory = false;
};

// The field's picture: every op a unit, a whole backward two, a pair three.
CostModel picture_costs() {
  const Duration unit{1'000'000};
  return unit_costs({unit, unit, unit, std::nullopt, std::nullopt, Duration{}});
}

int run(const Options& options, Console& console) {
  render::TerminalOptions terminal;
  terminal.colour = console.colour ? render::Colour::ansi256 : render::Colour::off;
  terminal.width = options.width.value_or(console.out_is_terminal ? console.width : 0);
  if (!options.quantum.empty()) {
    terminal.quantum = parse_duration(options.quantum, "--quantum");
    if (terminal.quantum->ns == 0) throw BadInput("--quantum", "must be longer than 0");
  }
  if (!options.step.costs_given() && options.svg.empty()) {
    if (terminal.quantum)
      throw BadInput("--quantum", "needs costs: without them every action takes one step");
    console.out << render::step_grid(without_messages(options.step.schedule.load()), terminal);
    return 0;
  }
  const Prediction prediction =
      options.step.costs_given()
          ? options.step.load(console).predict(Detail::segments)
          : predict(options.step.schedule.load(), picture_costs(), options.step.execution.load());
  if (options.svg.empty()) {
    console.out << render::picture(prediction.timeline, terminal);
    return 0;
  }
  const std::vector<render::PictureInput> inputs{
      {prediction.timeline, &prediction.memory, &prediction.report, ""}};
  if (render::count_cells(inputs) > 5'000) {
    fmt::print(console.err, "plumb: an SVG of {} ops is slow to show\n", render::count_cells(inputs));
  }
  render::SvgOptions svg;
  svg.memory = options.memory;
  if (options.width) svg.width = static_cast<std::uint32_t>(*options.width);
  write_output(console, options.svg, [&](std::ostream& out) { out << render::svg_picture(inputs, svg); });
  return 0;
}

}  // namespace

Command draw_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("draw", "Draw a schedule: steps without costs, a time axis with them");
  options->step.add_to(*command);
  command
      ->add_option("--svg", options->svg,
                   "Write an SVG picture here (without costs: every op 1 ms, a whole backward 2)")
      ->type_name("FILE");
  command->add_flag("--memory", options->memory, "SVG: a memory curve under the rows");
  command->add_option("--quantum", options->quantum, "Terminal: how long a column lasts, as in 500us")
      ->type_name("TIME");
  command->add_option("--width", options->width, "Columns, or pixels of the SVG")
      ->type_name("N")
      ->check(CLI::Range(20u, 8000u));
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
