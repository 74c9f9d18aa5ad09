// How a rank ends that cannot.
#pragma once
#include <chrono>
#include <string>

namespace plumb {

/// Ends this process with exit code 3 after `patience`, unless it has ended by then, and says why on standard
/// error. For ranks that have given up: what NCCL and the driver do to end themselves may wait for a rank
/// that is gone or frozen, for ever.
void end_after(std::string why, std::chrono::milliseconds patience = std::chrono::milliseconds{2500});

}  // namespace plumb
