#include "tools/rank_processes.hpp"

#include "runtime/launch/mps.hpp"
#include "runtime/launch/own_ranks.hpp"
#include "schedules/ir/error.hpp"
#include "tools/interrupt.hpp"
#include "tools/origin.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string_view>

#include <fmt/format.h>

namespace plumb::tools {

std::uint32_t visible_gpus() {
  std::error_code error;
  const std::filesystem::directory_iterator all("/proc/driver/nvidia/gpus", error);
  const auto present = error ? 0 : std::distance(begin(all), end(all));
  const char* const chosen = std::getenv("CUDA_VISIBLE_DEVICES");
  if (chosen == nullptr) return static_cast<std::uint32_t>(present);
  const std::string_view list = chosen;
  const auto named = list.empty() ? 0 : std::count(list.begin(), list.end(), ',') + 1;
  return static_cast<std::uint32_t>(std::min<std::ptrdiff_t>(present, named));
}

std::optional<int> run_own_ranks_unless_launched(std::uint32_t ranks, const Placement& placement) {
  if (placement.ranks == ranks) return std::nullopt;
  if (placement.launcher != "single") {
    throw BadInput("--ranks", fmt::format("is {}, but {} started {} processes", ranks, placement.launcher,
                                          placement.ranks));
  }
  OwnRanks job;
  job.ranks = ranks;
  job.program = "/proc/self/exe";
  const std::vector<std::string> argv = origin().argv;
  job.arguments.assign(argv.begin() + std::min<std::ptrdiff_t>(1, std::ssize(argv)), argv.end());
  std::optional<Mps> mps;
  if (visible_gpus() < ranks) {
    job.environment = one_gpu_environment(ranks);
    if (!mps_is_running()) {
      mps.emplace();
      const auto more = mps->environment();
      job.environment.insert(job.environment.end(), more.begin(), more.end());
    }
  }
  // Ctrl-C reaches the ranks as well: they end with what they have, and this process after them.
  const InterruptWish wish;
  const OwnRanksResult result = run_own_ranks(job);
  // A rank that ended by itself has said why.
  if (result.exit_code > 128) throw DeviceError(result.failure);
  return result.exit_code;
}

}  // namespace plumb::tools
