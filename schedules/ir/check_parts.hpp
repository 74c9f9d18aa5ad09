// The parts that check() is made of. Not for others.
#pragma once
#include "schedules/ir/census.hpp"
#include "schedules/ir/check.hpp"

#include <string>

namespace plumb::checking {

/// The quick yes: a schedule of computation alone that is valid is seen to be so in two linear passes. Any
/// doubt is a no, and wants the diagnosis below, which is slower and says everything.
bool plainly_valid(const Schedule& schedule);

/// Every (stage, microbatch) whole, on one rank, and behind what its own rank makes for it.
void check_work(const Census& census, Findings& findings);
/// Every message there once, at its place, for its peer, and in one order on both sides.
void check_messages(const Census& census, Findings& findings);
/// The ranks of a cycle of waiting, each reported; none where every rank gets to the end of its list.
std::vector<Waiting> find_deadlock(const Census& census, Findings& findings);

/// The lists around a cycle, its members marked >so<, for a terminal. Empty without a cycle.
std::string deadlock_grid(const LoweredSchedule& lowered, const std::vector<Waiting>& cycle);

}  // namespace plumb::checking
