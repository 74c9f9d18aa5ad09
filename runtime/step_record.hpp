// What ranks recorded of a step, put together in the types that the simulator predicts in.
#pragma once
#include "runtime/backend.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"

#include <span>

namespace plumb {

/// The Timeline of a step from what every rank recorded ([rank]; programs and records of one pipeline).
/// Message bytes are those of `memory` ([stage]; empty: 0).
Timeline assemble_timeline(const LoweredSchedule& schedule, std::span<const StepTimes> records,
                           std::span<const StageMemory> memory = {});

/// What a rank's arena held over time: its program's blocks, dated by its record. `always`: weights,
/// gradients and optimizer state of the stages that it holds.
RankMemory recorded_memory(const RankProgram& program, const StepTimes& times,
                           const MemoryBreakdown& always = {});

}  // namespace plumb
