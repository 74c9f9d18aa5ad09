// What to type next for the fastest plan: in the words of the frameworks that train, and in ours.
#pragma once
#include "tools/plan_job.hpp"
#include "tools/planner/search.hpp"

#include <string>
#include <vector>

namespace plumb::tools {

/// Lines for people; those that are commands or settings are indented. `calibration`: as it was typed. The
/// result has a plan.
std::vector<std::string> next_steps(const PlanJob& job, const SearchResult& result,
                                    const std::string& calibration);

}  // namespace plumb::tools
