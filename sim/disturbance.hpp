// How an action and the messages beside it disturb each other. Private to sim.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "sim/arithmetic.hpp"
#include "sim/program.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

/// A piece of an action in which the same segments run.
struct Phase {
  std::int64_t end = 0;             // since the action began, with nothing beside it
  std::int64_t slowdown = million;  // of the action, while a message is on its way
  std::int64_t slows = million;     // the message
  bool releases = false;            // a pair's forward is done here and leaves
};

/// The phases of every recipe, numbered like Program::Item::recipe. Of the segments that run at once the most
/// slowed and the most slowing decide; a pair that was measured as a whole is one phase of all its segments.
struct Disturbance {
  std::vector<Phase> phases;
  std::vector<std::uint32_t> begin;  // [recipe], one more at the end: into phases

  bool has_single_phases() const { return phases.size() + 1 == begin.size(); }
};
Disturbance disturbance(const Program& program, const Dag& dag, const CostModel& cost,
                        const ExecutionOptions& options);

}  // namespace plumb
