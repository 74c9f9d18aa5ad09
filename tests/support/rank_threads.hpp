// Ranks as threads of one process that meet over loopback.
#pragma once
#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"

#include <chrono>
#include <cstdint>
#include <future>
#include <string>
#include <vector>

namespace plumb::test {

/// What each rank's thread returned, or the text of the DeviceError it threw.
template <class Body>
std::vector<std::string> run_ranks(std::uint32_t ranks, const Body& body,
                                   std::chrono::milliseconds deadline = std::chrono::seconds{20}) {
  const std::uint16_t port = port_of(listen_on("127.0.0.1", 0));
  std::vector<std::future<std::string>> threads;
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    threads.push_back(std::async(std::launch::async, [=, &body]() -> std::string {
      try {
        Rendezvous rendezvous({rank, ranks, rank, ranks, "test", "127.0.0.1", port, "test"}, deadline);
        return body(rendezvous);
      } catch (const DeviceError& error) {
        return error.what();
      }
    }));
  }
  std::vector<std::string> out;
  for (auto& thread : threads) out.push_back(thread.get());
  return out;
}

}  // namespace plumb::test
