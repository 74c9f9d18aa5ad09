// plumb costs: the cost model that a calibration gives for a number of stages, derived pairs included.
#include "schedules/ir/costs_file.hpp"
#include "schedules/ir/error.hpp"
#include "sim/estimate.hpp"
#include "sim/overlap.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"
#include "tools/render/report_tables.hpp"
#include "tools/render/table.hpp"

#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  std::string calibration;
  std::uint32_t stages = 0;
  std::optional<std::uint32_t> layers;
  bool json = false;
};

std::vector<StageTotals> totals(const CostModel& cost) {
  std::vector<StageTotals> out;
  for (std::uint32_t s = 0; s < cost.stages.size(); ++s) {
    const StageCost& stage = cost.stages[s];
    out.push_back(
        {derive_alone(stage.forward, cost).duration, derive_alone(stage.backward_input, cost).duration,
         derive_alone(stage.backward_weight, cost).duration, derive_alone(stage.backward, cost).duration,
         pair_cost(Stage{s}, Stage{s}, cost).duration});
  }
  return out;
}

void print_text(std::ostream& out, const Calibration& calibration, const CostModel& cost,
                const std::vector<StageTotals>& sums) {
  fmt::print(out, "{}: {}\n\n", calibration.name, calibration.about);
  render::Table table;
  table.head = {"stage",
                "forward ms",
                "backward_input ms",
                "backward_weight ms",
                "backward ms",
                "forward beside backward ms",
                "saves"};
  for (std::size_t s = 0; s < sums.size(); ++s) {
    const StageTotals& sum = sums[s];
    const Duration serial = sum.forward + sum.backward;
    table.rows.push_back({cost.stages.size() == 1 ? "each" : fmt::format("{}", s),
                          render::milliseconds(sum.forward), render::milliseconds(sum.backward_input),
                          render::milliseconds(sum.backward_weight), render::milliseconds(sum.backward),
                          render::milliseconds(sum.overlapped),
                          render::percent(serial - sum.overlapped, serial) + " %"});
  }
  out << to_text(table) << "\n";
  for (const auto& [figure, source] : cost.sources) fmt::print(out, "{:<20} {}\n", figure, source);
}

int run(const Options& options, Console& console) {
  const Calibration calibration = load_calibration(options.calibration);
  if (options.layers && options.stages == 0)
    throw BadInput("--layers", "needs --stages: without it the chunk is as measured");
  const CostModel cost = options.stages == 0 ? measured_chunk(calibration)
                                             : estimate(calibration, options.stages,
                                                        options.layers.value_or(calibration.model_layers));
  const std::vector<StageTotals> sums = totals(cost);
  if (options.json) {
    // One entry a stage, as readers of the document expect.
    CostModel spread = cost;
    spread.stages.resize(std::max(1u, options.stages), cost.stages.front());
    write_costs(console.out, spread, std::vector<StageTotals>(spread.stages.size(), sums.front()));
  } else {
    print_text(console.out, calibration, cost, sums);
  }
  return 0;
}

}  // namespace

Command costs_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "costs", "Show what a calibration says an op costs, and a forward beside a backward");
  command
      ->add_option("--calibration", options->calibration,
                   "A bundled calibration's name, or a plumb.calibration/1 file")
      ->required()
      ->type_name("NAME|FILE");
  command
      ->add_option("--stages", options->stages,
                   "Share the model's layers out over this many stages [one chunk as measured]")
      ->type_name("S")
      ->check(CLI::Range(1u, 100'000u));
  command->add_option("--layers", options->layers, "Layers of the model [the calibration's]")
      ->type_name("L")
      ->check(CLI::Range(1u, 100'000u));
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
