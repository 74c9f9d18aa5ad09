// A thread for each worker of this process, and what happens when one of them fails.
#pragma once
#include "runtime/worker.hpp"

#include <functional>
#include <memory>
#include <vector>

namespace plumb {

/// Runs `body` for every worker at once, each on a thread of its own, and returns when all are done. When one
/// throws, the others are aborted and the first failure is thrown again: a DeviceError that names the rank,
/// where it does not yet. A thread that does not come back within `grace` of a failure is left behind with
/// all workers, which are then taken out of `workers`: what such a thread may still touch is never freed.
void run_together(std::vector<std::unique_ptr<Worker>>& workers, const std::function<void(Worker&)>& body,
                  Duration grace = Duration{2'000'000'000});

}  // namespace plumb
