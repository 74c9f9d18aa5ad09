// plumb check: is it a schedule at all? Exit 1 if not, with everything that is wrong.
#include "schedules/ir/input.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/schedule_file.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"

#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  std::string file;
  bool json = false;
};

void print_json(std::ostream& out, const CheckResult& result) {
  fmt::print(out, "{{\"schema\":\"plumb.check/1\",\"valid\":{},\"violations\":[", result.valid());
  const char* comma = "";
  for (const Violation& violation : result.violations) {
    fmt::print(out, "{}{{\"rank\":{},\"index\":{},\"action\":{},\"kind\":\"{}\",\"message\":{}}}", comma,
               violation.rank, violation.index, json_quoted(violation.action), to_string(violation.kind),
               json_quoted(violation.message));
    comma = ",";
  }
  out << "],\"deadlock_cycle\":[";
  comma = "";
  for (const Waiting& waiting : result.deadlock_cycle) {
    fmt::print(out, "{}{{\"rank\":{},\"index\":{},\"action\":{}}}", comma, waiting.rank.value, waiting.index,
               json_quoted(waiting.action));
    comma = ",";
  }
  out << "]}\n";
}

void print_text(std::ostream& out, const ScheduleFile& file, const CheckResult& result) {
  const LoweredSchedule& lowered = file.lowered;
  if (result.valid()) {
    fmt::print(
        out, "valid: {} ranks, {} stages, {} microbatches, {}\n", lowered.ranks(), lowered.stages,
        lowered.microbatches,
        file.has_messages ? "messages deadlock-free under rendezvous" : "computation without messages");
    return;
  }
  constexpr std::size_t shown = 50;
  for (std::size_t i = 0; i < std::min(result.violations.size(), shown); ++i) {
    const Violation& violation = result.violations[i];
    const std::string place = violation.rank < 0 ? "nowhere"
                              : violation.index < 0
                                  ? fmt::format("rank {}", violation.rank)
                                  : fmt::format("rank {} element {}", violation.rank, violation.index);
    fmt::print(out, "{:<20} {:<12} {}\n", place, to_string(violation.kind), violation.message);
  }
  if (result.violations.size() > shown)
    fmt::print(out, "… and {} more (--json shows all)\n", result.violations.size() - shown);
  if (!result.deadlock_grid.empty()) out << "\n" << result.deadlock_grid;
  fmt::print(out, "\nnot valid: {} violation{}\n", result.violations.size(),
             result.violations.size() == 1 ? "" : "s");
}

int run(const Options& options, Console& console) {
  const ScheduleFile file =
      parse_schedule(read_input(options.file), options.file == "-" ? "standard input" : options.file);
  const CheckResult result = check(file);
  if (options.json) {
    print_json(console.out, result);
  } else {
    print_text(console.out, file, result);
  }
  return result.valid() ? 0 : 1;
}

}  // namespace

Command check_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "check", "Say whether a file is a valid schedule, and everything that is wrong with it");
  command
      ->add_option("file", options->file,
                   "plumb.schedule/1, its text form, or a PyTorch CSV; - reads standard input")
      ->required()
      ->type_name("FILE");
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
