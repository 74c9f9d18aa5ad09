// plumb trace: a Chrome trace of a simulated schedule, or of a timeline that was written earlier.
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/schedule_file.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "sim/chrome_trace.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"
#include "tools/planner/predict.hpp"
#include "tools/report_text.hpp"

#include <memory>
#include <optional>

namespace plumb::tools {
namespace {

struct Options {
  ScheduleOptions schedule;
  CostOptions costs;
  ExecutionFlags execution;
  std::vector<std::uint32_t> only_ranks;
  std::string out = "-";
};

std::optional<Timeline> written_timeline(const Options& options) {
  if (find_generator(options.schedule.name)) return std::nullopt;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(options.schedule.name, ignored)) return std::nullopt;
  const std::string content = read_input(options.schedule.name);
  if (json_schema_of(content) != "plumb.timeline/1") return std::nullopt;
  if (options.costs.given())
    throw BadInput(options.schedule.name, "is a timeline; costs have no meaning for it");
  return parse_timeline(content, options.schedule.name);
}

int run(const Options& options, Console& console) {
  Prediction prediction;
  const MemoryProfile* memory = nullptr;
  if (auto timeline = written_timeline(options)) {
    prediction.timeline = std::move(*timeline);
  } else {
    const LoweredSchedule schedule = options.schedule.load();
    prediction = predict(schedule, options.costs.load(schedule.stages), options.execution.load());
    memory = &prediction.memory;
  }
  TraceOptions trace;
  for (const std::uint32_t rank : options.only_ranks) {
    if (rank >= prediction.timeline.ranks.size())
      throw BadInput("--only-ranks", "names a rank that the schedule has not");
    trace.ranks.push_back(Rank{rank});
  }
  if (trace.ranks.empty()) warn_of_large_trace(console, prediction.timeline);
  write_output(console, options.out, [&](std::ostream& out) {
    write_chrome_trace(out, {{prediction.timeline, memory, ""}}, trace);
  });
  return 0;
}

}  // namespace

Command trace_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "trace",
      "Write a Chrome trace (ui.perfetto.dev, chrome://tracing) of a schedule or a plumb.timeline/1");
  options->schedule.add_to(*command, true);
  options->costs.add_to(*command);
  options->execution.add_to(*command);
  command->add_option("--only-ranks", options->only_ranks, "Keep these ranks only")
      ->delimiter(',')
      ->type_name("R,…");
  add_out(*command, options->out, "Write here; - is standard output");
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
