// What a pipeline's gradients have to be, from the same kernels on the same GPU: the host would take hours
// for the models that a GPU is for.
#pragma once
#include "runtime/cuda/cuda_worker.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/training_data.hpp"
#include "runtime/worker.hpp"

#include <cstdint>

namespace plumb::cuda {

/// run_unpipelined of gradient_check.hpp, computed here: microbatch after microbatch, copy after copy,
/// through the model in one piece. With as many shares and the same algorithms as the pipeline it is the same
/// operations; where a pipeline also adds in the same order (one owner a stage), the same bits.
Unpipelined run_unpipelined(const TrainingPlan& plan, const TrainingData& data, std::uint64_t step,
                            const LocalOptions& options, const NamedGradients& weights = {});

}  // namespace plumb::cuda
