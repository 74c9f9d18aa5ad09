// What the messages of a DualPipe step need by themselves: a process a rank on one GPU, each with both of its
// neighbours exchanging MESSAGES messages each way (half of a step's microbatches forward, half backward).
//   nccl_messages RANKS MESSAGES BYTES [batched | shared-threads] [channels=N]
// Unless batched, every direction between two ranks has a communicator and a stream, as NcclTransport has;
// with shared-threads those are parts of two communicators, of the ways up and of the ways down.
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/communicator.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/launch/mps.hpp"
#include "runtime/launch/own_ranks.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <unistd.h>

using namespace plumb;

namespace {

constexpr int repetitions = 7;
constexpr std::chrono::milliseconds deadline{30'000};

struct Settings {
  std::uint32_t ranks = 0;
  std::uint32_t messages = 0;
  std::int64_t bytes = 0;
  std::uint32_t channels = 2;
  bool batched = false;
  bool threads = false;
};

Settings read(int argc, char** argv) {
  Settings s{static_cast<std::uint32_t>(std::stoul(argv[1])), static_cast<std::uint32_t>(std::stoul(argv[2])),
             std::stol(argv[3])};
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "batched") s.batched = true;
    if (word == "shared-threads") s.threads = true;
    if (word.starts_with("channels=")) s.channels = static_cast<std::uint32_t>(std::stoul(word.substr(9)));
  }
  return s;
}

/// One way between two ranks; batched, all ways share a communicator and a stream.
struct Way {
  bool send = false;
  std::uint32_t peer = 0;  // in the communicator
  device::Buffer data;
  std::shared_ptr<device::Communicator> communicator;
  std::shared_ptr<device::Stream> stream;
};

/// The communicators of some groups of ranks, on those ranks; all ids are exchanged at once.
std::vector<std::shared_ptr<device::Communicator>> connect(
    Rendezvous& rendezvous, const std::vector<std::vector<std::uint32_t>>& groups, std::uint32_t channels) {
  std::string mine;
  for (std::size_t g = 0; g < groups.size() && rendezvous.rank() == 0; ++g) {
    const device::CommunicatorId id = device::make_communicator_id();
    mine.append(reinterpret_cast<const char*>(id.data()), id.size());
  }
  const std::string ids = rendezvous.broadcast(mine);
  std::vector<std::shared_ptr<device::Communicator>> made(groups.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto place = std::find(groups[g].begin(), groups[g].end(), rendezvous.rank());
    if (place == groups[g].end()) continue;
    device::CommunicatorId id{};
    std::memcpy(id.data(), ids.data() + g * id.size(), id.size());
    made[g] = std::make_shared<device::Communicator>(id, static_cast<std::uint32_t>(groups[g].size()),
                                                     static_cast<std::uint32_t>(place - groups[g].begin()),
                                                     channels, deadline);
  }
  return made;
}

struct Ways {
  std::vector<std::shared_ptr<device::Communicator>> parents;
  std::vector<Way> all;
};

