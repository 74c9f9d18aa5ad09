// plumb compare: schedules side by side, as a table of methods, a report and one picture.
#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "sim/report_json.hpp"
#include "tools/command.hpp"
#include "tools/documents.hpp"
#include "tools/options.hpp"
#include "tools/planner/plan.hpp"
#include "tools/planner/predict.hpp"
#include "tools/render/report_tables.hpp"
#include "tools/render/table.hpp"
#include "tools/step_options.hpp"

#include <algorithm>
#include <charconv>
#include <memory>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  std::vector<std::string> names;
  std::optional<std::uint32_t> ranks;
  std::optional<std::uint32_t> stages;
  std::uint32_t microbatches = 0;
  LoweringFlags lowering;
  CostOptions costs;
  ModelOptions model;
  DeviceOptions device;
  ExecutionFlags execution;
  DocumentOptions documents;
  bool markdown = false;
  bool json = false;
};

// `interleaved-1f1b:4`: a schedule and its chunks.
struct Method {
  const Generator* generator;
  Shape shape;
};

Method read_method(const std::string& text, const Options& options) {
  const auto colon = text.find(':');
  Method method{&generator(text.substr(0, colon)), {}};
  if (colon != std::string::npos) {
    std::uint32_t chunks = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, chunks);
    if (error != std::errc{} || stop != end)
      throw BadInput("compare", fmt::format("'{}' is not NAME or NAME:CHUNKS", text));
    method.shape.chunks = chunks;
  }
  const std::uint32_t chunks = method.shape.chunks.value_or(method.generator->default_chunks);
  if (options.stages) {
    if (chunks == 0 || *options.stages % chunks != 0) {
      throw BadInput(method.generator->name,
                     fmt::format("cannot share {} stages out in chunks of {}", *options.stages, chunks));
    }
    method.shape.ranks = *options.stages / chunks;
  } else {
    method.shape.ranks = *options.ranks;
  }
  method.shape.microbatches = options.microbatches;
  return method;
}

struct Row {
  Method method;
  std::uint32_t stages_held = 0;  // by the rank that holds most
  Prediction prediction;
  std::uint32_t devices_a_rank = 1;  // of a model: its tensor and data parallelism

  std::uint32_t ranks() const { return static_cast<std::uint32_t>(prediction.report.ranks.size()); }
  std::uint32_t devices() const { return ranks() * devices_a_rank; }
  double copies() const { return static_cast<double>(stages_held) * ranks() / prediction.report.stages; }
  std::uint32_t activations() const {
    std::uint32_t most = 0;
    for (const RankReport& rank : prediction.report.ranks) most = std::max(most, rank.peak_live_activations);
    return most;
  }
  // Of the fullest rank, where the costs say bytes.
  std::optional<Bytes> peak() const {
    std::optional<Bytes> most;
    for (const RankReport& rank : prediction.report.ranks) most = std::max(most, rank.peak_bytes);
    return most;
  }
  // Idle time of a rank, and where ranks differ their least and most.
  std::pair<Duration, Duration> bubble() const {
    const auto& ranks = prediction.report.ranks;
    const auto [least, most] = std::minmax_element(
        ranks.begin(), ranks.end(), [](const RankReport& a, const RankReport& b) { return a.idle < b.idle; });
    return {least->idle, most->idle};
  }
};

std::uint32_t most_stages_held(const Schedule& schedule) {
  std::vector<std::uint32_t> held(schedule.ranks(), 0);
  for (const auto& ranks : owners(schedule)) {
    for (const Rank rank : ranks) ++held[rank.value];
  }
  return *std::max_element(held.begin(), held.end());
}

render::Table method_table(const std::vector<Row>& rows) {
  render::Table table;
  table.head = {"method",
                "step ms",
                "bubble of a rank, ms",
                "bubble",
                "stages held",
                "copies of the model",
                "activations, in chunks",
                "devices"};
  const bool model = std::all_of(rows.begin(), rows.end(), [](const Row& row) {
    return row.peak() && row.prediction.report.tokens_per_s;
  });
  if (model) table.head.insert(table.head.end(), {"peak GiB", "tokens/s"});
  for (const Row& row : rows) {
    const auto [least, most] = row.bubble();
    table.rows.push_back({row.prediction.report.schedule,
                          render::milliseconds(row.prediction.report.step_time),
                          least == most ? render::milliseconds(most)
                                        : render::milliseconds(least) + " to " + render::milliseconds(most),
                          fmt::format("{:.2f} %", 100 * row.prediction.report.idle_share),
                          fmt::format("{}", row.stages_held), fmt::format("{:g}", row.copies()),
                          fmt::format("{}", row.activations()), fmt::format("{}", row.devices())});
    if (!model) continue;
    table.rows.back().push_back(render::gibibytes(*row.peak()));
    table.rows.back().push_back(fmt::format("{:.0f}", *row.prediction.report.tokens_per_s));
  }
  return table;
}

