// RMSNorm over each head of the queries and of the keys, as Qwen3 has it: ahead of the rotation, one gain of
// head_dim for all heads of queries and one for all of keys.
#pragma once
#include "runtime/layers/attention.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/tensor.hpp"

namespace plumb::layers {

/// [1, head_dim] each; gradients are float32 and are added to.
struct HeadNormParameters {
  Tensor queries;
  Tensor keys;
};
/// What forward leaves for backward_input.
struct HeadNormKept {
  Tensor x;               // [tokens, (heads + key_value_heads) head_dim]: queries and keys as they came
  float* rstd = nullptr;  // [tokens, heads + key_value_heads]
};

/// Queries and keys of qkv [tokens, size.width()] in place; values stay. head_dim is a multiple of 16 bytes,
/// up to 1 KiB.
void head_norm_forward(const Lane& lane, const AttentionSize& size, const HeadNormParameters& gains,
                       const Tensor& qkv, const HeadNormKept& kept);
/// d_qkv: the gradient of the output, then of the input, in place.
void head_norm_backward(const Lane& lane, Scratch scratch, const AttentionSize& size,
                        const HeadNormParameters& gains, const HeadNormKept& kept, const Tensor& d_qkv,
                        const HeadNormParameters& gradients);
/// Of scratch that head_norm_backward needs.
Bytes head_norm_scratch(const AttentionSize& size, std::uint32_t multiprocessors);

}  // namespace plumb::layers
