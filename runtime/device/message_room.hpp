// What of a GPU's multiprocessors NCCL's kernels have while ranks compute there.
#pragma once
#include <cstdint>

namespace plumb::device {

/// A kernel of NCCL's that waits for a message holds a multiprocessor a channel, whose shared memory no
/// matrix product beside it can have: a product that was cut for all of them takes another wave for what it
/// finds taken. The runtime gives it this, and calibration measures with it.
struct MessageRoom {
  std::uint32_t left_free = 0;     // so many multiprocessors products are not cut for
  std::uint32_t channels = 2;      // of a message's communicator, at most
  std::uint32_t sum_channels = 2;  // of those that add up gradients
  /// Each way receives one message ahead of the place that it goes to: it waits beside computation.
  bool receives_ahead = false;
  bool operator==(const MessageRoom&) const = default;
};

/// Ranks that share a GPU's multiprocessors as they come leave nothing to NCCL: whoever of them computes
/// less leaves enough.
constexpr MessageRoom room_as_they_come() { return {}; }

/// Where ranks have a share each, NCCL's kernels have to run in the rank's own: in the share of another rank
/// one that waits would keep that one from ever sending what is waited for. (Seen on an H200, 8 ranks of 16
/// multiprocessors: steps never ended, and a product beside an all-reduce took 13 times as long.) A rank has
/// two neighbours, each with a way to and a way from it, and with one channel each of the four kernels is one
/// block.
constexpr MessageRoom room_in_a_share() { return {4, 1, 1, true}; }

/// A rank with a GPU of its own.
constexpr MessageRoom room_on_own_gpu() { return {8, 8, 16, true}; }

}  // namespace plumb::device
