// What a run would put where, worked out before any device is touched.
#pragma once
#include "runtime/training_plan.hpp"
#include "tools/console.hpp"

#include <functional>
#include <string>

namespace plumb::tools {

/// Where each rank runs, its stages, bytes by the model's formulas, and list of actions: as text, or as
/// plumb.run.dry/1. `runs_on`: of copy x ranks + rank.
void print_dry_run(Console& console, const TrainingPlan& plan, bool json_wanted,
                   const std::function<std::string(std::uint32_t)>& runs_on);

}  // namespace plumb::tools
