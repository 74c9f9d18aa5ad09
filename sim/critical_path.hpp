// What the step's length hangs on, and how much room everything else has.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

/// One action on the critical path.
struct CriticalStep {
  Rank rank;
  std::uint32_t position = 0;  // among the rank's actions
  Action action;
  TimePoint begin;
  TimePoint end;
  /// From the end of the path's previous action to this one's begin: the message between them on its way.
  /// Negative where a pair's forward left ahead of the pair's end; 0 on one rank.
  Duration wait;
  bool operator==(const CriticalStep&) const = default;
};

struct CriticalPath {
  std::vector<CriticalStep> steps;             // from an action that begins at 0 to the one that ends last
  std::vector<std::vector<TimePoint>> begins;  // [rank][position] the earliest begin of every action
  /// [rank][position] by how much an action could last longer without making the step longer, others equal; 0
  /// on every critical path (there may be several; `steps` is one: where two predecessors are equally late,
  /// the one on the same rank, then the forward's input).
  std::vector<std::vector<Duration>> slack;
  bool operator==(const CriticalPath&) const = default;
};

/// The longest path through what waits for what, with nothing shared: messages take their time and occupy
/// nothing. In that model begins equal simulate()'s. Two passes over a topological order, O(actions).
CriticalPath critical_path(const LoweredSchedule& schedule, const CostModel& cost,
                           const ExecutionOptions& options = {});

}  // namespace plumb
