// Steps of a schedule that really run, timed: the other half of a prediction.
#pragma once
#include "runtime/gpu_workers.hpp"
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"
#include "sim/report.hpp"
#include "tools/rank_processes.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace plumb::tools {

/// One measured step: forward, backward and the gradient reductions of one pipeline, without the optimizer.
struct MeasuredStep {
  Timeline timeline;
  MemoryProfile memory;
  Report report;
  std::uint32_t sm_clock_mhz = 0;  // mean over all that were measured with it; 0: not known
};

/// The workers of this process: all of them, or the one whose process this is.
struct Crew {
  std::vector<std::unique_ptr<Worker>> workers;
  Rendezvous* rendezvous = nullptr;  // where the others have processes of their own
};

/// `nccl.algorithms` says, with every transport, how matrix products are computed, as a calibration pins
/// them, and may grow; the rest of `nccl` is for NCCL. With a `rendezvous` each rank is a process, which
/// NCCL always takes. Throws DeviceError.
Crew make_crew(const TrainingPlan& plan, RunDevice device, RunTransport transport, const NcclOptions& nccl,
               Rendezvous* rendezvous);

/// Runs `body` for every worker of this process: all at once on threads of their own, or, where it is one of
/// many, on this thread, to which the rendezvous belongs. When one fails, the others are aborted.
void run_all(Crew& crew, const std::function<void(Worker&)>& body);

/// [rank] of the first copy: what each recorded in its last step. All processes call it, and it
/// is empty on all but rank 0's.
std::vector<StepTimes> records_of(Crew& crew, const TrainingPlan& plan);

/// What every rank's arena held over the step, beside what its stages hold all along. [rank] of the first
/// copy; only of this process's workers.
MemoryProfile recorded_memory(const Crew& crew, const TrainingPlan& plan,
                              const std::vector<StepTimes>& records);

/// The most activation bytes that the arena of any rank holds at once, in program order: without receive
/// buffers, workspace and padding. All processes call it, and rank 0 learns it.
Bytes peak_activations(Crew& crew);

/// How steps are repeated. A GPU at its power limit lowers its clock within some hundred milliseconds of
/// load, and then swings it by some per cent around what it keeps, with a period of up to a second: a few
/// short steps would all lie in one flank of that.
struct Repetitions {
  Duration warm_up{500'000'000};    // of steps that do not count
  std::uint32_t least = 5;          // steps that count, however long they take
  Duration observe{1'500'000'000};  // and so many more as fit into this
};

/// Measures steps, each right behind others as in training, with `data` for every microbatch: a step takes as
/// long, and making other numbers for each would take longer than that. By step time, shortest first; on
/// ranks other than 0 of several processes, empty. `begins` is told what is begun: `data`, `steps`.
std::vector<MeasuredStep> measure_steps(Crew& crew, const TrainingPlan& plan, const MicrobatchData& data,
                                        const Repetitions& repetitions,
                                        const std::function<void(const std::string&)>& begins = {});

}  // namespace plumb::tools
