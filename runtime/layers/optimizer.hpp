// AdamW (arXiv 1711.05101) over one tensor of parameters, or several that lie together.
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

#include <cstdint>

namespace plumb::layers {

struct AdamW {
  float learning_rate = 1e-3F;
  float beta_1 = 0.9F;
  float beta_2 = 0.999F;
  float epsilon = 1e-8F;
  float weight_decay = 0.01F;
};

/// Step `step` (from 1) of every element: the gradient (float32) times `gradient_scale` moves the moments and
/// the float32 master, `weights` becomes the master in its own type, and the gradient becomes 0 for the next
/// step.
void adamw_step(const Lane& lane, const AdamW& settings, std::uint64_t step, float gradient_scale,
                const Tensor& weights, float* master, float* gradient, float* first_moment,
                float* second_moment);

}  // namespace plumb::layers
