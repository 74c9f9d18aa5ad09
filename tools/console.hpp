// Where a command writes: data to `out`, messages and progress to `err`.
#pragma once
#include <cstddef>
#include <functional>
#include <ostream>
#include <string>

namespace plumb::tools {

struct Console {
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool colour = false;      // out is a terminal, NO_COLOR is not set
  std::size_t width = 100;  // columns of the terminal
};

/// What the process has: isatty, NO_COLOR, TERM, COLUMNS.
Console process_console();

/// Writes a file beside `path` and renames it, so that a failure leaves what was there; `-` is standard
/// output, and a device or pipe is written in place. Throws BadInput: cannot be written, and why.
void write_output(Console& console, const std::string& path, const std::function<void(std::ostream&)>& write);

/// Throws what write_output would throw of the place, before there is anything to write: a long run should
/// not end with it. Nothing for an empty path.
void check_output(const std::string& path);

}  // namespace plumb::tools
