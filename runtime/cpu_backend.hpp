// Ranks as threads of one process, with real arithmetic in float32: what a GPU has to reproduce, and what
// runs in CI.
#pragma once
#include "runtime/worker.hpp"

#include <functional>
#include <memory>
#include <vector>

namespace plumb {

/// Called by a worker's thread ahead of every action, for tests that make a rank fail or stand still.
using BeforeAction = std::function<void(const Worker& worker, const ComputeStep& step)>;

/// The workers of all ranks and copies: [copy * ranks + rank], each to be run by a thread of its own. A
/// message is complete when both sides have posted it, as under rendezvous; whoever comes second copies.
/// Gradients of a stage are summed over its owners in the order of copies and ranks by the last of them to
/// arrive.
std::vector<std::unique_ptr<Worker>> make_cpu_workers(const TrainingPlan& plan,
                                                      BeforeAction before_action = {});

}  // namespace plumb
