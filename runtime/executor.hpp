// Executes one rank's program over a backend.
#pragma once
#include "runtime/backend.hpp"

namespace plumb {

/// Launches every step of the program in order and returns when all of it is done. Allocates nothing itself.
/// Throws what the backend does: DeviceError where the deadline passes or another rank has failed.
void execute(const RankProgram& program, Backend& backend);

}  // namespace plumb
