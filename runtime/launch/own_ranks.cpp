#include "runtime/launch/own_ranks.hpp"

#include "runtime/bootstrap/socket.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace plumb {
namespace {

// In an environment's value: the rank's number.
constexpr std::string_view rank_mark = "{rank}";

std::uint16_t free_port() { return port_of(listen_on("127.0.0.1", 0)); }

// The environment of one rank as execve wants it: ours, with what the job says in place of it.
class RankEnvironment {
 public:
  RankEnvironment(const OwnRanks& job, std::uint32_t rank, std::uint16_t port) {
    std::map<std::string, std::string> variables;
    for (char** at = environ; *at; ++at) {
      const std::string_view entry = *at;
      const auto equals = entry.find('=');
      if (equals != std::string_view::npos)
        variables[std::string(entry.substr(0, equals))] = std::string(entry.substr(equals + 1));
    }
    const std::string number = std::to_string(rank);
    for (const auto& [name, value] : job.environment) {
      std::string text = value;
      if (const auto mark = text.find(rank_mark); mark != std::string::npos)
        text.replace(mark, rank_mark.size(), number);
      variables[name] = text;
    }
    variables["RANK"] = variables["LOCAL_RANK"] = number;
    variables["WORLD_SIZE"] = variables["LOCAL_WORLD_SIZE"] = std::to_string(job.ranks);
    variables["MASTER_ADDR"] = "127.0.0.1";
    variables["MASTER_PORT"] = std::to_string(port - 1);  // the ranks meet at the port behind it
    for (const auto& [name, value] : variables) entries_.push_back(name + "=" + value);
    for (std::string& entry : entries_) pointers_.push_back(entry.data());
    pointers_.push_back(nullptr);
  }
  char** get() { return pointers_.data(); }

