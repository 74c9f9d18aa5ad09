// One subcommand a file: its options are added to the command line, and `run` does what it says.
#pragma once
#include "tools/console.hpp"

#include <functional>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// `run` returns the exit code: 0 good, 1 the answer is no. It throws what the user or the device did wrong.
struct Command {
  CLI::App* app = nullptr;
  std::function<int(Console&)> run;
};

Command schedules_command(CLI::App& app);
Command schedule_command(CLI::App& app);
Command check_command(CLI::App& app);
Command simulate_command(CLI::App& app);
Command costs_command(CLI::App& app);
Command compare_command(CLI::App& app);
Command diff_command(CLI::App& app);
Command plan_command(CLI::App& app);
Command trace_command(CLI::App& app);
Command draw_command(CLI::App& app);
Command model_command(CLI::App& app);
Command calibrate_command(CLI::App& app);
Command run_command(CLI::App& app);
Command validate_command(CLI::App& app);

}  // namespace plumb::tools
