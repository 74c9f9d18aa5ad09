// Times the parts of an op one by one while it runs as it always does: what a part finds in the caches is
// what it finds there in a step.
#pragma once
#include "calibrate/statistics.hpp"
#include "runtime/device/event.hpp"
#include "runtime/layers/lane.hpp"

#include <cstddef>
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

  /// What is queued from here on is timed, until `take`.
  void begin();
  /// Once all that was queued has ended: adds a sample to each part that was met. One that an op has several
  /// times (the head, whose logits are made again for its gradient) counts with their sum.
  void take(std::uint32_t sm_clock_mhz);

  /// Those of a part; none if it was never met.
  const SampleSet* samples(const std::string& part) const;

 private:
  layers::Lane& lane_;
  const device::Stream& stream_;
  std::vector<device::Event> events_;  // [0]: the begin; behind it the end of each part
  std::vector<const char*> names_;
  bool listening_ = false;
  std::map<std::string, SampleSet> samples_;
};

}  // namespace plumb::measure
