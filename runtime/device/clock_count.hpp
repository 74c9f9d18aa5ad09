// What the clock of a GPU's multiprocessors was while something ran.
#pragma once
#include "runtime/device/buffer.hpp"

#include <cstdint>

namespace plumb::device {

class Stream;

/// Cycles and nanoseconds that multiprocessors had counted at one place in a stream's work. What the
/// management library says of the clock is a tenth of a second old, and what was asked for; the power limit's
/// control swings in a third of one.
class ClockCount {
 public:
  /// Of so many blocks of one thread, wherever they land: enough that some of a begin's and an end's meet on
  /// a multiprocessor, and several times their number for a mean over all of a GPU's.
  explicit ClockCount(std::uint32_t blocks);
  /// Queues the noting, over what was noted before.
  void note(const Stream& stream) const;

  /// Once the stream has passed both, in MHz: the mean between them of the middle one of the multiprocessors
  /// that noted both (each counts for itself). 0 where there is none, or not enough time to tell.
  friend std::uint32_t mean_mhz(const ClockCount& begin, const ClockCount& end);

 private:
  std::uint32_t blocks_;
  HostBuffer readings_;
};

std::uint32_t mean_mhz(const ClockCount& begin, const ClockCount& end);

}  // namespace plumb::device
