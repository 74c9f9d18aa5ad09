// What `plumb run` has to say when its steps are done.
#pragma once
#include "runtime/executor_overhead.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/training_plan.hpp"
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"
#include "sim/report.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plumb::tools {

/// How a run ended that was asked to stop early.
struct Stop {
  int signal = 0;  // that asked; 0: nobody did
  std::uint64_t after_step = 0;
};

/// What a run of steps gave, on the process that speaks for all ranks.
struct RunOutcome {
  std::vector<Duration> steps;  // all but the first, in which everything is done for the first time
  std::vector<Duration> whole;  // the same with the data, the optimizer and all that the host does
  std::vector<ExecutorOverhead> overheads;  // of the same steps
  std::vector<double> losses;
  std::optional<GradientCheck> check;
  Timeline timeline;  // of the last step, with the optimizer's
  std::optional<MemoryProfile> memory;
  Report report;  // of its pipeline
  std::vector<Bytes> peaks;
  Stop stop;
};

/// plumb.run/1. At least one step was run.
std::string to_json(const RunOutcome& outcome);
std::string to_text(const RunOutcome& outcome, const TrainingPlan& plan);

}  // namespace plumb::tools
