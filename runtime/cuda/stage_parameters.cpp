#include "runtime/cuda/stage_parameters.hpp"

#include "runtime/layers/lane.hpp"
#include "runtime/layers/optimizer.hpp"
#include "runtime/layers/random.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace plumb::cuda {
namespace {

using layers::DataType;
using layers::Tensor;

Bytes bytes_of(std::uint64_t elements, DataType type) {
  return {static_cast<std::int64_t>(elements * layers::bytes_of(type))};
}

std::vector<float> to_host(const layers::Lane& lane, const device::Buffer& from, std::uint64_t elements) {
  std::vector<float> values(elements);
  device::copy(lane.stream(), values.data(), from.data(), elements * sizeof(float));
  lane.stream().synchronize();
  return values;
}

void to_device(const layers::Lane& lane, const device::Buffer& to, const std::vector<float>& values,
               std::uint64_t elements) {
  PLUMB_CHECK(values.size() == elements);
  device::copy(lane.stream(), to.data(), values.data(), elements * sizeof(float));
  lane.stream().synchronize();
}

}  // namespace

StageParameters::StageParameters(std::vector<ParameterSpec> specs, DataType type)
    : specs_(std::move(specs)),
      type_(type),
      elements_(elements_of(specs_)),
      weights_(bytes_of(elements_, type)),
      gradients_(bytes_of(elements_, DataType::fp32)),
      masters_(bytes_of(elements_, DataType::fp32)),
      first_(bytes_of(elements_, DataType::fp32)),
      second_(bytes_of(elements_, DataType::fp32)) {
  for (const ParameterSpec& spec : specs_) {
    // Kernels and matrix products read sixteen bytes at a time.
    if (spec.offset % 8 != 0 || spec.columns % 8 != 0) {
      throw BadInput("the model", spec.name + " is " + std::to_string(spec.rows) + " x " +
                                      std::to_string(spec.columns) + "; on a GPU widths are multiples of 8");
    }
  }
}

std::vector<layers::Parameter> StageParameters::all() const {
  return layers::stage_tensors(specs_, type_, weights_.data(), gradients_.as<float>());
}

void StageParameters::initialise(const layers::Lane& lane, std::uint64_t seed) {
  StageState state;
  state.weights.resize(elements_);
  state.first_moments.resize(elements_);
  state.second_moments.resize(elements_);
  for (const ParameterSpec& spec : specs_) {
    plumb::initialise(spec, seed, std::span(state.weights).subspan(spec.offset, spec.elements()));
  }
  set_state(lane, state);
  clear_gradients(lane);
  lane.stream().synchronize();
}

void StageParameters::clear_gradients(const layers::Lane& lane) {
  device::fill(lane.stream(), gradients_.data(), 0, static_cast<std::size_t>(gradients_.bytes().count));
}

void StageParameters::update(const layers::Lane& lane, const Optimizer& optimizer, std::uint64_t step,
                             double learning_rate, double gradient_scale) {
  layers::AdamW settings;
  settings.learning_rate = static_cast<float>(learning_rate);
  settings.beta_1 = static_cast<float>(optimizer.beta_1);
  settings.beta_2 = static_cast<float>(optimizer.beta_2);
  settings.epsilon = static_cast<float>(optimizer.epsilon);
  // Neighbours that decay alike are updated at once.
  for (std::size_t i = 0; i < specs_.size();) {
    std::size_t end = i + 1;
    while (end < specs_.size() && specs_[end].decays == specs_[i].decays) ++end;
    const std::uint64_t from = specs_[i].offset;
    const std::uint64_t to = specs_[end - 1].offset + specs_[end - 1].elements();
    settings.weight_decay = specs_[i].decays ? static_cast<float>(optimizer.weight_decay) : 0.0F;
    const Tensor weights{weights_.as<std::byte>() + from * layers::bytes_of(type_), type_, 1, to - from};
    layers::adamw_step(lane, settings, step, static_cast<float>(gradient_scale), weights,
                       masters_.as<float>() + from, gradients_.as<float>() + from, first_.as<float>() + from,
                       second_.as<float>() + from);
    i = end;
  }
}

std::vector<float> StageParameters::host_gradients(const layers::Lane& lane) const {
  return to_host(lane, gradients_, elements_);
}

StageState StageParameters::state(const layers::Lane& lane) const {
  return {to_host(lane, masters_, elements_), to_host(lane, first_, elements_),
          to_host(lane, second_, elements_)};
}

void StageParameters::set_state(const layers::Lane& lane, const StageState& state) {
  to_device(lane, masters_, state.weights, elements_);
  to_device(lane, first_, state.first_moments, elements_);
  to_device(lane, second_, state.second_moments, elements_);
  const Tensor masters{masters_.data(), DataType::fp32, 1, elements_};
  const Tensor weights{weights_.data(), type_, 1, elements_};
  if (type_ == DataType::fp32) {
    device::copy(lane.stream(), weights.data, masters.data, static_cast<std::size_t>(masters.bytes().count));
  } else {
    layers::convert(lane, masters, weights);
  }
  lane.stream().synchronize();
}

}  // namespace plumb::cuda
