// A process a rank: as a launcher started them, or started by ourselves where none did.
#pragma once
#include "runtime/bootstrap/launcher.hpp"

#include <cstdint>
#include <optional>

namespace plumb::tools {

/// For a command that needs `ranks` processes. Where a launcher made this one of them: nothing, and the
/// caller goes on as the rank that `placement` says. Where none did, all ranks are started on this machine as
/// this very command, under an MPS of their own where there are fewer GPUs than ranks; when they have ended,
/// their exit code. Throws BadInput where the launcher started another number of ranks, DeviceError where a
/// rank could not be started or was killed.
std::optional<int> run_own_ranks_unless_launched(std::uint32_t ranks, const Placement& placement);

/// GPUs that the driver shows and CUDA_VISIBLE_DEVICES leaves; asks no library.
std::uint32_t visible_gpus();

}  // namespace plumb::tools
