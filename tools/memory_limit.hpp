// What does not fit into a device's memory, where it stops fitting, and the smallest change that helps.
#pragma once
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"
#include "tools/step_options.hpp"

#include <string>
#include <vector>

namespace plumb::tools {

/// A rank that needs more than there is: the first op that crosses the limit, and when.
struct Crossing {
  Rank rank;
  Action action;
  TimePoint time;
  Bytes held;  // from there on
  Bytes peak;  // of the rank
};

/// The ranks whose memory crosses `limit`, by rank. Throws BadInput where the costs say nothing of bytes.
std::vector<Crossing> crossings(const Prediction& prediction, Bytes limit);

/// One change that makes a step fit.
struct Remedy {
  std::string change;  // what to type: `--recompute full:0-2`
  Duration step_time;  // for as many sequences as before
  Bytes peak;          // of the fullest rank
};

/// Changes that fit, the fastest first: recompute on as few stages as it takes of the ranks that do not fit,
/// fewer sequences a microbatch and as many more microbatches, fewer microbatches in a step, another
/// schedule.
std::vector<Remedy> remedies(const StepToRun& step, const Prediction& prediction, Bytes limit);

/// `,"out_of_memory":{"limit_bytes",…,"ranks":[…],"remedies":[…]}`: members for a report.
std::string memory_json(const std::vector<Crossing>& crossed, const std::vector<Remedy>& remedies,
                        Bytes limit);
std::string memory_text(const std::vector<Crossing>& crossed, const std::vector<Remedy>& remedies,
                        Duration step_time, Bytes limit);

}  // namespace plumb::tools
