// What the messages of a DualPipe step need by themselves: a process a rank on one GPU, each with both of its
// neighbours exchanging MESSAGES messages each way (half of a step's microbatches forward, half backward).
//   nccl_messages RANKS MESSAGES BYTES [batched] [channels=N]
// Unless batched, every direction between two ranks has a communicator and a stream, as NcclTransport has.
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
#include <map>
#include <memory>
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
};

Settings read(int argc, char** argv) {
  Settings s{static_cast<std::uint32_t>(std::stoul(argv[1])), static_cast<std::uint32_t>(std::stoul(argv[2])),
             std::stol(argv[3])};
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "batched") s.batched = true;
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

std::shared_ptr<device::Communicator> connect(Rendezvous& rendezvous, const std::vector<std::uint32_t>& ranks,
                                              std::uint32_t channels) {
  const auto place = std::find(ranks.begin(), ranks.end(), rendezvous.rank());
  std::string mine;
  if (rendezvous.rank() == ranks.front()) {
    const device::CommunicatorId id = device::make_communicator_id();
    mine.assign(reinterpret_cast<const char*>(id.data()), id.size());
  }
  std::string found;
  for (const std::string& one : rendezvous.gather(mine)) found += one;
  found = rendezvous.broadcast(found);
  if (place == ranks.end()) return nullptr;
  device::CommunicatorId id{};
  std::memcpy(id.data(), found.data(), id.size());
  return std::make_shared<device::Communicator>(id, static_cast<std::uint32_t>(ranks.size()),
                                                static_cast<std::uint32_t>(place - ranks.begin()), channels,
                                                deadline);
}

std::vector<Way> connect_all(const Settings& s, Rendezvous& rendezvous) {
  std::vector<Way> ways;
  std::shared_ptr<device::Communicator> all;
  std::shared_ptr<device::Stream> stream;
  if (s.batched) {
    std::vector<std::uint32_t> ranks;
    for (std::uint32_t r = 0; r < s.ranks; ++r) ranks.push_back(r);
    all = connect(rendezvous, ranks, s.channels);
    stream = std::make_shared<device::Stream>(device::Priority::high);
  }
  for (std::uint32_t low = 0; low + 1 < s.ranks; ++low) {
    for (const bool up : {true, false}) {
      const std::uint32_t from = up ? low : low + 1, to = up ? low + 1 : low;
      std::shared_ptr<device::Communicator> own = all;
      if (!s.batched) own = connect(rendezvous, {from, to}, s.channels);
      if (rendezvous.rank() != from && rendezvous.rank() != to) continue;
      const bool send = rendezvous.rank() == from;
      const std::uint32_t peer = s.batched ? (send ? to : from) : (send ? 1 : 0);
      ways.push_back({send, peer, device::Buffer(Bytes{s.bytes}), own,
                      s.batched ? stream : std::make_shared<device::Stream>(device::Priority::high)});
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
  std::vector<Way> ways = connect_all(s, rendezvous);
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    rendezvous.barrier();
    const auto begin = std::chrono::steady_clock::now();
    exchange(s, ways);
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
      s.ranks, s.messages, static_cast<long>(s.bytes), s.batched ? "batched" : "per-op", s.channels, median,
      times[1], times.back(), moved / median / 1e6);
  return 0;
}

int launch(const Settings& s, int argc, char** argv) {
  std::optional<Mps> mps;
  OwnRanks job{s.ranks,
               "/proc/self/exe",
               {argv + 1, argv + argc},
               one_gpu_environment(s.ranks),
               std::chrono::seconds{8}};
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
