// Where the ranks of a command run: in this process, or in a process each, which a launcher has started or we
// start ourselves.
#pragma once
#include "runtime/bootstrap/launcher.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/gpu_workers.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace plumb::tools {

enum class RunDevice : std::uint8_t { cuda, cpu };
enum class RunTransport : std::uint8_t { local, nccl };

/// What the command line says of it.
struct RankRequest {
  std::uint32_t ranks = 1;  // of all copies of the pipeline
  RunDevice device = RunDevice::cuda;
  RunTransport transport = RunTransport::local;
  bool processes = false;             // on the CPU: a process a rank even where nobody has started them
  std::optional<std::uint32_t> rank;  // without a launcher: which of them this process is
  std::string rendezvous;             // HOST:PORT
  std::uint32_t gpus = 0;             // of this machine, to be used; 0: all that are visible
};

struct RankPlace {
  enum class Where : std::uint8_t { this_process, process_each, process_each_to_start };
  Where where = Where::this_process;
  Placement placement;
  std::uint32_t gpus = 1;
};

/// Throws BadInput for what cannot be: all ranks in one process, of which a launcher has started several.
RankPlace place_ranks(const RankRequest& request);

/// Starts the ranks on this machine as this very command, under an MPS of their own where they share a GPU
/// and there is none, and returns the exit code when all have ended. Ctrl-C and SIGTERM are passed on to
/// them. A rank that was killed is named (DeviceError).
int start_ranks(const RankRequest& request, const RankPlace& place);

/// The GPU of a rank. Its machine's ranks are dealt out over the GPUs; `shares`: those on one GPU have a part
/// of its multiprocessors each, and otherwise use all of it as they come.
NcclOptions gpu_of(const RankPlace& place, bool shares);

/// Where a rank is to run, in words, before anything is touched: `a thread`, `process, GPU 0 with 3 others`.
std::string runs_on(const RankRequest& request, const RankPlace& place, bool shares, std::uint32_t rank);

/// Something that every rank must have been given alike: a flag, or what it led to.
struct Given {
  std::string what;
  std::string value;
};

/// Together: what the ranks were not given alike, with who was given what; empty where all is well. The same
/// text on every rank.
std::string disagreement(Rendezvous& rendezvous, const std::vector<Given>& given);

/// GPUs that the driver shows and CUDA_VISIBLE_DEVICES leaves; asks no library.
std::uint32_t visible_gpus();

}  // namespace plumb::tools
