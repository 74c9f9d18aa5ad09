// Holds a stream back until the host has queued everything that is to be timed: then nothing in it waits for
// a launch.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/device/stream.hpp"

#include <cstdint>

namespace plumb::measure {

class Gate {
 public:
  Gate();
  /// What is queued in the stream from here on waits for open(). A gate that nobody opens opens itself after
  /// a second, so that work too long for the queue cannot stop everything.
  void close(const device::Stream& stream);
  void open();
  /// The clock of the multiprocessor that waited, over the time it did; once the stream has passed the gate.
  /// 0 where that was too short to tell. What the management library says of the clock is a tenth of a second
  /// old; this is not.
  std::uint32_t clock_mhz() const;

 private:
  device::HostBuffer flag_;
};

}  // namespace plumb::measure
