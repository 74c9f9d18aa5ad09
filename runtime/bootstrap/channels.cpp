#include "runtime/bootstrap/channels.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace plumb {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds patience_at_the_end{1000};
constexpr std::uint64_t largest_text = 1u << 30;

bool later(ssize_t n) { return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR); }

}  // namespace

Channels::Channels(std::vector<Socket> sockets, FrameHandler& handler, milliseconds between_ticks)
    : handler_(handler),
      between_ticks_(between_ticks),
      peers_(sockets.size()),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wake_.is_open()) throw DeviceError(fmt::format("no eventfd: {}", std::strerror(errno)));
  for (std::size_t k = 0; k < sockets.size(); ++k) {
    peers_[k].open = sockets[k].is_open();
    peers_[k].socket = std::move(sockets[k]);
  }
}

void Channels::start() {
  thread_ = std::thread([this] { run(); });
}

void Channels::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  eventfd_write(wake_.descriptor(), 1);
  thread_.join();
}

void Channels::send(std::uint32_t peer, std::uint32_t kind, std::uint64_t number,
                    std::span<const std::byte> payload) {
  Out out;
  out.header.kind = kind;
  out.header.number = number;
  out.header.bytes = payload.size();
  out.payload = payload;
  push(peer, std::move(out));
}

void Channels::send_text(std::uint32_t peer, std::uint32_t kind, std::uint64_t number, std::string payload) {
  Out out;
  out.header.kind = kind;
  out.header.number = number;
  out.header.bytes = payload.size();
  out.own = std::move(payload);
  push(peer, std::move(out));
}

void Channels::push(std::uint32_t peer, Out out) {
  {
    const std::lock_guard lock(mutex_);
    if (!peers_[peer].open) return;
    peers_[peer].queue.push_back(std::move(out));
    // A short text may move when it is moved; from here on it stays.
    Out& queued = peers_[peer].queue.back();
    if (queued.payload.empty()) queued.payload = std::as_bytes(std::span(queued.own));
  }
  eventfd_write(wake_.descriptor(), 1);
}

bool Channels::queued(std::uint32_t peer) {
  const std::lock_guard lock(mutex_);
  return !peers_[peer].queue.empty();
}

void Channels::run() {
  std::vector<pollfd> polled;
  std::vector<std::uint32_t> whose;
  auto next_tick = steady_clock::now();
  auto end = steady_clock::time_point::max();
  for (;;) {
    polled.assign(1, {wake_.descriptor(), POLLIN, 0});
    whose.assign(1, 0);
    bool waiting = false;  // somebody's frame is not sent yet
    for (std::uint32_t p = 0; p < peers(); ++p) {
      if (!peers_[p].open) continue;
      const bool out = queued(p);
      waiting = waiting || out;
      polled.push_back(
          {peers_[p].socket.descriptor(), static_cast<short>(out ? POLLIN | POLLOUT : POLLIN), 0});
      whose.push_back(p);
    }
    const auto now = steady_clock::now();
    {
      const std::lock_guard lock(mutex_);
      if (ending_ && end == steady_clock::time_point::max()) end = now + patience_at_the_end;
    }
    if ((end != steady_clock::time_point::max() && !waiting) || now >= end) return;
    const auto until = std::min(next_tick, end);
    const auto pause = std::chrono::ceil<milliseconds>(until - now).count();
    poll(polled.data(), polled.size(), static_cast<int>(std::clamp<std::int64_t>(pause, 0, 60'000)));
    if (polled[0].revents != 0) {
      eventfd_t count = 0;
      eventfd_read(wake_.descriptor(), &count);
    }
    for (std::size_t k = 1; k < polled.size(); ++k) {
      if ((polled[k].revents & ~POLLOUT) != 0) read_from(whose[k]);
      if ((polled[k].revents & POLLOUT) != 0) write_to(whose[k]);
    }
    if (steady_clock::now() >= next_tick) {
      handler_.tick();
      next_tick = steady_clock::now() + between_ticks_;
    }
  }
}

void Channels::read_from(std::uint32_t index) {
  Peer& peer = peers_[index];
  while (peer.open) {
    std::byte* to = reinterpret_cast<std::byte*>(&peer.header) + peer.read;
    std::size_t wanted = sizeof peer.header - peer.read;
    if (peer.read >= sizeof peer.header) {
      const std::size_t at = peer.read - sizeof peer.header;
      to = (peer.place ? peer.place : reinterpret_cast<std::byte*>(peer.text.data())) + at;
      wanted = static_cast<std::size_t>(peer.header.bytes) - at;
    }
    if (wanted > 0) {
      const ssize_t n = recv(peer.socket.descriptor(), to, wanted, 0);
      if (later(n)) return;
      if (n <= 0) return close(index);
      peer.read += static_cast<std::size_t>(n);
    }
    if (peer.read == sizeof peer.header && peer.header.bytes > 0) {
      if (peer.header.mark != FrameHeader{}.mark) return close(index);
      peer.place = handler_.place_of(index, peer.header);
      if (!peer.place && peer.header.bytes > largest_text) return close(index);
      if (!peer.place) peer.text.resize(static_cast<std::size_t>(peer.header.bytes));
    }
    if (peer.read < sizeof peer.header || peer.read < sizeof peer.header + peer.header.bytes) continue;
    if (peer.header.mark != FrameHeader{}.mark) return close(index);
    handler_.arrived(index, peer.header, peer.text);
    peer.read = 0;
    peer.place = nullptr;
    peer.text.clear();
  }
}

void Channels::write_to(std::uint32_t index) {
  Peer& peer = peers_[index];
  while (peer.open) {
    Out* out = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (peer.queue.empty()) return;
      out = &peer.queue.front();  // stays where it is: others only push behind it
    }
    const bool header = out->done < sizeof out->header;
    const std::span<const std::byte> rest = header
                                                ? std::as_bytes(std::span(&out->header, 1)).subspan(out->done)
                                                : out->payload.subspan(out->done - sizeof out->header);
    if (!rest.empty()) {
      const ssize_t n = ::send(peer.socket.descriptor(), rest.data(), rest.size(),
                               MSG_NOSIGNAL | (header && out->header.bytes > 0 ? MSG_MORE : 0));
      if (later(n)) return;
      if (n < 0) return close(index);
      out->done += static_cast<std::size_t>(n);
    }
    if (out->done < sizeof out->header + out->header.bytes) continue;
    const FrameHeader sent = out->header;
    {
      const std::lock_guard lock(mutex_);
      peer.queue.pop_front();
    }
    handler_.sent(index, sent);
  }
}

void Channels::close(std::uint32_t index) {
  {
    const std::lock_guard lock(mutex_);
    peers_[index].open = false;
    peers_[index].queue.clear();
  }
  handler_.closed(index);
}

}  // namespace plumb
