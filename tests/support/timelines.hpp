// Timelines for the tests of what is made of them (traces, pictures, reports), without the simulator: the
// plain replay, dressed as a Timeline.
#pragma once
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/schedule.hpp"
#include "schedules/ir/timeline.hpp"
#include "tests/support/replay.hpp"

#include <string>

namespace plumb::test {

/// The replay of a schedule that finishes, `unit` long for each unit of its costs. Messages carry 1 MiB and
/// leave when their producer ends.
Timeline timeline_of(const Schedule& schedule, const Costs& costs, Duration unit);

/// `always` bytes of weights on every rank and `chunk` bytes for each live activation.
MemoryProfile memory_of(const Timeline& timeline, Bytes always, Bytes chunk);

/// A schedule from one string of tokens a rank, separated by spaces.
Schedule schedule_of(std::string name, std::uint32_t stages, std::uint32_t microbatches,
                     const std::vector<std::string>& ranks);

}  // namespace plumb::test
