// CPU ranks as processes, on one machine or many: messages and gradient sums over TCP. Nobody needs a GPU to
// try how a job of many nodes is launched, or how it ends when one of them fails.
#pragma once
#include "runtime/cpu_transport.hpp"
#include "runtime/training_plan.hpp"

#include <memory>

namespace plumb {

class Rendezvous;

/// Of this process's rank, copy x ranks + rank == rendezvous.rank(). Together with all others. The rendezvous
/// outlives it, and belongs to the thread that calls the transport.
std::unique_ptr<CpuTransport> connect_processes(const TrainingPlan& plan, Rendezvous& rendezvous);

}  // namespace plumb
