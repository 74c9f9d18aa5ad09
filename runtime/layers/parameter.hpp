// Where a stage's parameters and their gradients are on the device.
#pragma once
#include "runtime/layers/tensor.hpp"
#include "schedules/model/parameters.hpp"

#include <span>
#include <string>
#include <vector>

namespace plumb::layers {

/// A tensor of parameters in the stage's type, and its gradient in float32, to which a backward adds.
struct Parameter {
  std::string name;  // `layers.3.qkv.weight` …
  Tensor weights;
  Tensor gradients;
};

/// The parameters of a stage in flat blocks, in the order of schedules/model/parameters.
std::vector<Parameter> stage_tensors(std::span<const ParameterSpec> specs, DataType type, void* weights,
                                     float* gradients);

}  // namespace plumb::layers
