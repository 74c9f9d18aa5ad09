// Attention by kernels of our own: what a textbook says, for every type and size of head.
#pragma once
#include "runtime/layers/attention.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

namespace plumb::layers {

/// As Attention's forward and backward.
void plain_attention_forward(const Lane& lane, const AttentionSize& size, const Tensor& qkv, const Tensor& o,
                             float* log_sum_exp);
/// `delta`: scratch, float32 like log_sum_exp.
void plain_attention_backward(const Lane& lane, const AttentionSize& size, const Tensor& d_o,
                              const Tensor& qkv, const Tensor& o, const float* log_sum_exp, float* delta,
                              const Tensor& d_qkv);

}  // namespace plumb::layers
