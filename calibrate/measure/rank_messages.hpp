// What a rank of a pipeline sends while it computes.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/units.hpp"

#include <array>
#include <cstddef>

namespace plumb::measure {

/// A message behind each op, to the next rank and the one before in turns, and an op that waits for a message
/// before the next: a stream that waits for another one costs every launch of the GPU a little, a whole
/// pipeline's some microseconds a kernel. What is sent ends in a buffer that nobody reads.
class RankMessages {
 public:
  explicit RankMessages(Bytes bytes);
  /// One, once what is in the compute stream so far has been done; what comes there next waits for the one
  /// before.
  void send_behind(const device::Stream& compute);

 private:
  struct Way {
    device::Stream stream{device::Priority::high};  // as messages of a pipeline have
    device::Event made, arrived;
    bool used = false;
  };
  Bytes bytes_;
  device::Buffer sent_, received_;
  std::array<Way, 2> ways_;
  std::size_t next_ = 0;
};

}  // namespace plumb::measure
