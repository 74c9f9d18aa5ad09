#include "sim/live_activations.hpp"

#include "schedules/ir/error.hpp"

namespace plumb {

std::vector<LivePoint> live_activations(const RankTimeline& rank, std::uint32_t microbatches) {
  std::vector<LivePoint> points;
  std::vector<std::uint32_t> held(microbatches, 0);  // chunks of each microbatch
  LivePoint now;
  const auto change = [&](TimePoint time) {
    now.time = time;
    if (!points.empty() && points.back().time == time) points.pop_back();
    points.push_back(now);
  };
  for (const ComputeSpan& span : rank.compute) {
    bool begins = false;
    bool ends = false;
    for (const Op& op : span.action) {
      PLUMB_CHECK(op.microbatch.value < microbatches);
      if (op.kind != OpKind::forward) continue;
      begins = true;
      ++now.chunks;
      if (held[op.microbatch.value]++ == 0) ++now.microbatches;
    }
    if (begins) change(span.begin);
    for (const Op& op : span.action) {
      std::uint32_t& own = held[op.microbatch.value];
      if (!gives_weight_gradient(op.kind) || own == 0) continue;
      ends = true;
      --now.chunks;
      if (--own == 0) --now.microbatches;
    }
    if (ends) change(span.end);
  }
  return points;
}

}  // namespace plumb