 private:
  std::vector<std::string> entries_;
  std::vector<char*> pointers_;
};

std::string failure_of(std::uint32_t rank, int status) {
  if (WIFSIGNALED(status)) {
    return fmt::format("rank {} was killed by signal {} ({})", rank, WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
  }
  return fmt::format("rank {} ended with exit code {}", rank, WEXITSTATUS(status));
}
// By which a rank says that it was asked to stop, and did.
bool is_orderly(int status) {
  return WIFEXITED(status) && (WEXITSTATUS(status) == 128 + SIGINT || WEXITSTATUS(status) == 128 + SIGTERM);
}

// Ranks that end so soon after each other end of one cause.
constexpr std::chrono::milliseconds at_once{500};

// Whether a rank's end is rather the cause of the others' than theirs of it.
bool is_graver(int code, int than) {
  if (code > 128 || than > 128) return code > than && than <= 128;
  return code < than;
}

int code_of(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

// The processes that have not ended. What is left of them is killed.
class Family {
 public:
  Family() = default;
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;
  ~Family() {
    kill_all();
    for (const auto& [process, rank] : processes_) {
      int status = 0;
      waitpid(process, &status, 0);
    }
  }

  void add(pid_t process, std::uint32_t rank) { processes_[process] = rank; }
  bool empty() const { return processes_.empty(); }
  void signal_all(int signal) const {
    for (const auto& [process, rank] : processes_) kill(process, signal);
  }
  /// With whatever they have started.
  void kill_all() const {
    for (const auto& [process, rank] : processes_) kill(-process, SIGKILL);
  }
  /// One that has ended, if any has.
  struct Ended {
    std::uint32_t rank = 0;
    int status = 0;
  };
  bool reap(Ended& ended) {
    for (auto at = processes_.begin(); at != processes_.end(); ++at) {
      int status = 0;
      if (waitpid(at->first, &status, WNOHANG | WUNTRACED | WCONTINUED) != at->first) continue;
      if (WIFSTOPPED(status)) {
        stopped_.insert(at->first);
      } else if (WIFCONTINUED(status)) {
        stopped_.erase(at->first);
      } else {
        ended = {at->second, status};
        stopped_.erase(at->first);
        processes_.erase(at);
        return true;
      }
    }
    return false;
  }
  /// Those that cannot end by themselves; adds their ranks to `whose`. Whether there were any.
  bool kill_stopped(std::vector<std::uint32_t>& whose) {
    for (const pid_t process : stopped_) {
      whose.push_back(processes_.at(process));
      kill(-process, SIGKILL);
    }
    return !std::exchange(stopped_, {}).empty();
  }

 private:
  std::map<pid_t, std::uint32_t> processes_;
  std::set<pid_t> stopped_;
};

pid_t start(const OwnRanks& job, std::uint32_t rank, std::uint16_t port) {
  RankEnvironment environment(job, rank, port);
  std::vector<std::string> words{job.program};
  words.insert(words.end(), job.arguments.begin(), job.arguments.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  // The child says through this pipe that it could not become the program; where it did, the pipe just
  // closes.
  int said[2];
  if (pipe2(said, O_CLOEXEC) != 0)
    throw DeviceError(fmt::format("rank {}: no pipe: {}", rank, std::strerror(errno)));
  const pid_t parent = getpid();
  const pid_t process = fork();
  if (process == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    // The parent may have died before that was set.
    if (getppid() == parent) execvpe(job.program.c_str(), arguments.data(), environment.get());
    const int error = errno;
    static_cast<void>(!write(said[1], &error, sizeof error));
    _exit(127);
  }
  const int fork_error = errno;
  close(said[1]);
  int error = process < 0 ? fork_error : 0;
  if (process > 0 && read(said[0], &error, sizeof error) != sizeof error) error = 0;
  close(said[0]);
  if (error != 0) {
    int status = 0;
    if (process > 0) waitpid(process, &status, 0);
    throw DeviceError(
        fmt::format("rank {}: {} cannot be started: {}", rank, job.program, std::strerror(error)));
  }
  return process;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> one_gpu_environment(std::uint32_t ranks) {
  const std::uint32_t queues = std::clamp(80 / std::max(ranks, 1u), 4u, 32u);
  return {{"NCCL_HOSTID", fmt::format("plumb-{}-{}", getpid(), rank_mark)},
          {"NCCL_SOCKET_IFNAME", "lo"},
          {"CUDA_DEVICE_MAX_CONNECTIONS", std::to_string(queues)},
          {"CUDA_MODULE_LOADING", "EAGER"}};
}

OwnRanksResult run_own_ranks(const OwnRanks& job) {
  PLUMB_CHECK(job.ranks > 0);
  const std::uint16_t port = free_port();
  Family family;
  for (std::uint32_t rank = 0; rank < job.ranks; ++rank) family.add(start(job, rank, port), rank);

  using Clock = std::chrono::steady_clock;
  OwnRanksResult result;
  Clock::time_point failed_at{};
  bool killing = false;
  int passed = 0;
  int orderly = 0;  // what ranks have ended with that were asked to
  while (!family.empty()) {
    const int signal = job.passed_on ? job.passed_on() : 0;
    if (signal != 0 && signal != passed) {
      passed = signal;
      family.signal_all(signal);
    }
    Family::Ended ended;
    if (family.reap(ended)) {
      const int code = code_of(ended.status);
      if (code == 0) continue;
      if (is_orderly(ended.status)) {
        orderly = code;
      } else if (result.failure.empty()) {
        result.exit_code = code;
        result.failure = failure_of(ended.rank, ended.status);
        failed_at = Clock::now();
      } else if (!killing && Clock::now() - failed_at < at_once && is_graver(code, result.exit_code)) {
        result.exit_code = code;
        result.failure = failure_of(ended.rank, ended.status);
      }
    } else if (!result.failure.empty() && Clock::now() > failed_at + job.grace &&
               !std::exchange(killing, true)) {
      family.kill_all();
    } else {
      if (!result.failure.empty() && family.kill_stopped(result.stopped)) killing = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  if (result.failure.empty()) result.exit_code = orderly;
  return result;
}

}  // namespace plumb
