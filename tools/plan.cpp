// plumb plan: which schedule to run on P ranks, at equal resources.
#include "tools/planner/plan.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/schedule_file.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/estimate.hpp"
#include "sim/report_json.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"
#include "tools/planner/predict.hpp"
#include "tools/report_text.hpp"
#include "tools/table.hpp"

#include <filesystem>
#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  std::uint32_t ranks = 0;
  std::vector<std::uint32_t> microbatches;
  std::vector<std::uint32_t> chunks{2};
  std::vector<std::string> schedules;
  std::string comms = "per-op";
  std::uint32_t data_parallel = 1;
  CostOptions costs;
  ExecutionFlags execution;
  std::optional<double> activation_limit;
  std::string out;
  bool json = false;
};

void print_json(std::ostream& out, const PlanResult& result) {
  out << "{\"schema\":\"plumb.plan/1\",\"plans\":[";
  const char* comma = "";
  for (const Plan& plan : result.plans) {
    fmt::print(out,
               "{}{{\"schedule\":{},\"chunks\":{},\"microbatches\":{},\"activation_share\":{},\"microbatches_"
               "per_s\":{},\"report\":{}}}",
               comma, json_quoted(plan.generator->name), *plan.shape.chunks, plan.shape.microbatches,
               plan.activation_share, plan.microbatches_per_s, to_json(plan.report));
    comma = ",";
  }
  out << "],\"ruled_out\":[";
  comma = "";
  for (const RuledOut& ruled : result.ruled_out) {
    fmt::print(out, "{}{{\"schedule\":{},\"chunks\":{},\"microbatches\":{},\"reason\":{}}}", comma,
               json_quoted(ruled.schedule), ruled.chunks ? fmt::format("{}", *ruled.chunks) : "null",
               ruled.microbatches, json_quoted(ruled.reason));
    comma = ",";
  }
  out << "]}\n";
}

Table plan_table(const PlanResult& result) {
  Table table({"schedule", "chunks", "microbatches", "step ms", "ms a microbatch", "bubble", "activations",
               "copies"});
  for (const Plan& plan : result.plans) {
    table.add({std::string(plan.generator->name), fmt::format("{}", *plan.shape.chunks),
               fmt::format("{}", plan.shape.microbatches), ms(plan.report.step_time),
               fmt::format("{:.3f}", 1e3 / plan.microbatches_per_s), percent(plan.report.idle_share),
               fmt::format("{:.2f}", plan.activation_share), fmt::format("{}", plan.generator->copies)});
  }
  return table;
}

void print_text(std::ostream& out, const Options& options, const PlanResult& result) {
  fmt::print(out, "{} ranks, best first (by time a microbatch); activations in shares of a rank's layers\n\n",
             options.ranks);
  out << plan_table(result).text();
  if (!result.ruled_out.empty()) out << "\nruled out:\n";
  for (const RuledOut& ruled : result.ruled_out)
    fmt::print(out, "  m={:<4} {}\n", ruled.microbatches, ruled.reason);
}

CostsForStages costs_for(const Options& options) {
  if (!options.costs.calibration.empty()) {
    const Calibration calibration = load_calibration(options.costs.calibration);
    const std::uint32_t layers = options.costs.layers.value_or(calibration.model_layers);
    return [calibration, layers](std::uint32_t stages) { return estimate(calibration, stages, layers); };
  }
  const CostModel share = options.costs.load(options.ranks);
  return
      [share, ranks = options.ranks](std::uint32_t stages) { return scaled_to_stages(share, ranks, stages); };
}

int run(const Options& options, Console& console) {
  PlanRequest request;
  request.ranks = options.ranks;
  request.microbatches = options.microbatches;
  request.chunks = options.chunks;
  for (const std::string& name : options.schedules) request.schedules.push_back(&generator(name));
  request.lowering = {options.comms == "batched" ? CommPlacement::batched : CommPlacement::per_op,
                      options.data_parallel};
  request.execution = options.execution.load();
  request.activation_limit = options.activation_limit;
  if (!options.costs.op_costs.empty())
    throw BadInput("--op-costs", "overrides ops of one schedule; a plan compares many");
  const CostsForStages costs = costs_for(options);
  const PlanResult result = plan(request, costs, [&](std::size_t done, std::size_t of) {
    if (console.err_is_terminal)
      fmt::print(console.err, "\r{} of {} candidates{}", done, of, done == of ? "\r\033[K" : "");
  });
  if (options.json) {
    print_json(console.out, result);
  } else {
    print_text(console.out, options, result);
  }
  return result.plans.empty() ? 1 : 0;
}

}  // namespace

Command plan_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "plan", "Rank the schedules for P ranks at equal resources: same layers, ranks, microbatches");
  command->add_option("--ranks", options->ranks, "Devices of the pipeline")->required()->type_name("P");
  command
      ->add_option("--microbatches", options->microbatches,
                   "Microbatches of one step, one or several numbers")
      ->required()
      ->delimiter(',')
      ->type_name("M,…");
  command->add_option("--chunks", options->chunks, "Stages a rank, for schedules that have a choice")
      ->delimiter(',')
      ->type_name("V,…")
      ->capture_default_str();
  command->add_option("--schedules", options->schedules, "Only these")->delimiter(',')->type_name("NAME,…");
  command
      ->add_option("--comms", options->comms,
                   "Messages one by one, or in groups that are waited for together")
      ->check(CLI::IsMember({"per-op", "batched"}))
      ->capture_default_str();
  command->add_option("--dp", options->data_parallel, "Data-parallel copies of the pipeline")
      ->type_name("D")
      ->check(CLI::Range(1u, 1u << 20));
  options->costs.add_to(*command);
  options->execution.add_to(*command);
  command
      ->add_option("--activation-limit", options->activation_limit,
                   "The most activations a rank may hold, in shares of its layers")
      ->type_name("X")
      ->check(CLI::PositiveNumber);
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
