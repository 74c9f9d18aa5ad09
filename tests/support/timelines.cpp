#include "tests/support/timelines.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"
#include "tests/support/reference.hpp"

#include <algorithm>
#include <sstream>
#include <tuple>
#include <utility>

namespace plumb::test {

Timeline timeline_of(const Schedule& schedule, const Costs& costs, Duration unit) {
  const Replay times = replay(schedule, costs);
  PLUMB_CHECK(times.finished);
  const ProductIndex products(schedule);
  Timeline timeline{
      schedule.name, schedule.stages, schedule.microbatches, std::vector<RankTimeline>(schedule.ranks()), {}};
  const auto at = [unit](std::int64_t units) { return TimePoint{} + unit * units; };
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    for (std::size_t k = 0; k < schedule.actions[r].size(); ++k) {
      const Action& action = schedule.actions[r][k];
      const Interval& interval = times.times[r][k];
      ComputeSpan span{action, at(interval.begin), at(interval.end), at(interval.begin), std::nullopt};
      for (const Op& op : action) {
        for (const Need& need : needs_of(op, schedule.stages)) {
          const Place place = products.place(need);
          if (place.rank == Rank{r}) continue;
          const TimePoint sent = at(times.times[place.rank.value][place.position].end);
          const Action& producer = schedule.actions[place.rank.value][place.position];
          if (!span.last_input || sent > span.last_input_sent) {
            span.last_input_sent = sent;
            span.last_input = need.product == Product::activation || !producer.is_pair() ? producer.first()
                                                                                         : producer.second();
          }
          timeline.messages.push_back({send_of(need), place.rank, Rank{r}, sent, sent, sent,
                                       sent + unit * costs.message, Bytes{1 << 20}});
        }
      }
      timeline.ranks[r].compute.push_back(span);
    }
  }
  std::sort(timeline.messages.begin(), timeline.messages.end(),
            [](const MessageSpan& a, const MessageSpan& b) {
              return std::tie(a.send_ready, a.from, a.send) < std::tie(b.send_ready, b.from, b.send);
            });
  return timeline;
}

MemoryProfile memory_of(const Timeline& timeline, Bytes always, Bytes chunk) {
  MemoryProfile profile;
  for (const RankTimeline& rank : timeline.ranks) {
    RankMemory memory;
    memory.curve = {{{0}, always}};
    const auto set = [&memory](TimePoint time, Bytes bytes) {
      if (memory.curve.back().time == time) memory.curve.pop_back();
      memory.curve.push_back({time, bytes});
    };
    std::uint32_t live = 0;
    for (const ComputeSpan& span : rank.compute) {
      for (const Op& op : span.action) {
        if (op.kind == OpKind::forward) ++live;
      }
      set(span.begin, always + chunk * live);
      if (live > memory.peak_live_activations) {
        memory.peak_live_activations = live;
        memory.peak_time = span.begin;
        memory.peak_action = span.action;
      }
      for (const Op& op : span.action) {
        if (gives_weight_gradient(op.kind)) --live;
      }
      set(span.end, always + chunk * live);
    }
    memory.peak[MemoryUse::weights] = always;
    memory.peak[MemoryUse::activations] = chunk * memory.peak_live_activations;
    profile.ranks.push_back(std::move(memory));
  }
  return profile;
}

Schedule schedule_of(std::string name, std::uint32_t stages, std::uint32_t microbatches,
                     const std::vector<std::string>& ranks) {
  Schedule schedule{std::move(name), stages, microbatches, {}};
  for (const std::string& rank : ranks) {
    std::istringstream words(rank);
    std::string token;
    schedule.actions.emplace_back();
    while (words >> token) schedule.actions.back().push_back(parse_action(token));
  }
  return schedule;
}

}  // namespace plumb::test
