#include "runtime/layers/parameter.hpp"

#include <cstddef>

namespace plumb::layers {

std::vector<Parameter> stage_tensors(std::span<const ParameterSpec> specs, DataType type, void* weights,
                                     float* gradients) {
  std::vector<Parameter> parameters;
  for (const ParameterSpec& spec : specs) {
    void* place = static_cast<std::byte*>(weights) + spec.offset * bytes_of(type);
    parameters.push_back({spec.name,
                          {place, type, spec.rows, spec.columns},
                          {gradients + spec.offset, DataType::fp32, spec.rows, spec.columns}});
  }
  return parameters;
}

}  // namespace plumb::layers
