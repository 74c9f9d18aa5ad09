// Leaves nothing of what ran before in the second-level cache.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/device/stream.hpp"

namespace plumb::measure {

class CacheFlush {
 public:
  /// Queues a write of twice the cache's size: what follows in the stream finds none of its operands there.
  void launch(const device::Stream& stream);

 private:
  device::Buffer written_;  // made when it is first needed
};

}  // namespace plumb::measure
