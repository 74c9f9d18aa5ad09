#include "calibrate/measure/stage_rig.hpp"

#include "calibrate/work.hpp"
#include "runtime/layers/optimizer.hpp"
#include "runtime/layers/random.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>

namespace plumb::measure {

using layers::DataType;
using layers::Tensor;

namespace {
Bytes bytes(std::uint64_t elements, std::uint64_t each) {
  return {static_cast<std::int64_t>(elements * each)};
}

// Noise of the deviation that the parameter begins with; a uniform number on [-a, a] deviates by a / sqrt(3).
void fill_parameter(const layers::Lane& lane, const layers::Parameter& parameter, const ParameterSpec& spec,
                    std::uint64_t seed) {
  if (spec.deviation > 0) {
    fill_uniform(lane, parameter.weights, seed, spec.deviation * std::sqrt(3.0F));
  } else {
    fill_constant(lane, parameter.weights, spec.mean);
  }
}
}  // namespace

StageRig::StageRig(const ModelShape& model, const Layout& layout, Stage stage,
                   layers::ProductAlgorithms& algorithms, const layers::Lane& main,
                   const layers::Lane& beside)
    : main_(main),
      beside_(beside),
      type_(layout.numerics.weights == WeightType::fp32 ? DataType::fp32 : DataType::bf16),
      content_(layout.stages.at(stage.value)),
      makes_input_gradient_(makes_input_gradient(model, layout, stage)),
      specs_(stage_parameters(model, content_)) {
  const std::uint64_t count = elements_of(specs_);
  for (device::Buffer* one : {&gradients_, &other_gradients_, &master_, &first_moment_, &second_moment_}) {
    *one = device::Buffer(bytes(count, 4));
    fill_constant(main, {one->data(), DataType::fp32, 1, count}, 0);
  }
  loss_ = device::Buffer(Bytes{16});
  fill_constant(main, {loss_.data(), DataType::fp32, 1, 4}, 0);
  const auto hold = [&](device::Buffer& weights, device::Buffer& gradients) {
    weights = device::Buffer(bytes(count, layers::bytes_of(type_)));
    const auto parameters = stage_tensors(specs_, type_, weights.data(), gradients.as<float>());
    for (std::size_t i = 0; i < parameters.size(); ++i) fill_parameter(main, parameters[i], specs_[i], i + 1);
    stages_.emplace_back(model, layout, stage, parameters, algorithms, main);
  };
  hold(weights_, gradients_);
  hold(other_weights_, other_gradients_);
  stage_ = &stages_.front();
  convert(main, {weights_.data(), type_, 1, count}, {master_.data(), DataType::fp32, 1, count});

  const layers::StageNeeds& n = stage_->needs();
  const Bytes scratch = std::max({n.forward_scratch, n.backward_input_scratch, n.backward_scratch});
  scratch_ = device::Buffer(scratch);
  scratch_beside_ = device::Buffer(scratch);
  for (int i = 0; i < 2; ++i) {
    microbatches_.push_back(microbatch(model, layout));
    const Microbatch& m = microbatches_.back();
    stage_->forward(main, m.forward, target_of(m));
    stage_->backward_input(main, m.backward, target_of(m));
    stage_->backward_weight(main, m.backward);
  }
  main.stream().synchronize();
}

layers::StageTarget StageRig::target_of(const Microbatch& m) const {
  return {m.target.data(), 1, content_.head ? loss_.as<float>() : nullptr};
}

StageRig::Microbatch StageRig::microbatch(const ModelShape& model, const Layout& layout) {
  const layers::StageNeeds& n = stage_->needs();
  const bool mlp = model.architecture == Architecture::mlp;
  const std::uint64_t tokens = layout.tokens();
  const Bytes hidden = bytes(tokens * model.hidden, layers::bytes_of(type_));
  Microbatch m{device::Buffer(n.input),
               device::Buffer(n.output),
               device::Buffer(n.kept_for_input),
               device::Buffer(n.kept_for_weight),
               device::Buffer(n.gradients_kept),
               device::Buffer(n.output),
               device::Buffer(content_.embedding || !makes_input_gradient_ ? Bytes{} : hidden),
               device::Buffer(content_.head ? (mlp ? hidden : bytes(tokens, 4)) : Bytes{}),
               {},
               {}};
  const std::uint64_t seed = 1000 + 10 * microbatches_.size();
  const auto noise = [&](const device::Buffer& buffer, std::uint64_t which, float amplitude) {
    if (buffer.data())
      fill_uniform(main_, {buffer.data(), type_, tokens, model.hidden}, seed + which, amplitude);
  };
  const auto ids = [&](const device::Buffer& buffer, std::uint64_t which) {
    fill_tokens(main_, buffer.as<std::int32_t>(), tokens, seed + which,
                static_cast<std::uint32_t>(model.vocab));
  };
  content_.embedding && !mlp ? ids(m.input, 1) : noise(m.input, 1, 1.7F);
  noise(m.d_output, 2, 1e-3F);
  if (content_.head) mlp ? noise(m.target, 3, 1.7F) : ids(m.target, 3);
  m.forward = {m.input.data(),      m.output.data(),    m.for_input.data(),
               m.for_weight.data(), m.gradients.data(), layers::Scratch(scratch_.data(), scratch_.bytes())};
  m.backward = m.forward;
  m.backward.input = m.d_output.data();
  m.backward.output = m.d_input.data();
  return m;
}

std::optional<WorkKind> before_in_a_pipeline(WorkKind kind) {
  switch (kind) {
    case WorkKind::forward:
      return WorkKind::backward;
    case WorkKind::backward_input:
    case WorkKind::backward:
      return WorkKind::forward;
    case WorkKind::backward_weight:
      return WorkKind::backward_input;
    case WorkKind::forward_beside_backward:
    case WorkKind::optimizer:
      break;
  }
  return std::nullopt;
}

void StageRig::launch(WorkKind kind) {
  const Microbatch& m = microbatches_[turn_];
  const Microbatch& other = microbatches_[1 - turn_];
  turn_ = 1 - turn_;
  switch (kind) {
    case WorkKind::forward:
      return stage_->forward(main_, m.forward, target_of(m));
    case WorkKind::backward_input:
      return stage_->backward_input(main_, m.backward, target_of(m));
    case WorkKind::backward_weight:
      return stage_->backward_weight(main_, m.backward);
    case WorkKind::backward:
      return stage_->backward(main_, m.backward, target_of(m));
    case WorkKind::forward_beside_backward: {
      layers::StageBuffers forward = other.forward;
      forward.scratch = layers::Scratch(scratch_beside_.data(), scratch_beside_.bytes());
      fork_.record(main_.stream());
      beside_.stream().wait(fork_);
      interleave(stages_.back().launching(OpKind::forward, beside_, forward, target_of(other)),
                 stage_->launching(OpKind::backward, main_, m.backward, target_of(m)));
      join_.record(beside_.stream());
      return main_.stream().wait(join_);
    }
    case WorkKind::optimizer: {
      const std::uint64_t count = elements_of(specs_);
      return adamw_step(main_, {}, 1, 1, {weights_.data(), type_, 1, count}, master_.as<float>(),
                        gradients_.as<float>(), first_moment_.as<float>(), second_moment_.as<float>());
    }
  }
}

}  // namespace plumb::measure
