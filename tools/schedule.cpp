// plumb schedule: writes a named schedule as JSON, PyTorch CSV or text.
#include "schedules/ir/pytorch_csv.hpp"
#include "schedules/ir/schedule_json.hpp"
#include "schedules/ir/schedule_text.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"

#include <memory>

namespace plumb::tools {
namespace {

struct Options {
  ScheduleOptions schedule;
  std::string format = "text";
  std::string out = "-";
};

template <class Form>
void write(std::ostream& out, const Form& schedule, const std::string& format) {
  if (format == "json") {
    write_schedule_json(out, schedule);
  } else if (format == "csv") {
    write_pytorch_csv(out, schedule);
  } else {
    write_schedule_text(out, schedule);
  }
}

int run(const Options& options, Console& console) {
  const LoweredSchedule lowered = options.schedule.load();
  const bool with_messages = !options.schedule.comms.empty();
  write_output(console, options.out, [&](std::ostream& out) {
    if (with_messages) {
      write(out, lowered, options.format);
    } else {
      write(out, without_messages(lowered), options.format);
    }
  });
  return 0;
}

}  // namespace

Command schedule_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("schedule", "Write a schedule: compute actions, or with every message in its place");
  options->schedule.add_to(*command, true);
  command
      ->add_option("--format", options->format, "json: plumb.schedule/1; csv: PyTorch's; text: a line a rank")
      ->check(CLI::IsMember({"json", "csv", "text"}))
      ->capture_default_str();
  add_out(*command, options->out, "Write here instead of standard output");
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
