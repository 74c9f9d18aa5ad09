#include "calibrate/measure/cache_flush.hpp"

#include "runtime/device/device_info.hpp"

namespace plumb::measure {

void CacheFlush::launch(const device::Stream& stream) {
  if (written_.data() == nullptr) written_ = device::Buffer(device::device_info().l2_cache * 2);
  device::fill(stream, written_.data(), 0, static_cast<std::size_t>(written_.bytes().count));
}

}  // namespace plumb::measure
