#include "sim/report.hpp"

#include "schedules/ir/error.hpp"
#include "sim/idle.hpp"

#include <algorithm>

namespace plumb {

std::string_view to_string(IdleCause cause) {
  constexpr std::array<std::string_view, idle_causes> names{"warm_up", "waiting_for_message", "imbalance",
                                                            "exposed_communication", "drain"};
  return names[static_cast<std::size_t>(cause)];
}

Report summarize(const Timeline& timeline, const MemoryProfile& memory) {
  PLUMB_CHECK(memory.ranks.size() == timeline.ranks.size());
  Report report;
  report.schedule = timeline.name;
  report.stages = timeline.stages;
  report.microbatches = timeline.microbatches;
  const StepBounds bounds = step_bounds(timeline);
  report.makespan = bounds.makespan();
  TimePoint step_end = bounds.end;
  double idle = 0;
  const auto gaps = idle_gaps(timeline);
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    const RankTimeline& rank = timeline.ranks[r];
    const RankMemory& held = memory.ranks[r];
    RankReport& out = report.ranks.emplace_back();
    for (const ComputeSpan& span : rank.compute) out.compute_busy += span.end - span.begin;
    out.idle = report.makespan - out.compute_busy;
    idle += static_cast<double>(out.idle.ns);
    if (!rank.compute.empty()) out.span = rank.compute.back().end - rank.compute.front().begin;
    report.span = std::max(report.span, out.span);
    Duration causes;
    for (const IdleSlice& slice : gaps[r]) {
      out.idle_by_cause[static_cast<std::size_t>(slice.cause)] += slice.end - slice.begin;
      causes += slice.end - slice.begin;
    }
    PLUMB_CHECK(causes == out.idle);
    for (const CollectiveSpan& collective : rank.collectives) step_end = std::max(step_end, collective.end);
    if (rank.update) step_end = std::max(step_end, rank.update->end);
    out.peak_live_activations = held.peak_live_activations;
    if (!held.curve.empty()) out.peak_bytes = held.peak.total();
    out.peak_memory = held.peak;
    if (!rank.compute.empty()) out.peak_action = to_string(held.peak_action);
  }
  report.step_time = step_end - bounds.begin;
  if (report.makespan.ns > 0) {
    report.idle_share =
        idle / (static_cast<double>(report.makespan.ns) * static_cast<double>(timeline.ranks.size()));
  }
  return report;
}

}  // namespace plumb
