// plumb: one binary. Parses the command line, runs the subcommand, maps what went wrong to an exit code:
// 0 good, 1 the answer is no, 2 bad input, 3 device.
#include "schedules/ir/error.hpp"
#include "tools/command.hpp"
#include "tools/spelling.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace {

// In one piece: ranks in processes of their own write to one terminal.
void say(plumb::tools::Console& console, const std::string& what) {
  console.err << "plumb: " + what + "\n" << std::flush;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace plumb::tools;
  std::ios::sync_with_stdio(false);
  Console console = process_console();
  CLI::App app("Plans pipeline-parallel training: schedules, simulator, traces.", "plumb");
  app.set_version_flag("--version", "plumb " PLUMB_VERSION);
  app.require_subcommand(1);
  const std::vector<Command> commands{schedules_command(app), schedule_command(app), check_command(app),
                                      simulate_command(app),  costs_command(app),    compare_command(app),
                                      diff_command(app),      plan_command(app),     trace_command(app),
                                      draw_command(app),      model_command(app),    calibrate_command(app),
                                      run_command(app),       validate_command(app)};
  int code = 0;
  try {
    app.parse(argc, argv);
    const auto chosen =
        std::find_if(commands.begin(), commands.end(), [](const Command& c) { return c.app->parsed(); });
    code = chosen->run(console);
    console.out.flush();
    if (!console.out) throw plumb::BadInput("standard output", "cannot be written");
  } catch (const CLI::Success& wanted) {
    return app.exit(wanted, console.out, console.err);
  } catch (const CLI::ParseError& error) {
    say(console, what_went_wrong(app, error, argc, argv));
    return 2;
  } catch (const plumb::BadInput& error) {
    say(console, error.what());
    return 2;
  } catch (const plumb::DeviceError& error) {
    say(console, error.what());
    // At once: what libraries do at the end of a process may wait for a device, or a rank, that is lost.
    std::_Exit(3);
  } catch (const std::bad_alloc&) {
    say(console, "not enough memory for this request");
    return 2;
  }
  return code;
}
