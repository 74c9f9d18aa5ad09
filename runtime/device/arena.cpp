#include "runtime/device/arena.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <string>

namespace plumb::device {

Arena::Arena(void* base, Bytes bytes) : base_(static_cast<std::byte*>(base)), bytes_(bytes) {}

void* Arena::allocate(Bytes bytes) {
  PLUMB_CHECK(bytes.count >= 0);
  const std::int64_t needed =
      std::max<std::int64_t>(1, (bytes.count + alignment - 1) / alignment) * alignment;
  std::int64_t offset = 0;
  for (const auto& [begin, place] : places_) {
    if (begin - offset >= needed) break;
    offset = place.end;
  }
  if (offset + needed > bytes_.count) {
    throw DeviceError("an arena of " + to_text(bytes_) + " that holds " + to_text(held_) + " has no gap of " +
                      to_text(bytes));
  }
  places_[offset] = {offset + needed, bytes.count};
  held_ += bytes;
  peak_ = std::max(peak_, held_);
  reach_ = std::max(reach_, Bytes{offset + needed});
  return base_ + offset;
}

void Arena::release(void* place) {
  const auto at = places_.find(static_cast<std::byte*>(place) - base_);
  PLUMB_CHECK(at != places_.end());
  held_ -= Bytes{at->second.asked};
  places_.erase(at);
}

}  // namespace plumb::device
