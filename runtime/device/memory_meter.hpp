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

/// Bytes that went from free to used since it was made: what a set-up really takes, libraries and contexts
/// included.
class MemoryMeter {
 public:
  MemoryMeter() : before_(memory_state().free) {}
  Bytes taken() const { return before_ - memory_state().free; }

 private:
  Bytes before_;
};

}  // namespace plumb::device
