// plumb plan: which schedule to run on P ranks, at equal resources; or which layout of a model on N devices.
#include "tools/planner/plan.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/pytorch_csv.hpp"
#include "schedules/ir/schedule_json.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/estimate.hpp"
#include "sim/report_json.hpp"
#include "tools/command.hpp"
#include "tools/documents.hpp"
#include "tools/options.hpp"
#include "tools/plan_model.hpp"
#include "tools/planner/predict.hpp"
#include "tools/render/report_tables.hpp"
#include "tools/render/table.hpp"

#include <algorithm>
#include <filesystem>
#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  std::optional<std::uint32_t> ranks;
  std::vector<std::uint32_t> microbatches;
  std::vector<std::uint32_t> chunks;  // empty: 2, or with a model the sweep's own
  std::vector<std::string> schedules;
  LoweringFlags lowering;
  CostOptions costs;
  ExecutionFlags execution;
  std::optional<double> activation_limit;
  std::string out;
  bool json = false;
  PlanModelOptions model;
};

void print_json(std::ostream& out, const PlanResult& result) {
  out << "{\"schema\":\"plumb.plan/1\",\"plans\":[";
  const char* comma = "";
  for (const Plan& plan : result.plans) {
    fmt::print(
        out,
        "{}{{\"schedule\":{},\"chunks\":{},{}\"microbatches\":{},\"activation_share\":{},\"microbatches_"
        "per_s\":{},\"report\":{}}}",
        comma, json_quoted(plan.generator->name), *plan.shape.chunks,
        plan.shape.group ? fmt::format("\"group\":{},", *plan.shape.group) : "", plan.shape.microbatches,
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

render::Table plan_table(const PlanResult& result) {
  render::Table table;
  table.head = {"schedule",        "chunks", "microbatches", "step ms",
                "ms a microbatch", "bubble", "activations",  "copies"};
  for (const Plan& plan : result.plans) {
    std::string name(plan.generator->name);
    if (plan.shape.group) name += fmt::format(" --group {}", *plan.shape.group);
    table.rows.push_back(
        {std::move(name), fmt::format("{}", *plan.shape.chunks), fmt::format("{}", plan.shape.microbatches),
         render::milliseconds(plan.report.step_time), fmt::format("{:.3f}", 1e3 / plan.microbatches_per_s),
         fmt::format("{:.2f} %", 100 * plan.report.idle_share), fmt::format("{:.2f}", plan.activation_share),
         fmt::format("{}", plan.generator->copies)});
  }
  return table;
}

render::Table ruled_out_table(const PlanResult& result) {
  render::Table table;
  table.head = {"schedule", "microbatches", "reason"};
  for (const RuledOut& ruled : result.ruled_out) {
    table.rows.push_back({ruled.schedule, fmt::format("{}", ruled.microbatches), ruled.reason});
  }
  return table;
}

constexpr const char* how_to_read =
    "Best first, by time a microbatch. Every plan runs the same layers on the same ranks. Activations are "
    "what the fullest rank "
    "holds, in shares of a rank's layers (one microbatch of 1F1B's stage is 1); copies are of the model's "
    "parameters.";

void print_text(std::ostream& out, const Options& options, const PlanResult& result) {
  fmt::print(out, "{} ranks, best first (by time a microbatch); activations in shares of a rank's layers\n\n",
             *options.ranks);
  out << to_text(plan_table(result));
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
  const CostModel share = options.costs.load(*options.ranks);
  return [share, ranks = *options.ranks](std::uint32_t stages) {
    return scaled_to_stages(share, ranks, stages);
  };
}

// Everything a person needs of a plan, in one folder.
void write_folder(Console& console, const Options& options, const PlanRequest& request,
                  const CostsForStages& costs, const PlanResult& result) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) throw BadInput(options.out, fmt::format("cannot be made: {}", error.message()));
  const auto in_folder = [&](const char* file) { return (fs::path(options.out) / file).string(); };
  write_output(console, in_folder("plan.json"), [&](std::ostream& out) { print_json(out, result); });

  // The best few, as a picture can show them.
  constexpr std::size_t pictured = 4;
  std::vector<LoweredSchedule> schedules;
  std::vector<Prediction> predictions;
  for (std::size_t i = 0; i < std::min(pictured, result.plans.size()); ++i) {
    schedules.push_back(make_lowered(*result.plans[i].generator, result.plans[i].shape, request.lowering));
    predictions.push_back(predict(schedules.back(), costs(schedules.back().stages), request.execution));
  }
  if (predictions.empty()) return;
  std::vector<render::ReportInput> inputs;
  for (const Prediction& p : predictions) inputs.push_back({p.report, &p.timeline, &p.memory});
  Page page{
      fmt::format("Plans for {} ranks", *options.ranks), {{"Plans", how_to_read, plan_table(result)}}, {}};
  if (!result.ruled_out.empty()) page.sections.push_back({"Ruled out", "", ruled_out_table(result)});
  write_documents(console, {{in_folder("report.md"), in_folder("report.html")}, in_folder("picture.svg")},
                  page, inputs);

  const Prediction& best = predictions.front();
  write_output(console, in_folder("trace.json"), [&](std::ostream& out) {
    write_chrome_trace(out, {{best.timeline, &best.memory, ""}});
  });
  write_output(console, in_folder("schedule.json"),
               [&](std::ostream& out) { write_schedule_json(out, without_messages(schedules.front())); });
  try {
    write_output(console, in_folder("schedule.csv"),
                 [&](std::ostream& out) { write_pytorch_csv(out, without_messages(schedules.front())); });
  } catch (const BadInput& refused) {
    fmt::print(console.err, "plumb: no CSV for PyTorch: {}\n", refused.what());
  }
  fmt::print(console.err,
             "plumb: wrote plan.json, report.md, report.html, picture.svg, trace.json and schedule.* to {}\n",
             options.out);
}

int run_model(const Options& options, Console& console) {
  const auto refuse = [](bool given, const char* flag, const char* why) {
    if (given) throw BadInput(flag, fmt::format("does not go with --model: {}", why));
  };
  refuse(options.ranks.has_value(), "--ranks",
         "--devices are shared out over pp x tp x dp; --pp restricts them");
  refuse(!options.microbatches.empty(), "--microbatches", "they follow from --global-batch");
  refuse(!options.costs.costs.empty(), "--costs", "they follow from the model");
  refuse(!options.costs.op_costs.empty(), "--op-costs",
         "it overrides ops of one schedule; a plan compares many");
  refuse(options.activation_limit.has_value(), "--activation-limit", "--memory is in bytes");
  refuse(options.lowering.data_parallel != 1, "--dp", "it follows from --devices");
  PlanCommon common;
  common.schedules = options.schedules;
  common.chunks = options.chunks;
  common.placement = options.lowering.load().placement;
  common.execution = options.execution.load();
  common.calibration = options.costs.calibration;
  common.out = options.out;
  common.json = options.json;
  PlanModelOptions model = options.model;
  model.model.layers = options.costs.layers;
  return plan_model(model, common, console);
}

int run(const Options& options, Console& console) {
  if (options.model.model.given()) return run_model(options, console);
  if (options.model.devices) throw BadInput("--devices", "is for a --model; a pipeline alone has --ranks");
  if (!options.ranks) throw BadInput("--ranks", "or --model is required");
  if (options.microbatches.empty()) throw BadInput("--microbatches", "is required with --ranks");
  if (std::find(options.microbatches.begin(), options.microbatches.end(), 0u) != options.microbatches.end())
    throw BadInput("--microbatches", "0 of them are no step; expected numbers from 1");
  PlanRequest request;
  request.ranks = *options.ranks;
  request.microbatches = options.microbatches;
  request.chunks = options.chunks;
  if (request.chunks.empty()) request.chunks = {2};
  for (const std::string& name : options.schedules) request.schedules.push_back(&generator(name));
  request.lowering = options.lowering.load();
  request.execution = options.execution.load();
  request.activation_limit = options.activation_limit;
  if (!options.costs.op_costs.empty())
    throw BadInput("--op-costs", "overrides ops of one schedule; a plan compares many");
  const CostsForStages costs = costs_for(options);
  const PlanResult result = plan(request, costs, [&](std::size_t done, std::size_t of) {
    if (console.err_is_terminal)
      fmt::print(console.err, "\r{} of {} candidates{}", done, of, done == of ? "\r\033[K" : "");
  });
  if (!options.out.empty()) write_folder(console, options, request, costs, result);
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
  CLI::App* command = app.add_subcommand("plan",
                                         "Rank the schedules for P ranks at equal resources (same layers, "
                                         "ranks, microbatches), or the layouts and "
                                         "schedules of a --model on N --devices");
  command->add_option("--ranks", options->ranks, "Devices of the pipeline")
      ->type_name("P")
      ->check(CLI::Range(1u, max_ranks));
  command
      ->add_option("--microbatches", options->microbatches,
                   "Microbatches of one step, one or several numbers")
      ->delimiter(',')
      ->type_name("M,…");
  command
      ->add_option("--chunks", options->chunks,
                   "Stages a rank, for schedules that have a choice [2; with --model 2 to 10]")
      ->delimiter(',')
      ->type_name("V,…");
  command->add_option("--schedules", options->schedules, "Only these")->delimiter(',')->type_name("NAME,…");
  options->lowering.add_to(*command);
  options->costs.add_to(*command);
  options->execution.add_to(*command);
  command
      ->add_option("--activation-limit", options->activation_limit,
                   "The most activations a rank may hold, in shares of its layers")
      ->type_name("X")
      ->check(CLI::PositiveNumber);
  command
      ->add_option(
          "--out", options->out,
          "Write plan, report (.md, .html), picture, and the best plan's trace and schedule into this folder")
      ->type_name("FOLDER");
  add_json(*command, options->json);
  options->model.add_to(*command);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
