#include "runtime/launch/mps.hpp"

#include "schedules/ir/error.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

namespace plumb {
namespace {

struct Said {
  int status = 0;
  std::string text;
};

Said run(const std::string& command) {
  Said said;
  FILE* stream = popen((command + " 2>&1").c_str(), "r");
  if (!stream) throw DeviceError(fmt::format("{}: {}", command, std::strerror(errno)));
  std::array<char, 256> piece{};
  while (const std::size_t read = fread(piece.data(), 1, piece.size(), stream))
    said.text.append(piece.data(), read);
  said.status = pclose(stream);
  while (!said.text.empty() && said.text.back() == '\n') said.text.pop_back();
  return said;
}

std::string with_folder(const std::string& folder, const std::string& command) {
  return fmt::format("CUDA_MPS_PIPE_DIRECTORY='{0}/pipe' CUDA_MPS_LOG_DIRECTORY='{0}/log' {1}", folder,
                     command);
}

// Waits until the owner's end of the pipe closes, then ends the daemon. It has nothing but that pipe open, so
// that it keeps nobody waiting for the owner's output.
[[noreturn]] void guard(int owner, const std::string& quit, const std::string& folder) {
  setsid();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_IGN);
  const int nothing = open("/dev/null", O_RDWR);
  for (const int standard : {0, 1, 2}) dup2(nothing, standard);
  for (int other = 3; other < 1024; ++other) {
    if (other != owner) close(other);
  }
  char byte = 0;
  while (read(owner, &byte, 1) < 0 && errno == EINTR) {
  }
  static_cast<void>(std::system(quit.c_str()));
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  _exit(0);
}

}  // namespace

Mps::Mps(const std::string& control) {
  std::string folder = (std::filesystem::temp_directory_path() / "plumb-mps-XXXXXX").string();
  if (!mkdtemp(folder.data())) throw DeviceError(fmt::format("{}: {}", folder, std::strerror(errno)));
  folder_ = folder;
  std::filesystem::create_directory(folder_ + "/pipe");
  std::filesystem::create_directory(folder_ + "/log");

  // The guard is there before the daemon is.
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw DeviceError(fmt::format("no pipe: {}", std::strerror(errno)));
  const std::string quit = with_folder(folder_, fmt::format("sh -c 'echo quit | {}'", control));
  helper_ = fork();
  if (helper_ == 0) {
    close(ends[1]);
    guard(ends[0], quit, folder_);
  }
  close(ends[0]);
  alive_ = ends[1];
  if (helper_ < 0) throw DeviceError(fmt::format("no process to guard MPS: {}", std::strerror(errno)));

  const Said said = run(with_folder(folder_, control + " -d"));
  if (said.status != 0) {
    const std::string text = said.text;
    close(alive_);
    waitpid(helper_, nullptr, 0);
    throw DeviceError(fmt::format("{} -d: {}", control, text.empty() ? "it ended without a word" : text));
  }
}

Mps::~Mps() {
  close(alive_);
  waitpid(helper_, nullptr, 0);
}

std::vector<std::pair<std::string, std::string>> Mps::environment() const {
  return {{"CUDA_MPS_PIPE_DIRECTORY", folder_ + "/pipe"}, {"CUDA_MPS_LOG_DIRECTORY", folder_ + "/log"}};
}

bool mps_is_running(const std::string& control) {
  return run(fmt::format("echo get_server_list | {}", control)).status == 0;
}

}  // namespace plumb
