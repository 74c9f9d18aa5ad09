// What the loopback interface itself needs to move a DualPipe step's messages: no GPU, no NCCL. One thread
// sends and one receives for each way between neighbouring ranks, one message behind the other.
//   loopback_sockets RANKS MESSAGES BYTES [sockets=N]
// sockets: each message is cut into N parts, with a connection and two threads of its own each.
#include "runtime/bootstrap/socket.hpp"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace plumb;

namespace {
constexpr int repetitions = 7;
constexpr std::chrono::seconds limit{60};

std::pair<Socket, Socket> connection() {
  const Deadline deadline = std::chrono::steady_clock::now() + limit;
  const Socket listener = listen_on("127.0.0.1", 0);
  std::optional<Socket> one = connect_until("127.0.0.1", port_of(listener), deadline);
  std::optional<Socket> other = accept_until(listener, deadline);
  if (!one || !other) throw std::runtime_error("no connection over loopback");
  return {std::move(*one), std::move(*other)};
}
}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4) return std::fprintf(stderr, "see the first lines of loopback_sockets.cpp\n"), 2;
  const auto ranks = static_cast<std::size_t>(std::stoul(argv[1]));
  const int messages = std::stoi(argv[2]);
  const auto bytes = static_cast<std::size_t>(std::stoul(argv[3]));
  std::size_t parts = 1;
  if (argc > 4 && std::string(argv[4]).starts_with("sockets="))
    parts = std::stoul(std::string(argv[4]).substr(8));

  const std::size_t ways = 2 * (ranks - 1) * parts;
  std::vector<std::pair<Socket, Socket>> connections;
  for (std::size_t i = 0; i < ways; ++i) connections.push_back(connection());
  std::barrier meet(static_cast<std::ptrdiff_t>(2 * ways + 1));
  std::vector<std::thread> threads;
  const std::size_t each = bytes / parts;
  const auto run = [&](auto body) {
    threads.emplace_back([&, body] {
      std::vector<std::byte> data(each, std::byte{1});
      for (int r = 0; r < repetitions; ++r) {
        meet.arrive_and_wait();
        const Deadline deadline = std::chrono::steady_clock::now() + limit;
        for (int m = 0; m < messages; ++m) {
          if (body(std::span(data), deadline) != Io::done) std::abort();
        }
        meet.arrive_and_wait();
      }
    });
  };
  for (const auto& [from, to] : connections) {
    run([&socket = from](std::span<std::byte> data, Deadline deadline) {
      return write_all(socket, data, deadline);
    });
    run([&socket = to](std::span<std::byte> data, Deadline deadline) {
      return read_all(socket, data, deadline);
    });
  }
  std::vector<double> times;
  for (int r = 0; r < repetitions; ++r) {
    meet.arrive_and_wait();
    const auto begin = std::chrono::steady_clock::now();
    meet.arrive_and_wait();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  for (std::thread& thread : threads) thread.join();
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  const double moved = static_cast<double>(ways) * messages * static_cast<double>(each);
  std::printf(
      "sockets %zu ranks, %d of %zu bytes each way, %zu connections a way: median %.1f ms, from %.1f to "
      "%.1f, %.2f GB/s\n",
      ranks, messages, bytes, parts, median, times.front(), times.back(), moved / median / 1e6);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "loopback_sockets: %s\n", error.what());
  return 3;
}
