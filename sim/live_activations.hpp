// How many forwards a rank still holds something of, over time.
#pragma once
#include "schedules/ir/timeline.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

/// From this time on until the next point.
struct LivePoint {
  TimePoint time;
  std::uint32_t chunks = 0;        // +1 when a forward begins, -1 when its weight gradient is done
  std::uint32_t microbatches = 0;  // of which the rank holds at least one chunk
  bool operator==(const LivePoint&) const = default;
};

/// By time, one point a time: of several changes at once only what is left after them. In a pair the forward
/// counts from its begin and the backward until its end. A backward whose forward the list lacks counts
/// nothing.
std::vector<LivePoint> live_activations(const RankTimeline& rank, std::uint32_t microbatches);

}  // namespace plumb
