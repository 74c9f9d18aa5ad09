// Which rank of how many this process is, whoever started it, and where its ranks can meet. No MPI is linked:
// every launcher says it in the environment.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace plumb {

/// Reads a variable; tests pass their own.
using Environment = std::function<std::optional<std::string>(std::string_view name)>;
Environment process_environment();

/// What the command line said, which wins over every launcher.
struct PlacementFlags {
  std::optional<std::uint32_t> rank;
  std::optional<std::uint32_t> ranks;
  std::optional<std::uint32_t> local_rank;
  std::string rendezvous;  // HOST:PORT, or empty
};

struct Placement {
  std::uint32_t rank = 0;
  std::uint32_t ranks = 1;
  std::uint32_t local_rank = 0;   // among the ranks on this machine
  std::uint32_t local_ranks = 1;  // as far as the launcher says
  std::string launcher;           // `flags`, `torchrun`, `Open MPI`, `PMI`, `Slurm`, `single`
  std::string host;               // of rank 0, where all ranks meet; empty for a single one
  std::uint16_t port = 0;
  std::string job;  // names this launch, so that two jobs on one machine don't mix
  bool operator==(const Placement&) const = default;
};

/// Flags, then torchrun (RANK, WORLD_SIZE), Open MPI (OMPI_COMM_WORLD_*), PMI (PMI_RANK, PMI_SIZE: MPICH,
/// Intel MPI), Slurm, but only inside a step (a plain batch script has SLURM_PROCID and is alone), then a
/// single rank. The ranks meet at --rendezvous, or at MASTER_ADDR and the port after MASTER_PORT (torchrun
/// itself holds that one), or where the launcher lets us see rank 0's machine, at a port made from the job's
/// name. `parent` is the parent's process id, which names the job where one machine holds it all and nothing
/// else does. Throws BadInput that names the variable, or says what to set where nobody knows the machine of
/// rank 0.
Placement discover(const PlacementFlags& flags, const Environment& environment, std::int64_t parent);

/// The first host of a Slurm node list: `gpu[03-05,9],login` → `gpu03`.
std::string first_host(std::string_view node_list);

}  // namespace plumb
