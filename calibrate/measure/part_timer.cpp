#include "calibrate/measure/part_timer.hpp"

#include <utility>

namespace plumb::measure {

PartTimer::PartTimer(layers::Lane& lane, const device::Stream& stream) : lane_(lane), stream_(stream) {
  lane_.on_part([this](const char* name) {
    if (!listening_) return;
    Op& op = queued_.back();
    op.names.push_back(name);
    record(op, op.names.size());
  });
}

PartTimer::~PartTimer() { lane_.on_part({}); }

void PartTimer::record(Op& op, std::size_t which) {
  if (op.events.size() <= which) op.events.emplace_back(device::EventKind::timing);
  op.events[which].record(stream_);
}

void PartTimer::begin() {
  if (spare_.empty()) spare_.emplace_back();
  queued_.push_back(std::move(spare_.back()));
  spare_.pop_back();
  queued_.back().names.clear();
  listening_ = true;
  record(queued_.back(), 0);
}

std::map<std::string, Duration> PartTimer::take() {
  Op op = std::move(queued_.front());
  queued_.pop_front();
  std::map<std::string, Duration> sums;
  for (std::size_t i = 0; i < op.names.size(); ++i)
    sums[op.names[i]] += device::between(op.events[i], op.events[i + 1]);
  spare_.push_back(std::move(op));
  return sums;
}

}  // namespace plumb::measure
