#include "calibrate/measure/part_timer.hpp"

#include <utility>

namespace plumb::measure {

PartTimer::PartTimer(layers::Lane& lane, const device::Stream& stream) : lane_(lane), stream_(stream) {
  lane_.on_part([this](const char* name) {
    if (!listening_) return;
    names_.push_back(name);
    if (events_.size() <= names_.size()) events_.emplace_back(device::EventKind::timing);
    events_[names_.size()].record(stream_);
  });
}

PartTimer::~PartTimer() { lane_.on_part({}); }

void PartTimer::begin() {
  names_.clear();
  listening_ = true;
  if (events_.empty()) events_.emplace_back(device::EventKind::timing);
  events_.front().record(stream_);
}

void PartTimer::take(std::uint32_t sm_clock_mhz) {
  listening_ = false;
  std::map<std::string, Duration> sums;
  for (std::size_t i = 0; i < names_.size(); ++i)
    sums[names_[i]] += device::between(events_[i], events_[i + 1]);
  for (const auto& [name, duration] : sums) samples_[name].add({duration, sm_clock_mhz});
}

const SampleSet* PartTimer::samples(const std::string& part) const {
  const auto found = samples_.find(part);
  return found == samples_.end() ? nullptr : &found->second;
}

}  // namespace plumb::measure
