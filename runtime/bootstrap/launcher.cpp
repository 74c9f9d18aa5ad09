#include "runtime/bootstrap/launcher.hpp"

#include "schedules/ir/error.hpp"

#include <array>
#include <charconv>
#include <cstdlib>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::uint32_t most_ranks = 65'536;

std::uint64_t number(std::string_view text, std::string_view what, std::uint64_t least, std::uint64_t most) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
    throw BadInput(what,
                   fmt::format("is '{}', expected a number from {} to {}", text.substr(0, 40), least, most));
  }
  return value;
}

// The variables in which a launcher says who we are.
struct Dialect {
  std::string_view launcher;
  std::string_view rank;
  std::string_view ranks;
  std::string_view local_rank;
  std::string_view local_ranks;
};
constexpr std::array<Dialect, 4> dialects{{
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""},
}};

bool speaks(const Dialect& dialect, const Environment& environment) {
  if (!environment(dialect.rank) || !environment(dialect.ranks)) return false;
  return dialect.launcher != "Slurm" || environment("SLURM_STEP_ID").has_value();
}

Placement placement_of(const Dialect& dialect, const Environment& environment) {
  const auto read = [&](std::string_view name, std::uint64_t least, std::uint64_t most) {
    return static_cast<std::uint32_t>(number(*environment(name), name, least, most));
  };
  Placement placement;
  placement.launcher = dialect.launcher;
  placement.ranks = read(dialect.ranks, 1, most_ranks);
  placement.rank = read(dialect.rank, 0, placement.ranks - 1);
  if (environment(dialect.local_rank)) placement.local_rank = read(dialect.local_rank, 0, most_ranks);
  if (!dialect.local_ranks.empty() && environment(dialect.local_ranks)) {
    placement.local_ranks = read(dialect.local_ranks, 1, most_ranks);
  } else if (dialect.launcher == "Slurm" && environment("SLURM_STEP_NUM_NODES") == "1") {
    placement.local_ranks = placement.ranks;
  }
  return placement;
}

Placement from_flags(const PlacementFlags& flags) {
  Placement placement;
  placement.launcher = "flags";
  if (!flags.rank) {
    // --ranks alone is how many ranks one process plays.
    placement.launcher = "single";
    return placement;
  }
  if (!flags.ranks) throw BadInput("--rank", "needs --ranks, the number of them");
  placement.ranks = *flags.ranks;
  placement.rank = *flags.rank;
  if (placement.ranks == 0 || placement.rank >= placement.ranks) {
    throw BadInput(
        "--rank", fmt::format("is {} of {} ranks; they are counted from 0", placement.rank, placement.ranks));
  }
  placement.local_rank = flags.local_rank.value_or(placement.rank);
  return placement;
}

// What tells this launch from any other.
std::string job_name(const Environment& environment, bool all_here, std::int64_t parent) {
  if (const auto name = environment("PLUMB_JOB")) return *name;
  if (const auto name = environment("TORCHELASTIC_RUN_ID"); name && name != "none") return *name;
  if (const auto name = environment("PMIX_NAMESPACE")) return *name;
  const auto job = environment("SLURM_JOB_ID");
  if (const auto step = environment("SLURM_STEP_ID"); job && step) return *job + "." + *step;
  // One machine: the launcher's own process started them all.
  return all_here ? fmt::format("parent {}", parent) : "job";
}

std::uint16_t port_of(std::string_view job) {
  std::uint32_t hash = 2'166'136'261u;  // FNV-1a
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 16'777'619u;
  // Below the range from which systems hand out ports of their own.
  return static_cast<std::uint16_t>(21'000 + hash % 10'000);
}

// Of `4213243904.0;tcp://172.17.0.2,10.0.0.2:41355`, Open MPI's address of mpirun itself: where rank 0 is,
// unless somebody sent it elsewhere.
std::string host_of_mpirun(std::string_view uri) {
  const auto scheme = uri.find("tcp://");
  if (scheme == std::string_view::npos) return "";
  const std::string_view rest = uri.substr(scheme + 6);
  return std::string(rest.substr(0, rest.find_first_of(",:;")));
}

void find_meeting_place(Placement& placement, const PlacementFlags& flags, const Environment& environment,
                        std::int64_t parent) {
  const bool all_here = placement.local_ranks == placement.ranks;
  placement.job = job_name(environment, all_here, parent);
  if (!flags.rendezvous.empty()) {
    const auto colon = flags.rendezvous.rfind(':');
    if (colon == std::string::npos || colon == 0) {
      throw BadInput("--rendezvous", fmt::format("is '{}', expected HOST:PORT", flags.rendezvous));
    }
    placement.host = flags.rendezvous.substr(0, colon);
    if (placement.host.starts_with('[') && placement.host.ends_with(']')) {
      placement.host = placement.host.substr(1, placement.host.size() - 2);
    }
    placement.port =
        static_cast<std::uint16_t>(number(flags.rendezvous.substr(colon + 1), "--rendezvous", 1, 65'535));
    // Whoever is told where to meet is told so for this launch.
    placement.job = environment("PLUMB_JOB").value_or(flags.rendezvous);
    return;
  }
  placement.port = port_of(placement.job);
  if (const auto port = environment("MASTER_PORT")) {
    placement.port = static_cast<std::uint16_t>(number(*port, "MASTER_PORT", 1, 65'534) + 1);
  }
  const auto nodes = environment("SLURM_STEP_ID") ? environment("SLURM_STEP_NODELIST") : std::nullopt;
  const auto mpirun = environment("OMPI_MCA_orte_hnp_uri");
  if (const auto address = environment("MASTER_ADDR")) {
    placement.host = *address;
  } else if (all_here) {
    placement.host = "127.0.0.1";
  } else if (placement.launcher == "Open MPI" && mpirun && !host_of_mpirun(*mpirun).empty()) {
    placement.host = host_of_mpirun(*mpirun);
  } else if (nodes) {
    placement.host = first_host(*nodes);
  } else {
    throw BadInput(
        "MASTER_ADDR",
        fmt::format("is not set, and {} does not say on which machine rank 0 runs; set it to that machine's "
                    "name, or give --rendezvous HOST:PORT",
                    placement.launcher == "flags" ? "--rank" : placement.launcher));
  }
}

}  // namespace

Environment process_environment() {
  return [](std::string_view name) -> std::optional<std::string> {
    const char* value = std::getenv(std::string(name).c_str());
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  };
}

std::string first_host(std::string_view node_list) {
  const auto end = node_list.find_first_of(",[");
  std::string host(node_list.substr(0, end));
  if (end == std::string_view::npos || node_list[end] == ',') return host;
  const std::string_view range = node_list.substr(end + 1);
  host += range.substr(0, range.find_first_of("-,]"));
  const auto close = range.find(']');
  // What stands behind the bracket belongs to every host: `rack[1-2]-gpu`.
  if (close != std::string_view::npos) {
    const std::string_view rest = range.substr(close + 1);
    host += rest.substr(0, rest.find_first_of(",["));
  }
  return host;
}

Placement discover(const PlacementFlags& flags, const Environment& environment, std::int64_t parent) {
  Placement placement;
  placement.launcher = "single";
  if (flags.rank) {
    placement = from_flags(flags);
  } else {
    for (const Dialect& dialect : dialects) {
      if (!speaks(dialect, environment)) continue;
      placement = placement_of(dialect, environment);
      break;
    }
  }
  if (placement.ranks > 1) find_meeting_place(placement, flags, environment, parent);
  return placement;
}

}  // namespace plumb
