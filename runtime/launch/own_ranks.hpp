// Starts all ranks of a job on this machine, as processes of this program: what `plumb run --ranks 8` does
// where no launcher has.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace plumb {

struct OwnRanks {
  std::uint32_t ranks = 1;
  std::string program;                 // to execute; a path, or looked up in PATH
  std::vector<std::string> arguments;  // behind its name, the same for every rank
  /// Beside torchrun's variables, by which each finds its place.
  std::vector<std::pair<std::string, std::string>> environment;
  /// How long the others get to end by themselves once a rank has failed; then they are killed, and at once
  /// where they are stopped (SIGSTOP).
  std::chrono::milliseconds grace{5000};
  /// Asked again and again: a signal that the ranks are to be sent as well, or 0. They are in process groups
  /// of their own, so that Ctrl-C at a terminal reaches them this way alone.
  std::function<int()> passed_on = nullptr;
};

struct OwnRanksResult {
  /// Of the rank that failed first; of several at once, of one that was killed, or else of the smallest code,
  /// for bad input is what makes others fail. 0 where none did; or 130 or 143, with which ranks exit that
  /// were asked to stop, and that is no failure. A rank killed by a signal counts as 128 + the signal, as in
  /// a shell.
  int exit_code = 0;
  std::vector<std::uint32_t> stopped;  // ranks that stood still (SIGSTOP) when another failed
  std::string failure;                 // `rank 3 was killed by signal 9 (Killed)`; empty where none failed
};

/// Returns when all of them have ended. They share this process's standard streams. Nobody is left behind: a
/// rank that outlives the grace is killed, and all are killed when this process dies, however it does. Throws
/// DeviceError where a process cannot be started.
OwnRanksResult run_own_ranks(const OwnRanks& job);

/// What a rank's environment needs where `ranks` of them share one GPU. NCCL has to tell them apart: each is
/// a host of its own to it, reached over loopback. And MPS refuses clients (cudaSetDevice says "out of
/// memory", its server.log "Reached maximum number of device connections") once the hardware queues of all of
/// them are taken: an H200 has enough for three or four processes of 32, so each gets its part of 80.
std::vector<std::pair<std::string, std::string>> one_gpu_environment(std::uint32_t ranks);

}  // namespace plumb
