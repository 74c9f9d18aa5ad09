// Ranks that compute on GPUs. A build without CUDA has the same functions, which say that it has none.
#pragma once
#include "runtime/gradient_check.hpp"
#include "runtime/training_data.hpp"
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

class Rendezvous;

struct GpuOptions {
  /// Into how many shares the GPU is cut; each worker has one. 0: as many as there are workers. A worker that
  /// is to compute bit by bit what another plan's workers do has to have a share as large as theirs.
  std::uint32_t shares = 0;
  /// How each shape of matrix product is computed (Calibration::algorithms). What is not there yet is chosen
  /// by trying, and added: two plans compute the same, and as fast, only with the same choices. Nothing:
  /// chosen anew.
  std::map<std::string, std::string>* algorithms = nullptr;
  /// Of a share, how many multiprocessors matrix products are not cut for: as NCCL's ranks leave them to its
  /// kernels, and who is to compute the same as they do leaves as many.
  std::uint32_t left_free = 0;
};

/// Throws DeviceError where plumb was built without CUDA. Touches no device.
void require_gpu_workers();

/// All workers of the plan in this process and on the current GPU, a thread each to run them: [copy x ranks +
/// rank]. Memory is allocated, kernels are loaded and matrix products are tried out here, so this takes
/// seconds; nothing of that happens in a step. Throws DeviceError where there is no GPU, it cannot be cut so
/// finely, or its memory does not suffice (with what is needed and what is there).
std::vector<std::unique_ptr<Worker>> make_gpu_workers(const TrainingPlan& plan,
                                                      const GpuOptions& options = {});

/// NCCL's communicators, kept from one worker of a process to the next: making them takes seconds. It is used
/// by one worker at a time and outlives it; after a worker has failed it is of no more use.
class NcclSession {
 public:
  NcclSession() = default;
  NcclSession(const NcclSession&) = delete;
  NcclSession& operator=(const NcclSession&) = delete;
  virtual ~NcclSession() = default;
};

/// Touches no device. Throws DeviceError where plumb was built without CUDA.
std::unique_ptr<NcclSession> make_nccl_session();

struct NcclOptions {
  std::uint32_t device = 0;  // of this machine
  /// Where several ranks have one GPU (under MPS): into how many shares it is cut, and which is this rank's.
  /// 0: all of it, which ranks then share as they come.
  std::uint32_t shares = 0;
  std::uint32_t share = 0;
  bool own_gpu = false;  // nobody else computes on it, and there are others to send to
  /// What NCCL's kernels have of the multiprocessors (device::MessageRoom); nothing: as suits shares and
  /// own_gpu. At most so many blocks of a message's kernel, and of one that adds up gradients;
  /// multiprocessors that products are not cut for; messages received ahead of their place.
  std::optional<std::uint32_t> channels = {}, sum_channels = {}, left_free = {};
  std::optional<bool> receives_ahead = {};
  /// Messages of all peers are moved by two of NCCL's host threads instead of one for each peer and
  /// direction. Nothing: where ranks share a GPU as they come, so that messages go through sockets, and this
  /// machine has fewer cores than all of them together would have such threads. (8 ranks on 16 cores: 28; a
  /// DualPipe step took 395 ms with them and 360 with shared ones.)
  std::optional<bool> shared_threads = {};
  std::map<std::string, std::string>* algorithms = nullptr;  // as in GpuOptions
  NcclSession* session = nullptr;                            // all processes have one, or none has
  /// Told what is begun while a worker is made (`communicators`), for people who wait.
  std::function<void(const std::string& what)> begins = nullptr;
  /// Told, from whichever thread finds out, that this rank has given up, and why: before it ends its
  /// messages, which may never return where another rank is frozen. Also where the rank's thread makes no
  /// headway in the middle of a step for longer than the deadline, so that it will not find out itself.
  std::function<void(const std::string& why)> lost = nullptr;
};

/// What a rank leaves free (GpuOptions).
std::uint32_t left_free(const NcclOptions& options);

/// This process's worker, of copy x ranks + rank == rendezvous.rank(). Together with all others, and as slow
/// as make_gpu_workers. Products that are chosen here are chosen alike on all ranks, and all ranks know them.
/// The rendezvous outlives it, and belongs to the thread that runs the worker.
std::unique_ptr<Worker> make_nccl_worker(const TrainingPlan& plan, Rendezvous& rendezvous,
                                         const NcclOptions& options = {});

/// run_unpipelined of gradient_check.hpp, computed on the current GPU: the host would take hours for the
/// models that a GPU is for. Microbatch after microbatch, copy after copy, through the model in one piece.
/// With as many shares and the same algorithms as the pipeline it is the same operations; where a pipeline
/// also adds in the same order (one owner a stage), the same bits.
Unpipelined run_unpipelined_on_gpu(const TrainingPlan& plan, const TrainingData& data, std::uint64_t step,
                                   const GpuOptions& options);

}  // namespace plumb
