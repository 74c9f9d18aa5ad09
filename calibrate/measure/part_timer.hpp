// Times the parts of an op one by one while it runs as it always does: what a part finds in the caches is
// what it finds there in a step.
#pragma once
#include "runtime/device/event.hpp"
#include "runtime/layers/lane.hpp"
#include "schedules/ir/units.hpp"

#include <deque>
#include <map>
#include <string>
#include <vector>

namespace plumb::measure {

/// As long as it lives, ops on the lane tell it their parts.
class PartTimer {
 public:
  PartTimer(layers::Lane& lane, const device::Stream& stream);
  PartTimer(PartTimer&&) = delete;
  PartTimer& operator=(PartTimer&&) = delete;
  ~PartTimer();

  /// What is queued from here to `end` is timed.
  void begin();
  void end() { listening_ = false; }
  /// Of the op queued longest ago that was not taken yet, and has ended: how long each of its parts took. One
  /// that an op has several times (the head, whose logits are made again for its gradient) counts with their
  /// sum.
  std::map<std::string, Duration> take();

 private:
  struct Op {
    std::vector<device::Event> events;  // [0]: the begin; behind it the end of each part
    std::vector<const char*> names;
  };
  void record(Op& op, std::size_t which);

  layers::Lane& lane_;
  const device::Stream& stream_;
  std::deque<Op> queued_;
  std::vector<Op> spare_;  // whose events can be used again
  bool listening_ = false;
};

}  // namespace plumb::measure
