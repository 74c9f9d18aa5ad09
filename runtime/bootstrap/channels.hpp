// Frames between ranks in other processes, moved by a thread of its own: they arrive, and are sent, while the
// rank computes.
#pragma once
#include "runtime/bootstrap/socket.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace plumb {

/// What stands ahead of a payload. `kind` and `number` are the users'.
struct FrameHeader {
  std::uint32_t mark = 0x464d4c50;  // "PLMF"
  std::uint32_t kind = 0;
  std::uint64_t number = 0;
  std::uint64_t bytes = 0;  // of the payload
};

/// Called by the channels' thread, one call at a time.
class FrameHandler {
 public:
  FrameHandler() = default;
  FrameHandler(const FrameHandler&) = delete;
  FrameHandler& operator=(const FrameHandler&) = delete;
  virtual ~FrameHandler() = default;

  /// A frame has been announced: where its payload is to be written; nothing: it comes as a string.
  virtual std::byte* place_of(std::uint32_t peer, const FrameHeader& header) = 0;
  virtual void arrived(std::uint32_t peer, const FrameHeader& header, const std::string& payload) = 0;
  /// All of it has been handed to the system: the payload may be written again.
  virtual void sent(std::uint32_t peer, const FrameHeader& header) = 0;
  /// The peer has gone, or what came from it was no frame. Once.
  virtual void closed(std::uint32_t peer) = 0;
  /// Again and again.
  virtual void tick() = 0;
};

class Channels {
 public:
  /// [peer] `sockets`; those that are not open are nobody.
  Channels(std::vector<Socket> sockets, FrameHandler& handler, std::chrono::milliseconds between_ticks);
  Channels(const Channels&) = delete;
  Channels& operator=(const Channels&) = delete;
  ~Channels() { stop(); }

  /// From here on the handler is called.
  void start();
  /// What was queued is still sent, for a moment; then the handler is called no more.
  void stop();

  /// From any thread. The payload stays as it is until `sent`. To a peer that has gone: nothing happens.
  void send(std::uint32_t peer, std::uint32_t kind, std::uint64_t number, std::span<const std::byte> payload);
  /// The same, with a payload of its own.
  void send_text(std::uint32_t peer, std::uint32_t kind, std::uint64_t number, std::string payload);
  std::uint32_t peers() const { return static_cast<std::uint32_t>(peers_.size()); }

 private:
  struct Out {
    FrameHeader header;
    std::span<const std::byte> payload;
    std::string own;
    std::size_t done = 0;  // of header and payload
  };
  struct Peer {
    Socket socket;
    bool open = false;      // changed by the thread alone, under mutex_
    std::deque<Out> queue;  // under mutex_
    FrameHeader header;     // of what is being read
    std::size_t read = 0;   // of header and payload
    std::byte* place = nullptr;
    std::string text;
  };

  void run();
  void push(std::uint32_t peer, Out out);
  void read_from(std::uint32_t peer);
  void write_to(std::uint32_t peer);
  void close(std::uint32_t peer);
  bool queued(std::uint32_t peer);

  FrameHandler& handler_;
  std::chrono::milliseconds between_ticks_;
  std::vector<Peer> peers_;
  std::mutex mutex_;
  bool ending_ = false;  // under mutex_
  Socket wake_;          // an eventfd
  std::thread thread_;
};

}  // namespace plumb
