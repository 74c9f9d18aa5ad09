#include "tools/rank_processes.hpp"

#include "runtime/launch/last_word.hpp"
#include "runtime/launch/mps.hpp"
#include "runtime/launch/own_ranks.hpp"
#include "schedules/ir/error.hpp"
#include "tools/interrupt.hpp"
#include "tools/origin.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>
#include <string_view>

#include <fmt/format.h>
#include <unistd.h>

namespace plumb::tools {
namespace {

constexpr char between_fields = '\x1f';
constexpr char between_facts = '\x1e';

std::string to_line(const std::vector<Given>& given) {
  std::string line;
  for (const Given& fact : given) line += fact.what + between_fields + fact.value + between_facts;
  return line;
}

std::vector<Given> from_line(std::string_view line) {
  std::vector<Given> given;
  while (!line.empty()) {
    const std::string_view fact = line.substr(0, line.find(between_facts));
    line.remove_prefix(std::min(line.size(), fact.size() + 1));
    const auto field = std::min(fact.size(), fact.find(between_fields));
    given.push_back(
        {std::string(fact.substr(0, field)), std::string(fact.substr(std::min(fact.size(), field + 1)))});
  }
  return given;
}

// On rank 0, of what all were given: the first fact that is not alike.
std::string first_difference(const std::vector<std::string>& lines) {
  std::vector<std::vector<Given>> all;
  for (const std::string& line : lines) all.push_back(from_line(line));
  for (std::size_t k = 0; k < all[0].size(); ++k) {
    std::map<std::string, std::vector<std::uint32_t>> ranks_of;
    for (std::uint32_t rank = 0; rank < all.size(); ++rank) {
      if (k >= all[rank].size() || all[rank][k].what != all[0][k].what)
        return fmt::format("rank {} runs another version of plumb than rank 0", rank);
      ranks_of[all[rank][k].value].push_back(rank);
    }
    if (ranks_of.size() == 1) continue;
    std::string text = all[0][k].what + " must be the same on all ranks, and is ";
    std::string separator;
    for (const auto& [value, ranks] : ranks_of) {
      text +=
          fmt::format("{}{} on {} {}", std::exchange(separator, ", "), value.empty() ? "not there" : value,
                      ranks.size() == 1 ? "rank" : "ranks", rank_list(ranks));
    }
    return text;
  }
  return "";
}

}  // namespace

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

RankPlace place_ranks(const RankRequest& request) {
  PlacementFlags flags;
  flags.rank = request.rank;
  if (request.rank) flags.ranks = request.ranks;
  flags.rendezvous = request.rendezvous;
  RankPlace place;
  place.placement = discover(flags, process_environment(), getppid());
  place.gpus = request.gpus > 0 ? request.gpus : std::max(1u, visible_gpus());
  const bool gpu = request.device == RunDevice::cuda;
  if (gpu && request.processes)
    throw BadInput("--processes", "is for --device cpu; on GPUs --transport nccl is a process a rank");
  if (!gpu && request.transport == RunTransport::nccl)
    throw BadInput("--transport", "nccl is for --device cuda");
  if (place.placement.ranks > 1) {
    if (gpu && request.transport == RunTransport::local) {
      throw BadInput(
          "--transport",
          fmt::format("is local, all ranks in one process, but {} started {}; nccl is a process a rank",
                      place.placement.launcher, place.placement.ranks));
    }
    place.where = RankPlace::Where::process_each;
  } else if (request.ranks > 1 && (request.processes || request.transport == RunTransport::nccl)) {
    place.where = RankPlace::Where::process_each_to_start;
  }
  return place;
}

int start_ranks(const RankRequest& request, const RankPlace& place) {
  OwnRanks job;
  job.ranks = request.ranks;
  job.program = "/proc/self/exe";
  const std::vector<std::string> argv = origin().argv;
  job.arguments.assign(argv.begin() + std::min<std::ptrdiff_t>(1, std::ssize(argv)), argv.end());
  std::optional<Mps> mps;
  if (request.device == RunDevice::cuda) {
    require_gpu_workers();
    if (visible_gpus() == 0) throw DeviceError("there is no GPU here: the driver shows none");
    if (place.gpus < request.ranks) {
      job.environment = one_gpu_environment((request.ranks + place.gpus - 1) / place.gpus);
      if (!mps_is_running()) {
        mps.emplace();
        const auto more = mps->environment();
        job.environment.insert(job.environment.end(), more.begin(), more.end());
      }
    }
  }
  const InterruptWish wish;
  job.passed_on = [&] { return wish.signal(); };
  OwnRanksResult result = run_own_ranks(job);
  std::sort(result.stopped.begin(), result.stopped.end());
  // Stopped as asked, by us or by somebody who told a rank.
  if (result.failure.empty()) return result.exit_code;
  if (wish.signal() != 0 && result.exit_code == 128 + wish.signal()) return result.exit_code;
  if (!result.stopped.empty()) {
    throw DeviceError(fmt::format("{} {}, which somebody had stopped, {} killed",
                                  result.stopped.size() == 1 ? "rank" : "ranks", rank_list(result.stopped),
                                  result.stopped.size() == 1 ? "was" : "were"));
  }
  // A rank that ended by itself has said why.
  if (result.exit_code > 128) throw DeviceError(result.failure);
  return result.exit_code;
}

NcclOptions gpu_of(const RankPlace& place, bool shares) {
  NcclOptions options;
  options.lost = [](const std::string& why) { end_after(why); };
  options.device = place.placement.local_rank % place.gpus;
  // Whoever says only its own rank starts all of them on one machine.
  const std::uint32_t here =
      place.placement.launcher == "flags" ? place.placement.ranks : place.placement.local_ranks;
  const std::uint32_t sharing = (here + place.gpus - 1) / place.gpus;
  options.own_gpu = sharing == 1 && place.placement.ranks > 1;
  if (shares && sharing > 1) {
    options.shares = sharing;
    options.share = place.placement.local_rank / place.gpus;
  }
  return options;
}

std::string runs_on(const RankRequest& request, const RankPlace& place, bool shares, std::uint32_t rank) {
  const bool one_process = place.where == RankPlace::Where::this_process;
  if (request.device == RunDevice::cpu) return one_process ? "thread" : "process";
  if (request.transport == RunTransport::local) {
    return request.ranks == 1 ? "GPU 0"
                              : fmt::format("thread, GPU 0, share {} of {}", rank + 1, request.ranks);
  }
  // Which ranks are on which machine only their launcher knows.
  if (place.where == RankPlace::Where::process_each && place.placement.launcher != "flags")
    return fmt::format("process of {}, GPU by local rank", place.placement.launcher);
  const std::uint32_t gpu = rank % place.gpus;
  // Shares are equal, so that ranks are, also where a GPU has fewer of them than another.
  const std::uint32_t most = (request.ranks + place.gpus - 1) / place.gpus;
  if (shares && most > 1)
    return fmt::format("process, GPU {}, share {} of {}", gpu, rank / place.gpus + 1, most);
  const std::uint32_t sharing = (request.ranks - gpu + place.gpus - 1) / place.gpus;
  if (sharing == 1) return fmt::format("process, GPU {}", gpu);
  return fmt::format("process, GPU {} with {} others under MPS", gpu, sharing - 1);
}

std::string disagreement(Rendezvous& rendezvous, const std::vector<Given>& given) {
  const std::vector<std::string> all = rendezvous.gather(to_line(given));
  return rendezvous.broadcast(all.empty() ? "" : first_difference(all));
}

}  // namespace plumb::tools
