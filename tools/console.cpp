#include "tools/console.hpp"

#include "schedules/ir/error.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace plumb::tools {

Console process_console() {
  Console console{std::cout, std::cerr};
  console.out_is_terminal = isatty(STDOUT_FILENO) != 0;
  console.err_is_terminal = isatty(STDERR_FILENO) != 0;
  const char* no_colour = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::strcmp(term, "dumb") == 0;
  console.colour = console.out_is_terminal && !dumb && (no_colour == nullptr || *no_colour == '\0');
  winsize size{};
  if (console.out_is_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    console.width = size.ws_col;
  }
  return console;
}

void check_output(const std::string& path) {
  if (path.empty() || path == "-") return;
  namespace fs = std::filesystem;
  const auto fail = [&](const std::string& why) {
    throw BadInput(path, fmt::format("cannot be written: {}", why));
  };
  std::error_code error;
  if (fs::is_directory(path, error)) fail("it is a folder");
  if (fs::exists(path, error) && !fs::is_regular_file(path, error)) {
    if (access(path.c_str(), W_OK) != 0) fail(std::strerror(errno));
    return;
  }
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : ".";
  if (access(folder.c_str(), W_OK | X_OK) != 0) fail(std::strerror(errno));
  if (!fs::is_directory(folder, error)) fail(std::strerror(ENOTDIR));
}

void write_output(Console& console, const std::string& path,
                  const std::function<void(std::ostream&)>& write) {
  if (path == "-") return write(console.out);
  namespace fs = std::filesystem;
  const auto fail = [&](const std::string& why) {
    throw BadInput(path, fmt::format("cannot be written: {}", why));
  };
  std::error_code error;
  if (fs::is_directory(path, error)) fail("it is a folder");
  // Renaming over a device or a pipe would replace it.
  const bool in_place = fs::exists(path, error) && !fs::is_regular_file(path, error);
  const std::string beside = in_place ? path : fmt::format("{}.{}.part", path, getpid());
  std::ofstream file(beside, std::ios::binary | std::ios::trunc);
  if (!file) fail(std::strerror(errno));
  try {
    write(file);
  } catch (...) {
    file.close();
    if (!in_place) fs::remove(beside, error);
    throw;
  }
  errno = 0;
  file.close();
  if (!file) {
    const std::string why = errno != 0 ? std::strerror(errno) : "the device is full or gone";
    if (!in_place) fs::remove(beside, error);
    fail(why);
  }
  if (in_place) return;
  fs::rename(beside, path, error);
  if (error) {
    std::error_code ignored;
    fs::remove(beside, ignored);
    fail(error.message());
  }
}

}  // namespace plumb::tools
