// plumb simulate: when everything of one schedule runs, and how good that is.
#include "schedules/ir/timeline_file.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/report_json.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"
#include "tools/planner/predict.hpp"
#include "tools/report_text.hpp"

#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  ScheduleOptions schedule;
  CostOptions costs;
  ExecutionFlags execution;
  std::string trace;
  std::string timeline;
  bool json = false;
};

int run(const Options& options, Console& console) {
  const LoweredSchedule schedule = options.schedule.load();
  const CostModel cost = options.costs.load(schedule.stages);
  const Prediction prediction = predict(schedule, cost, options.execution.load());
  if (!options.trace.empty()) {
    warn_of_large_trace(console, prediction.timeline);
    write_output(console, options.trace, [&](std::ostream& out) {
      write_chrome_trace(out, {{prediction.timeline, &prediction.memory, ""}});
    });
  }
  if (!options.timeline.empty()) {
    write_output(console, options.timeline,
                 [&](std::ostream& out) { write_timeline(out, prediction.timeline); });
  }
  if (options.json) {
    console.out << to_json(prediction.report) << "\n";
  } else {
    console.out << report_text(prediction.report);
  }
  return 0;
}

}  // namespace

Command simulate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("simulate", "Predict one step: time, bubbles and their causes, memory");
  options->schedule.add_to(*command, true);
  options->costs.add_to(*command);
  options->execution.add_to(*command);
  command
      ->add_option("--trace", options->trace, "Write a Chrome trace for ui.perfetto.dev or chrome://tracing")
      ->type_name("FILE");
  command
      ->add_option("--timeline", options->timeline,
                   "Write every span as plumb.timeline/1, for `plumb diff` and `plumb trace`")
      ->type_name("FILE");
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
