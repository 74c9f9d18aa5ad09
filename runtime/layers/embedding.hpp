// Rows of a table, looked up by token.
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

#include <cstdint>

namespace plumb::layers {

/// out[token] = table[ids[token]], plus positions[token mod sequence] where there is such a table.
void embedding_forward(const Lane& lane, const std::int32_t* ids, const Tensor& table,
                       const Tensor& positions, std::uint64_t sequence, const Tensor& out);
/// Adds rows of d_out to the float32 gradients. Rows that several tokens share are added up in their order
/// first.
void embedding_backward_weight(const Lane& lane, const std::int32_t* ids, const Tensor& d_out,
                               std::uint64_t sequence, const Tensor& d_table, const Tensor& d_positions);

}  // namespace plumb::layers
