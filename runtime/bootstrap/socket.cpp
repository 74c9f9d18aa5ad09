#include "runtime/bootstrap/socket.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace plumb {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

int milliseconds_until(Deadline deadline) {
  const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

// Whether the descriptor is ready for `events` before the deadline.
bool wait_for(int descriptor, short events, Deadline deadline) {
  for (;;) {
    pollfd one{descriptor, events, 0};
    const int ready = poll(&one, 1, milliseconds_until(deadline));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return true;  // let the call itself say what is wrong
    if (steady_clock::now() >= deadline) return false;
  }
}

void prepare(int descriptor) {
  const int on = 1;
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
  fcntl(descriptor, F_SETFD, FD_CLOEXEC);
}

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Addresses addresses_of(const char* host, std::uint16_t port, int flags, int& status) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  status = getaddrinfo(host, std::to_string(port).c_str(), &hints, &list);
  return Addresses(status == 0 ? list : nullptr);
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

Socket open_socket(const addrinfo& address) {
  Socket socket(::socket(address.ai_family, address.ai_socktype, address.ai_protocol));
  if (socket.is_open()) prepare(socket.descriptor());
  return socket;
}

// Whether the connection stands before the deadline.
bool connects(const Socket& socket, const addrinfo& address, Deadline deadline) {
  if (connect(socket.descriptor(), address.ai_addr, address.ai_addrlen) == 0) return true;
  if (errno != EINPROGRESS || !wait_for(socket.descriptor(), POLLOUT, deadline)) return false;
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

}  // namespace

Socket::~Socket() {
  if (descriptor_ >= 0) close(descriptor_);
}

Socket listen_on(const std::string& host, std::uint16_t port) {
  int status = 0;
  const char* const name = is_loopback(host) ? host.c_str() : nullptr;
  const Addresses list = addresses_of(name, port, AI_PASSIVE, status);
  int error = status == 0 ? EADDRNOTAVAIL : EINVAL;
  // The wildcard of IPv6 takes IPv4 as well; where there is no IPv6 the list has the other.
  for (const int family : {AF_INET6, AF_INET}) {
    for (const addrinfo* address = list.get(); address != nullptr; address = address->ai_next) {
      if (address->ai_family != family) continue;
      Socket socket = open_socket(*address);
      if (!socket.is_open()) continue;
      const int on = 1;
      const int off = 0;
      setsockopt(socket.descriptor(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      if (family == AF_INET6) setsockopt(socket.descriptor(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
      if (bind(socket.descriptor(), address->ai_addr, address->ai_addrlen) == 0 &&
          listen(socket.descriptor(), SOMAXCONN) == 0) {
        return socket;
      }
      error = errno;
    }
  }
  throw DeviceError(
      fmt::format("rendezvous: rank 0 cannot listen on port {}: {}; MASTER_PORT or --rendezvous HOST:PORT "
                  "choose another",
                  port, std::strerror(error)));
}

std::uint16_t port_of(const Socket& listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(listener.descriptor(), reinterpret_cast<sockaddr*>(&address), &size);
  return address.ss_family == AF_INET6 ? ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port)
                                       : ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

std::string local_address(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  std::array<char, NI_MAXHOST> name{};
  if (getsockname(socket.descriptor(), reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, name.data(), name.size(), nullptr, 0,
                  NI_NUMERICHOST) != 0)
    throw DeviceError(fmt::format("rendezvous: a connection without an address: {}", std::strerror(errno)));
  const std::string text = name.data();
  // An IPv4 address on a socket of both kinds.
  return text.starts_with("::ffff:") ? text.substr(7) : text;
}

std::optional<Socket> accept_until(const Socket& listener, Deadline deadline) {
  while (wait_for(listener.descriptor(), POLLIN, deadline)) {
    Socket socket(accept(listener.descriptor(), nullptr, nullptr));
    if (!socket.is_open()) {
      if (steady_clock::now() >= deadline) break;
      continue;
    }
    prepare(socket.descriptor());
    return socket;
  }
  return std::nullopt;
}

std::optional<Socket> connect_until(const std::string& host, std::uint16_t port, Deadline deadline) {
  for (milliseconds pause{5};; pause = std::min(pause * 2, milliseconds{250})) {
    int status = 0;
    const Addresses list = addresses_of(host.c_str(), port, 0, status);
    if (status == EAI_NONAME) {
      throw BadInput("rendezvous", fmt::format("no machine is called '{}'", host.substr(0, 100)));
    }
    for (const addrinfo* address = list.get(); address != nullptr; address = address->ai_next) {
      Socket socket = open_socket(*address);
      if (socket.is_open() && connects(socket, *address, deadline)) return socket;
    }
    if (steady_clock::now() + pause >= deadline) return std::nullopt;
    std::this_thread::sleep_for(pause);
  }
}

Io write_all(const Socket& socket, std::span<const std::byte> data, Deadline deadline) {
  while (!data.empty()) {
    const ssize_t n = send(socket.descriptor(), data.data(), data.size(), MSG_NOSIGNAL);
    if (n > 0) {
      data = data.subspan(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
      if (!wait_for(socket.descriptor(), POLLOUT, deadline)) return Io::timed_out;
    } else {
      return Io::closed;
    }
  }
  return Io::done;
}

Io read_all(const Socket& socket, std::span<std::byte> data, Deadline deadline) {
  while (!data.empty()) {
    const ssize_t n = recv(socket.descriptor(), data.data(), data.size(), 0);
    if (n > 0) {
      data = data.subspan(static_cast<std::size_t>(n));
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
      if (!wait_for(socket.descriptor(), POLLIN, deadline)) return Io::timed_out;
    } else {
      return Io::closed;
    }
  }
  return Io::done;
}

Peeked peek(const Socket& socket, std::span<std::byte> data) {
  const ssize_t n = recv(socket.descriptor(), data.data(), data.size(), MSG_PEEK | MSG_DONTWAIT);
  if (n > 0) return {static_cast<std::size_t>(n), false};
  return {0, n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)};
}

std::vector<bool> readable(const std::vector<const Socket*>& sockets, Deadline deadline) {
  std::vector<pollfd> all;
  for (const Socket* socket : sockets) all.push_back({socket->descriptor(), POLLIN, 0});
  std::vector<bool> ready(sockets.size(), false);
  for (;;) {
    const int count = poll(all.data(), all.size(), milliseconds_until(deadline));
    if (count > 0 || (count < 0 && errno != EINTR)) break;
    if (steady_clock::now() >= deadline) return ready;
  }
  for (std::size_t k = 0; k < all.size(); ++k) ready[k] = all[k].revents != 0;
  return ready;
}

}  // namespace plumb
