// NCCL among the ranks of one group.
#pragma once
#include "schedules/ir/units.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

struct ncclComm;

namespace plumb::device {

class Stream;

/// What rank 0 makes and every rank needs; it travels as bytes.
using CommunicatorId = std::array<std::byte, 128>;
CommunicatorId make_communicator_id();

/// The version of the library that runs, and of the headers we were built with: "2.28.3".
std::string nccl_version();
std::string nccl_built_with();

/// A communicator that never blocks the host for good: each call that NCCL has only begun is polled until the
/// deadline, then everything is aborted and a DeviceError says what was waited for. Only communicators of
/// this kind can be aborted safely. One host thread a rank issues to it.
class Communicator {
 public:
  /// At most `channels` blocks of a kernel: they are taken from the compute beside it.
  Communicator(const CommunicatorId& id, std::uint32_t ranks, std::uint32_t rank, std::uint32_t channels,
               std::chrono::milliseconds deadline);
  Communicator(Communicator&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), deadline_(other.deadline_) {}
  Communicator& operator=(Communicator&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(deadline_, other.deadline_);
    return *this;
  }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  ~Communicator();

  /// All ranks of this communicator together: a communicator of those that give the same color, numbered in
  /// the order of their keys; nothing for a rank without one. Its messages wait for nobody else's, but are
  /// moved by this one's thread of the host, and it has to go before this one does.
  std::optional<Communicator> split(std::optional<std::uint32_t> color, std::uint32_t key);

  /// Between begin_group and end_group sends and receives are one batch; every two-way exchange must be.
  void begin_group();
  void end_group();
  void send(const void* data, Bytes bytes, std::uint32_t peer, const Stream& stream);
  void receive(void* data, Bytes bytes, std::uint32_t peer, const Stream& stream);
  /// Sums of `count` float32 in place over all ranks.
  void all_reduce(void* data, std::size_t count, const Stream& stream);
  /// Of `count` float32 a rank: each gets the sums of its own part, from the ranks' `count` x ranks.
  void reduce_scatter(const void* data, void* part, std::size_t count, const Stream& stream);
  /// `count` float32 of each rank, one rank after the other in `all`.
  void all_gather(const void* part, void* all, std::size_t count, const Stream& stream);

  /// Throws DeviceError where NCCL has met an error since; called while waiting for the device.
  void check() const;
  /// Gives up on everything under way; the others must do the same.
  void abort() noexcept;

 private:
  Communicator(ncclComm* handle, std::chrono::milliseconds deadline) : handle_(handle), deadline_(deadline) {}
  void settle(const char* what);

  ncclComm* handle_ = nullptr;
  std::chrono::milliseconds deadline_{};
};

}  // namespace plumb::device
