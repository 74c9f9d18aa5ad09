// RMSNorm and LayerNorm over a row.
//   rms_norm    y = x rstd gain,                 rstd = 1 / sqrt(mean(x^2) + epsilon)      (arXiv 1910.07467)
//   layer_norm  y = (x - mean) rstd gain + bias, rstd = 1 / sqrt(var(x) + epsilon)         (arXiv 1607.06450)
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/tensor.hpp"
#include "schedules/model/model_shape.hpp"

namespace plumb::layers {

/// Gains and biases, [1, width]; no bias with rms_norm. Gradients are float32 and are added to.
struct NormParameters {
  Tensor gain;
  Tensor bias;
};
/// What forward leaves for backward_input: float32, a number a row; no mean with rms_norm.
struct NormStatistics {
  float* mean = nullptr;
  float* rstd = nullptr;
};

inline constexpr float norm_epsilon = 1e-5F;

/// x, y [tokens, width]; the width is a multiple of 16 bytes, up to 64 KiB. `copy`, where it is not
/// empty, becomes x.
void norm_forward(const Lane& lane, NormKind kind, const Tensor& x, const NormParameters& parameters,
                  const Tensor& y, const NormStatistics& statistics, const Tensor& copy = {});

/// dx = the gradient through the norm, plus `residual` (what reached x past the norm) where that is not
/// empty; dx may be the same tensor as `residual`. The gains' gradients are small sums over what is read here
/// anyway, so they are computed here too: nothing is left for backward_weight.
void norm_backward(const Lane& lane, Scratch scratch, NormKind kind, const Tensor& dy, const Tensor& x,
                   const NormParameters& parameters, const NormStatistics& statistics, const Tensor& residual,
                   const Tensor& dx, const NormParameters& gradients);
/// Of scratch that norm_backward needs.
Bytes norm_scratch(NormKind kind, std::uint64_t width, std::uint32_t multiprocessors);

}  // namespace plumb::layers
