// What the device itself says of its memory.
#pragma once
#include "schedules/ir/units.hpp"

namespace plumb::device {

struct MemoryState {
  Bytes free;
  Bytes total;
};
/// Of the current device, all processes together.
MemoryState memory_state();

}  // namespace plumb::device
