// TCP with deadlines: nothing here blocks for longer than it was told to.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace plumb {

using Deadline = std::chrono::steady_clock::time_point;

/// A connected or listening socket, closed with its owner.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket();

  bool is_open() const { return descriptor_ >= 0; }
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_ = -1;
};

/// Listens on the port; on the loopback interface alone where the host is one of its names. Throws
/// DeviceError: the port is taken, and by what to replace it.
Socket listen_on(const std::string& host, std::uint16_t port);
/// The port that a listening socket has.
std::uint16_t port_of(const Socket& listener);
/// This side's address of a connection, as a number.
std::string local_address(const Socket& socket);
/// One connection that waits, or nothing until the deadline.
std::optional<Socket> accept_until(const Socket& listener, Deadline deadline);
/// Tries again until the deadline, for the listener may come later. Nothing where it never came; throws
/// BadInput for a host that nobody knows.
std::optional<Socket> connect_until(const std::string& host, std::uint16_t port, Deadline deadline);

enum class Io : std::uint8_t { done, timed_out, closed };
Io write_all(const Socket& socket, std::span<const std::byte> data, Deadline deadline);
Io read_all(const Socket& socket, std::span<std::byte> data, Deadline deadline);
/// What has come so far, as much of it as fits, without taking it; `closed` where the other side hung up.
struct Peeked {
  std::size_t bytes = 0;
  bool closed = false;
};
Peeked peek(const Socket& socket, std::span<std::byte> data);
/// Which of the sockets have something to read, or were closed; none at the deadline.
std::vector<bool> readable(const std::vector<const Socket*>& sockets, Deadline deadline);

}  // namespace plumb
