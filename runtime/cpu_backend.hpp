// Ranks on the CPU, as threads of one process or as processes, with real arithmetic in float32: what a GPU
// has to reproduce, and what runs in CI.
#pragma once
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"

#include <functional>
#include <memory>
#include <vector>

namespace plumb {

class Rendezvous;

/// Called by a worker's thread ahead of every action, for tests that make a rank fail or stand still.
using BeforeAction = std::function<void(const Worker& worker, const ComputeStep& step)>;

/// The workers of all ranks and copies: [copy * ranks + rank], each to be run by a thread of its own. A
/// message is complete when both sides have posted it, as under rendezvous; whoever comes second copies.
/// Gradients of a stage are summed over its owners in the order of copies and ranks by the last of them to
/// arrive.
std::vector<std::unique_ptr<Worker>> make_cpu_workers(const TrainingPlan& plan,
                                                      BeforeAction before_action = {});

/// This process's worker, of copy x ranks + rank == rendezvous.rank(); the others are in other processes, and
/// messages go over TCP. Together with all others. It computes the same bits as its thread would. The
/// rendezvous outlives it, and belongs to the thread that runs the worker.
std::unique_ptr<Worker> make_cpu_worker(const TrainingPlan& plan, Rendezvous& rendezvous,
                                        BeforeAction before_action = {});

}  // namespace plumb
