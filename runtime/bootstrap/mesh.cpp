#include "runtime/bootstrap/mesh.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <sstream>
#include <string>

#include <fmt/format.h>

namespace plumb {
namespace {

// What whoever connects says first: strangers don't know the job's token.
struct Hello {
  std::uint64_t token = 0;
  std::uint32_t rank = 0;
  std::uint32_t reserved = 0;
};

std::uint64_t random_token() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

struct Place {
  std::string host;
  std::uint16_t port = 0;
};

// Where each rank listens, and the token, as every rank reads them.
std::string joined(const std::vector<std::string>& places, std::uint64_t token) {
  std::string text = std::to_string(token);
  for (const std::string& place : places) text += "\n" + place;
  return text;
}

std::vector<Place> read(const std::string& text, std::uint64_t& token) {
  std::vector<Place> places;
  std::istringstream lines(text);
  lines >> token;
  for (Place place; lines >> place.host >> place.port;) places.push_back(place);
  return places;
}

}  // namespace

std::vector<Socket> connect_all(Rendezvous& rendezvous) {
  const std::uint32_t own = rendezvous.rank();
  const std::uint32_t ranks = rendezvous.ranks();
  const Deadline until = std::chrono::steady_clock::now() + rendezvous.limit();
  const Socket listener = listen_on(rendezvous.host(), 0);
  const auto all = rendezvous.gather(fmt::format("{} {}", rendezvous.address(), port_of(listener)));
  std::uint64_t token = 0;
  const std::vector<Place> places =
      read(rendezvous.broadcast(own == 0 ? joined(all, random_token()) : ""), token);
  PLUMB_CHECK(places.size() == ranks);

  // Connections wait in the listener's queue, so everybody may connect before anybody accepts.
  std::vector<Socket> peers(ranks);
  for (std::uint32_t rank = 0; rank < own; ++rank) {
    const Place& place = places[rank];
    std::optional<Socket> socket = connect_until(place.host, place.port, until);
    const Hello hello{token, own, 0};
    if (!socket || write_all(*socket, std::as_bytes(std::span(&hello, 1)), until) != Io::done) {
      throw DeviceError(
          fmt::format("rank {} cannot reach rank {} at {}:{}; is there a firewall between them?", own, rank,
                      place.host, place.port));
    }
    peers[rank] = std::move(*socket);
  }
  for (std::uint32_t come = own + 1; come < ranks;) {
    std::optional<Socket> socket = accept_until(listener, until);
    if (!socket) {
      std::vector<std::uint32_t> missing;
      for (std::uint32_t rank = own + 1; rank < ranks; ++rank) {
        if (!peers[rank].is_open()) missing.push_back(rank);
      }
      throw DeviceError(fmt::format("{} not connected to rank {} at {}:{}; is there a firewall between them?",
                                    missing.size() == 1 ? "rank " + rank_list(missing) + " has"
                                                        : "ranks " + rank_list(missing) + " have",
                                    own, rendezvous.address(), port_of(listener)));
    }
    // Who connects and says nothing must not keep the others waiting for long.
    const Deadline soon = std::min(until, std::chrono::steady_clock::now() + std::chrono::seconds{2});
    Hello hello;
    if (read_all(*socket, std::as_writable_bytes(std::span(&hello, 1)), soon) != Io::done) continue;
    if (hello.token != token || hello.rank <= own || hello.rank >= ranks || peers[hello.rank].is_open())
      continue;
    peers[hello.rank] = std::move(*socket);
    ++come;
  }
  return peers;
}

}  // namespace plumb
