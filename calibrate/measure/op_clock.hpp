// The clock at which a multiprocessor ran while one op did: its cycles, counted.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/device/stream.hpp"

#include <cstdint>

namespace plumb::measure {

/// Two kernels of one block around the op. What the management library says of the clock is a tenth of a
/// second old, and over a tenth of a second; the power limit's control swings in a third of one.
class OpClock {
 public:
  OpClock();
  void begin(const device::Stream& stream);
  void end(const device::Stream& stream);
  /// Once the stream has passed `end`. 0 where the two were on different multiprocessors, which count apart,
  /// or too close to each other to tell.
  std::uint32_t mhz() const;

 private:
  device::HostBuffer notes_;
};

}  // namespace plumb::measure
