// Places inside one block of memory, handed out and taken back in program order: nothing is allocated while a
// step runs.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstddef>
#include <cstdint>
#include <map>

namespace plumb::device {

/// A first-fit allocator over [base, base + bytes), which belongs to somebody else. The host's program order
/// alone decides what lies where, so two runs of one schedule have the same addresses. Whoever releases a
/// place sees to it that the device is done with it before the next owner's work begins (same stream, or an
/// event).
class Arena {
 public:
  static constexpr std::int64_t alignment = 256;

  Arena(void* base, Bytes bytes);

  /// Throws DeviceError, with what is held and what is asked for, where no gap is large enough.
  void* allocate(Bytes bytes);
  void release(void* place);

  /// Of what was asked for, without rounding up to the alignment.
  Bytes held() const { return held_; }
  Bytes peak() const { return peak_; }
  /// The end of the highest place ever used: what the block would have had to be.
  Bytes reach() const { return reach_; }

 private:
  struct Place {
    std::int64_t end = 0;
    std::int64_t asked = 0;
  };
  std::byte* base_;
  Bytes bytes_;
  std::map<std::int64_t, Place> places_;  // by offset
  Bytes held_;
  Bytes peak_;
  Bytes reach_;
};

}  // namespace plumb::device
