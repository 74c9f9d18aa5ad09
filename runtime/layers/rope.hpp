// The rotary embedding (arXiv 2104.09864), which turns queries and keys by their position.
#pragma once
#include "runtime/layers/attention.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

namespace plumb::layers {

/// cos and sin of position p and pair i, p / base^(2i / head_dim): float32 [sequence, head_dim / 2, 2].
Bytes rope_table_bytes(const AttentionSize& size);
void make_rope_table(const Lane& lane, const AttentionSize& size, float base, float* table);
/// Turns queries and keys of qkv in place; element i of a head is paired with i + head_dim / 2.
void rope_forward(const Lane& lane, const AttentionSize& size, const float* table, const Tensor& qkv);
/// Turns the gradients back.
void rope_backward(const Lane& lane, const AttentionSize& size, const float* table, const Tensor& d_qkv);

}  // namespace plumb::layers
