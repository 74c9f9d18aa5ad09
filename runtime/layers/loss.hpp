// Cross-entropy over a vocabulary, and mean squared error.
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/tensor.hpp"

#include <cstdint>

namespace plumb::layers {

/// Of each row of logits [tokens, vocabulary]: log_sum_exp, and losses = log_sum_exp - logits[target].
/// float32 [tokens].
void cross_entropy_forward(const Lane& lane, const Tensor& logits, const std::int32_t* targets,
                           float* log_sum_exp, float* losses);
/// d_logits = scale (softmax(logits) - one at the target), in place where d_logits is logits.
void cross_entropy_backward(const Lane& lane, const Tensor& logits, const std::int32_t* targets,
                            const float* log_sum_exp, float scale, const Tensor& d_logits);

/// Adds scale * sum over all elements of (y - target)^2 to *loss (float32, on the device). `copy`, where it
/// is not empty, becomes the target.
void mean_square_forward(const Lane& lane, Scratch scratch, const Tensor& y, const Tensor& target,
                         float scale, float* loss, const Tensor& copy = {});
/// dy = 2 scale (y - target).
void mean_square_backward(const Lane& lane, const Tensor& y, const Tensor& target, float scale,
                          const Tensor& dy);

/// Adds scale times the sum of `count` floats to *sum, in a fixed order.
void add_sum(const Lane& lane, const float* values, std::uint64_t count, float scale, float* sum);
/// Of scratch that mean_square_forward needs.
Bytes loss_scratch(std::uint32_t multiprocessors);

}  // namespace plumb::layers
