// plumb simulate: when everything of one schedule runs, and how good that is.
#include "schedules/ir/error.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/critical_path.hpp"
#include "sim/report_json.hpp"
#include "tools/command.hpp"
#include "tools/memory_limit.hpp"
#include "tools/planner/predict.hpp"
#include "tools/render/report_tables.hpp"
#include "tools/render/table.hpp"
#include "tools/report_text.hpp"
#include "tools/step_options.hpp"

#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  StepOptions step;
  std::string trace;
  std::string timeline;
  std::string memory;
  bool critical_path = false;
  bool json = false;
};

// What the step hangs on, and by how much every other action could last longer.
CriticalPath path_of(const LoweredSchedule& schedule, const CostModel& cost,
                     const ExecutionOptions& options) {
  const bool shared =
      options.links_are_shared || options.transfers_occupy_compute || options.messages_slow_compute;
  if (shared || schedule.placement == CommPlacement::batched) {
    throw BadInput("--critical-path",
                   "is of messages that wait for nobody: not with batched messages or shared links");
  }
  return critical_path(schedule, cost, options);
}

std::string json_members(const CriticalPath& path) {
  std::string out = ",\"critical_path\":[";
  for (std::size_t i = 0; i < path.steps.size(); ++i) {
    const CriticalStep& step = path.steps[i];
    out += fmt::format("{}{{\"rank\":{},\"action\":\"{}\",\"begin_ns\":{},\"end_ns\":{},\"wait_ns\":{}}}",
                       i ? "," : "", step.rank.value, to_string(step.action), step.begin.ns, step.end.ns,
                       step.wait.ns);
  }
  out += "],\"slack_ns\":[";
  for (std::size_t r = 0; r < path.slack.size(); ++r) {
    out += r ? ",[" : "[";
    for (std::size_t i = 0; i < path.slack[r].size(); ++i)
      out += fmt::format("{}{}", i ? "," : "", path.slack[r][i].ns);
    out += ']';
  }
  return out + "]";
}

std::string text_of(const CriticalPath& path) {
  render::Table table;
  table.head = {"rank", "actions on the path", "their ms", "messages into them ms",
                "least slack elsewhere ms"};
  for (std::uint32_t r = 0; r < path.slack.size(); ++r) {
    std::size_t actions = 0;
    Duration busy, messages;
    for (const CriticalStep& step : path.steps) {
      if (step.rank.value != r) continue;
      ++actions;
      busy += step.end - step.begin;
      messages += step.wait;
    }
    std::optional<Duration> least;
    for (const Duration slack : path.slack[r]) {
      if (slack.ns > 0 && (!least || slack < *least)) least = slack;
    }
    table.rows.push_back({fmt::format("{}", r), fmt::format("{}", actions), render::milliseconds(busy),
                          render::milliseconds(messages), least ? render::milliseconds(*least) : "none"});
  }
  std::string out =
      fmt::format("\nThe critical path, {} actions:\n\n{}\n", path.steps.size(), to_text(table));
  // Where it changes ranks is what a person looks for.
  for (std::size_t i = 0; i < path.steps.size(); ++i) {
    const bool turns = i == 0 || path.steps[i].rank != path.steps[i - 1].rank;
    out += (turns ? (i ? "\n  rank " : "  rank ") + fmt::format("{}:", path.steps[i].rank.value) : "") + " " +
           to_string(path.steps[i].action);
  }
  return out + "\n";
}

int run(const Options& options, Console& console) {
  std::optional<Bytes> limit;
  if (!options.memory.empty()) limit = parse_bytes(options.memory, "--memory");
  const StepToRun step = options.step.load(console);
  std::optional<CriticalPath> path;
  if (options.critical_path) path = path_of(step.schedule, step.cost, step.execution);
  const bool spans = !options.trace.empty() || !options.timeline.empty();
  const Prediction prediction = step.predict(spans ? Detail::segments : Detail::actions);
  std::vector<Crossing> crossed;
  std::vector<Remedy> fitting;
  if (limit) {
    crossed = crossings(prediction, *limit);
    if (!crossed.empty()) fitting = remedies(step, prediction, *limit);
  }
  if (!options.trace.empty()) {
    warn_of_large_trace(console, prediction.timeline);
    TraceOptions trace;
    for (const Crossing& crossing : crossed)
      trace.marks.push_back({crossing.rank, crossing.time, "out of memory"});
    write_output(console, options.trace, [&](std::ostream& out) {
      write_chrome_trace(out, {{prediction.timeline, &prediction.memory, ""}}, trace);
    });
  }
  if (!options.timeline.empty()) {
    write_output(console, options.timeline,
                 [&](std::ostream& out) { write_timeline(out, prediction.timeline); });
  }
  if (options.json) {
    std::string report = to_json(prediction.report);
    if (path) report.insert(report.size() - 1, json_members(*path));
    if (!crossed.empty()) report.insert(report.size() - 1, memory_json(crossed, fitting, *limit));
    console.out << report << "\n";
  } else {
    console.out << report_text(prediction.report);
    if (path) console.out << text_of(*path);
    if (!crossed.empty()) console.out << memory_text(crossed, fitting, prediction.report.step_time, *limit);
  }
  return crossed.empty() ? 0 : 1;
}

}  // namespace

Command simulate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("simulate", "Predict one step: time, bubbles and their causes, memory");
  options->step.add_to(*command);
  command
      ->add_option(
          "--memory", options->memory,
          "What a device has, as in 80GiB: exit 1 where a rank needs more, with the op that crosses it "
          "and what would fit")
      ->type_name("BYTES");
  command
      ->add_option("--trace", options->trace, "Write a Chrome trace for ui.perfetto.dev or chrome://tracing")
      ->type_name("FILE");
  command
      ->add_option("--timeline", options->timeline,
                   "Write every span as plumb.timeline/1, for `plumb diff` and `plumb trace`")
      ->type_name("FILE");
  command->add_flag("--critical-path", options->critical_path,
                    "Also what the step's length hangs on, and everybody's slack");
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
