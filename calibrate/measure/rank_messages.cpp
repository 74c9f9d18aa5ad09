#include "calibrate/measure/rank_messages.hpp"

namespace plumb::measure {

RankMessages::RankMessages(Bytes bytes) : bytes_(bytes), sent_(bytes), received_(bytes) {}

void RankMessages::send_behind(const device::Stream& compute) {
  Way& way = ways_[next_];
  next_ = 1 - next_;
  way.made.record(compute);
  way.stream.wait(way.made);
  device::copy(way.stream, received_.data(), sent_.data(), static_cast<std::size_t>(bytes_.count));
  way.arrived.record(way.stream);
  way.used = true;
  if (const Way& before = ways_[next_]; before.used) compute.wait(before.arrived);
}

}  // namespace plumb::measure
