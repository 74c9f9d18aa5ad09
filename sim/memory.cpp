#include "sim/memory.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/liveness.hpp"

#include <algorithm>

namespace plumb {
namespace {

bool says_bytes(const OpCost& op) { return op.memory != MemoryEffect{}; }

bool says_bytes(const CostModel& cost) {
  for (const StageCost& stage : cost.stages) {
    for (const OpCost* op :
         {&stage.forward, &stage.backward_input, &stage.backward_weight, &stage.backward}) {
      if (says_bytes(*op)) return true;
    }
    // Messages alone do not count: their buffers are not what a rank holds.
    for (const Bytes bytes : {stage.weights, stage.gradients, stage.optimizer_state}) {
      if (bytes != Bytes{}) return true;
    }
  }
  return false;
}

// Live activations in chunks; without bytes they also say which action makes the peak.
void count_activations(const RankTimeline& rank, bool names_peak, RankMemory& memory) {
  std::int64_t live = 0;
  std::int64_t peak = 0;
  for (const ComputeSpan& span : rank.compute) {
    for (const Op& op : span.action) {
      if (op.kind == OpKind::forward) ++live;
      if (live > peak) {
        peak = live;
        if (names_peak) {
          memory.peak_action = span.action;
          memory.peak_time = span.begin;
        }
      }
      if (gives_weight_gradient(op.kind)) --live;
    }
  }
  memory.peak_live_activations = static_cast<std::uint32_t>(peak);
}

// Dates the changes of a rank's list with its timeline.
void follow(const std::vector<LivenessChange>& changes, const std::vector<Step>& steps,
            const RankTimeline& rank, MemoryBreakdown now, RankMemory& memory) {
  memory.curve.push_back({TimePoint{}, now.total()});
  memory.peak = now;
  if (!rank.compute.empty()) memory.peak_action = rank.compute.front().action;
  Bytes total = now.total();
  Bytes highest = total;
  std::size_t actions_begun = 0;  // among the steps up to the one at hand
  std::uint32_t step = 0;
  for (std::size_t i = 0; i < changes.size();) {
    for (; step <= changes[i].step; ++step) actions_begun += std::holds_alternative<Action>(steps[step]);
    const std::uint32_t at_step = changes[i].step;
    const Moment moment = changes[i].moment;
    for (; i < changes.size() && changes[i].step == at_step && changes[i].moment == moment; ++i) {
      now[changes[i].use] += changes[i].bytes;
      total += changes[i].bytes;
    }
    const bool is_action = std::holds_alternative<Action>(steps[at_step]);
    PLUMB_CHECK(actions_begun <= rank.compute.size());
    TimePoint time;
    if (is_action) {
      const ComputeSpan& span = rank.compute[actions_begun - 1];
      time = moment == Moment::begin ? span.begin : span.end;
    } else if (actions_begun > 0) {
      time = rank.compute[actions_begun - 1].end;  // a receive is launched when the action before it is done
    }
    if (memory.curve.back().time == time) {
      // One point a time: what is held from here on. A peak that lasts no time still counts below.
      memory.curve.back().bytes = total;
    } else if (memory.curve.back().bytes != total) {
      memory.curve.push_back({time, total});
    }
    if (total > highest) {
      highest = total;
      memory.peak = now;
      memory.peak_time = time;
      if (!rank.compute.empty()) {
        const std::size_t running =
            is_action || actions_begun == rank.compute.size() ? actions_begun - 1 : actions_begun;
        memory.peak_action = rank.compute[running].action;
      }
    }
  }
}

}  // namespace

MemoryProfile profile_memory(const Timeline& timeline, const LoweredSchedule& schedule,
                             const CostModel& cost) {
  PLUMB_CHECK(timeline.ranks.size() == schedule.ranks());
  MemoryProfile profile;
  profile.ranks.resize(schedule.ranks());
  const bool bytes = says_bytes(cost);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    count_activations(timeline.ranks[r], !bytes, profile.ranks[r]);
  }
  if (!bytes) return profile;
  Liveness liveness(schedule, cost);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    follow(liveness.of(Rank{r}), schedule.per_rank[r].steps, timeline.ranks[r],
           held_throughout(schedule, Rank{r}, cost), profile.ranks[r]);
  }
  return profile;
}

}  // namespace plumb