void print_json(std::ostream& out, const std::vector<Row>& rows) {
  out << "{\"schema\":\"plumb.compare/1\",\"methods\":[";
  const char* comma = "";
  for (const Row& row : rows) {
    const auto [least, most] = row.bubble();
    fmt::print(out,
               "{}{{\"schedule\":{},\"chunks\":{},\"devices\":{},\"stages_held\":{},\"copies\":{},\"peak_"
               "live_activations\":{},"
               "\"least_idle_ns\":{},\"most_idle_ns\":{},\"report\":{}}}",
               comma, json_quoted(row.method.generator->name), *row.method.shape.chunks, row.devices(),
               row.stages_held, row.copies(), row.activations(), least.ns, most.ns,
               to_json(row.prediction.report));
    comma = ",";
  }
  out << "]}\n";
}

Row row_of(const Method& method, const Options& options) {
  const LoweredSchedule schedule = make_lowered(*method.generator, method.shape, options.lowering.load());
  // With equal stages a stage is the same for all; with equal devices a rank's share of the layers is.
  CostModel cost = options.costs.load(schedule.stages);
  if (options.ranks && options.costs.calibration.empty())
    cost = scaled_to_stages(cost, *options.ranks, schedule.stages);
  return {method, most_stages_held(without_messages(schedule)),
          predict(schedule, cost, options.execution.load()), 1};
}

// The model's layers as this method cuts them.
Row row_of_model(const Method& method, const Options& options, Console& console) {
  StepOptions step;
  step.schedule.name = method.generator->name;
  step.schedule.ranks = method.shape.ranks;
  step.schedule.microbatches = method.shape.microbatches;
  if (method.generator->takes_chunks) step.schedule.chunks = method.shape.chunks;
  step.schedule.comms = options.lowering.comms;
  step.schedule.data_parallel = options.lowering.data_parallel;
  step.costs = options.costs;
  step.model = options.model;
  step.device = options.device;
  step.execution = options.execution;
  const StepToRun ready = step.load(console);
  return {method, most_stages_held(without_messages(ready.schedule)), ready.predict(Detail::actions),
          options.model.tensor * options.lowering.data_parallel};
}

int run(const Options& options, Console& console) {
  if (options.ranks.has_value() == options.stages.has_value()) {
    throw BadInput("compare", "needs either --ranks (equal devices) or --stages (equal stages)");
  }
  if (!options.costs.op_costs.empty())
    throw BadInput("--op-costs", "overrides ops of one schedule; a comparison has several");
  if (!options.model.given() && !options.device.gpu.empty())
    throw BadInput("--gpu", "needs a model: --model, or --hidden, --layers and --heads");
  if (options.model.model == "mlp" && !options.costs.layers)
    throw BadInput("--layers", "is required of an mlp, so that all methods cut the same one");
  std::vector<Method> methods;
  for (const std::string& name : options.names) methods.push_back(read_method(name, options));
  std::vector<Row> rows;
  std::ostringstream said_before;  // what there is to warn of a model's file is said once
  Console quiet{console.out, said_before};
  for (Method& method : methods) {
    method.shape = legal_shape(*method.generator, method.shape);
    rows.push_back(options.model.given() ? row_of_model(method, options, rows.empty() ? console : quiet)
                                         : row_of(method, options));
  }
  std::vector<render::ReportInput> inputs;
  for (const Row& row : rows)
    inputs.push_back({row.prediction.report, &row.prediction.timeline, &row.prediction.memory});
  const std::string what =
      fmt::format("{} {}, {} microbatches", options.ranks ? rows.front().devices() : *options.stages,
                  options.ranks ? "devices" : "stages", options.microbatches);
  write_documents(console, options.documents,
                  {"Schedules compared: " + what, {{"Methods", "", method_table(rows)}}, {}}, inputs);
  if (options.json) {
    print_json(console.out, rows);
  } else {
    console.out << (options.markdown ? to_markdown(method_table(rows)) : to_text(method_table(rows)));
  }
  return 0;
}

}  // namespace

Command compare_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("compare", "Set schedules side by side at equal devices or equal stages");
  command
      ->add_option("schedules", options->names,
                   "Names, each with its chunks behind a colon if it has a choice")
      ->required()
      ->type_name("NAME[:V]");
  command
      ->add_option("--ranks", options->ranks,
                   "Equal devices: the same layers shared out over P; costs are of a rank's share")
      ->type_name("P");
  command
      ->add_option("--stages", options->stages,
                   "Equal stages, as papers compare: devices follow; costs are of a stage")
      ->type_name("S");
  command->add_option("--microbatches", options->microbatches, "Microbatches of one step")
      ->required()
      ->type_name("M");
  options->lowering.add_to(*command);
  options->costs.add_to(*command);
  options->model.add_model_to(*command);
  options->model.add_layout_to(*command);
  options->device.add_to(*command);
  options->execution.add_to(*command);
  options->documents.add_to(*command);
  command->add_flag("--markdown", options->markdown, "Print the table as Markdown");
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
