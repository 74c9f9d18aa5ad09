// plumb trace: a Chrome trace of a simulated schedule, or of a timeline that was written earlier.
#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "sim/chrome_trace.hpp"
#include "tools/command.hpp"
#include "tools/planner/predict.hpp"
#include "tools/report_text.hpp"
#include "tools/step_options.hpp"

#include <memory>
#include <optional>

namespace plumb::tools {
namespace {

struct Options {
  StepOptions step;
  std::vector<std::uint32_t> only_ranks;
  std::string out = "-";
};

std::optional<Timeline> written_timeline(const Options& options) {
  const std::string& name = options.step.schedule.name;
  if (find_generator(name)) return std::nullopt;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(name, ignored)) return std::nullopt;
  const std::string content = read_input(name);
  if (json_schema_of(content) != "plumb.timeline/1") return std::nullopt;
  if (options.step.costs_given()) throw BadInput(name, "is a timeline; costs have no meaning for it");
  return parse_timeline(content, name);
}

int run(const Options& options, Console& console) {
  Prediction prediction;
  const MemoryProfile* memory = nullptr;
  if (auto timeline = written_timeline(options)) {
    prediction.timeline = std::move(*timeline);
  } else {
    const StepToRun step = options.step.load(console);
    prediction = step.predict(Detail::segments);
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
  options->step.add_to(*command);
  command->add_option("--only-ranks", options->only_ranks, "Keep these ranks only")
      ->delimiter(',')
      ->type_name("R,…");
  add_out(*command, options->out, "Write here; - is standard output");
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
