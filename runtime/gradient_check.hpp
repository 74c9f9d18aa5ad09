// Whether a pipeline's gradients are the model's: against the same microbatches run one by one through the
// model in one piece.
#pragma once
#include "runtime/training_data.hpp"
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"

#include <map>
#include <string>
#include <vector>

namespace plumb {

/// Gradients by parameter name.
using NamedGradients = std::map<std::string, std::vector<float>>;

/// The whole model as one stage.
Layout unpipelined(const ModelShape& model, const Layout& layout);

/// The step's gradients and losses in one piece, in float32 on the host: microbatch after microbatch, copy
/// after copy, with the weights that the plan's seed gives.
struct Unpipelined {
  NamedGradients gradients;
  std::vector<double> losses;  // [copy * microbatches + microbatch]
};
Unpipelined run_unpipelined(const TrainingPlan& plan, const TrainingData& data, std::uint64_t step);

/// The worker's gradients of the stages that it holds, by name.
void add_gradients(Worker& worker, const TrainingPlan& plan, NamedGradients& gradients);

struct GradientCheck {
  /// The largest over parameters of |x - y|^2 / (|x|^2 + |y|^2); a parameter whose gradients are both 0 does
  /// not count.
  double max_difference = 0;
  std::string worst_parameter;
  bool operator==(const GradientCheck&) const = default;
};
/// Throws BadInput where one side lacks a parameter.
GradientCheck compare_gradients(const NamedGradients& measured, const NamedGradients& expected);

}  // namespace plumb