Ways connect_all(const Settings& s, Rendezvous& rendezvous) {
  Ways ways;
  const std::uint32_t own = rendezvous.rank();
  std::vector<std::uint32_t> everybody(s.ranks);
  std::iota(everybody.begin(), everybody.end(), 0U);
  const auto add = [&](std::uint32_t from, std::uint32_t to,
                       std::shared_ptr<device::Communicator> communicator,
                       std::shared_ptr<device::Stream> stream) {
    const bool send = own == from;
    const std::uint32_t peer = s.batched ? (send ? to : from) : (send ? 1 : 0);
    ways.all.push_back(
        {send, peer, device::Buffer(Bytes{s.bytes}), std::move(communicator), std::move(stream)});
  };
  const auto new_stream = [] { return std::make_shared<device::Stream>(device::Priority::high); };
  if (s.batched) {
    const auto all = connect(rendezvous, {everybody}, s.channels).front();
    const auto stream = new_stream();
    for (const std::uint32_t peer : {own - 1, own + 1}) {
      if (peer >= s.ranks) continue;
      add(own, peer, all, stream);
      add(peer, own, all, stream);
    }
  } else if (s.threads) {
    ways.parents = connect(rendezvous, {everybody, everybody}, s.channels);
    for (const bool up : {true, false}) {
      for (const std::uint32_t odd : {0U, 1U}) {  // neighbours' ways have a rank in common
        const std::uint32_t low = own % 2 == odd ? own : own - 1;
        const bool there = low < s.ranks && low + 1 < s.ranks;
        const std::uint32_t from = up ? low : low + 1, to = up ? low + 1 : low;
        std::optional<device::Communicator> part =
            ways.parents[up ? 0 : 1]->split(there ? std::optional(low) : std::nullopt, own == from ? 0 : 1);
        if (part) add(from, to, std::make_shared<device::Communicator>(std::move(*part)), new_stream());
      }
    }
  } else {
    std::vector<std::vector<std::uint32_t>> pairs;
    for (std::uint32_t low = 0; low + 1 < s.ranks; ++low) {
      pairs.push_back({low, low + 1});
      pairs.push_back({low + 1, low});
    }
    const auto made = connect(rendezvous, pairs, s.channels);
    for (std::size_t w = 0; w < made.size(); ++w) {
      if (made[w]) add(pairs[w][0], pairs[w][1], made[w], new_stream());
    }
  }
  return ways;
}

void exchange(const Settings& s, std::vector<Way>& ways) {
  for (std::uint32_t m = 0; m < s.messages; ++m) {
    if (s.batched) ways.front().communicator->begin_group();
    for (Way& way : ways) {
      if (!s.batched) way.communicator->begin_group();
      way.send ? way.communicator->send(way.data.data(), Bytes{s.bytes}, way.peer, *way.stream)
               : way.communicator->receive(way.data.data(), Bytes{s.bytes}, way.peer, *way.stream);
      if (!s.batched) way.communicator->end_group();
    }
    if (s.batched) ways.front().communicator->end_group();
  }
  for (Way& way : ways) way.stream->synchronize();
}

int be_rank(const Settings& s) {
  Rendezvous rendezvous(discover({}, process_environment(), getppid()), deadline);
  Ways ways = connect_all(s, rendezvous);
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    rendezvous.barrier();
    const auto begin = std::chrono::steady_clock::now();
    exchange(s, ways.all);
    rendezvous.barrier();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  if (rendezvous.rank() > 0) return 0;
  std::sort(times.begin() + 1, times.end());  // the first connects
  const double median = times[1 + (times.size() - 1) / 2];
  const double moved = 2.0 * (s.ranks - 1) * s.messages * static_cast<double>(s.bytes);
  std::printf(
      "messages %u ranks, %u of %ld bytes each way, %s, %u channels: median %.1f ms, from %.1f to %.1f, %.2f "
      "GB/s\n",
      s.ranks, s.messages, static_cast<long>(s.bytes),
      s.batched   ? "batched"
      : s.threads ? "shared threads"
                  : "per-op",
      s.channels, median, times[1], times.back(), moved / median / 1e6);
  return 0;
}

int launch(const Settings& s, int argc, char** argv) {
  std::optional<Mps> mps;
  OwnRanks job;
  job.ranks = s.ranks;
  job.program = "/proc/self/exe";
  job.arguments.assign(argv + 1, argv + argc);
  job.environment = one_gpu_environment(s.ranks);
  if (!mps_is_running()) {
    mps.emplace();
    for (auto& variable : mps->environment()) job.environment.push_back(std::move(variable));
  }
  const OwnRanksResult result = run_own_ranks(job);
  if (!result.failure.empty()) std::printf("%s\n", result.failure.c_str());
  return result.exit_code;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4) return std::fprintf(stderr, "see the first lines of nccl_messages.cpp\n"), 2;
  const Settings settings = read(argc, argv);
  return std::getenv("RANK") ? be_rank(settings) : launch(settings, argc, argv);
} catch (const std::exception& error) {
  std::fprintf(stderr, "rank %s: %s\n", std::getenv("RANK") ? std::getenv("RANK") : "-", error.what());
  return 3;
}
