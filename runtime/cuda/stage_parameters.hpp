// Weights, gradients and optimizer state of one stage on the device.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/layers/model_stage.hpp"
#include "runtime/layers/tensor.hpp"
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"
#include "schedules/model/parameters.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace plumb::layers {
class Lane;
}

namespace plumb::cuda {

/// All flat, in the order of stage_parameters: weights in the type that computes; gradients, masters and
/// Adam's two moments in float32. Host calls that read or write wait for the lane's stream.
class StageParameters {
 public:
  StageParameters(std::vector<ParameterSpec> specs, layers::DataType type);

  std::span<const ParameterSpec> specs() const { return specs_; }
  /// Each with its weights and its gradients.
  std::vector<layers::Parameter> all() const;
  std::span<float> gradients() const { return {gradients_.as<float>(), elements_}; }

  void initialise(const layers::Lane& lane, std::uint64_t seed);
  void clear_gradients(const layers::Lane& lane);
  /// Gradients are 0 afterwards.
  void update(const layers::Lane& lane, const Optimizer& optimizer, std::uint64_t step, double learning_rate,
              double gradient_scale);
  std::vector<float> host_gradients(const layers::Lane& lane) const;
  StageState state(const layers::Lane& lane) const;
  void set_state(const layers::Lane& lane, const StageState& state);

 private:
  std::vector<ParameterSpec> specs_;
  layers::DataType type_;
  std::uint64_t elements_;
  device::Buffer weights_;
  device::Buffer gradients_;
  device::Buffer masters_;
  device::Buffer first_;
  device::Buffer second_;
};

}  // namespace plumb::cuda
