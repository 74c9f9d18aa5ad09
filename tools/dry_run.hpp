// What a run would put where, worked out before any device is touched.
#pragma once
#include "runtime/worker.hpp"
#include "tools/console.hpp"

namespace plumb::tools {

/// Each rank's stages, bytes by the model's formulas, and list of actions: as text, or as plumb.run.dry/1.
void print_dry_run(Console& console, const TrainingPlan& plan, bool json_wanted);

}  // namespace plumb::tools
