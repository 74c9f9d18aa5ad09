// CPU ranks as threads of one process: messages are copies in its memory.
#pragma once
#include "runtime/cpu_transport.hpp"
#include "runtime/training_plan.hpp"

#include <memory>
#include <vector>

namespace plumb {

/// [copy * ranks + rank]. They refer to each other, and end together.
std::vector<std::unique_ptr<CpuTransport>> connect_threads(const TrainingPlan& plan);

}  // namespace plumb
