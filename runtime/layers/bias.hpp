// The gradient of a linear's bias. Forward adds the bias in the product itself (matmul.hpp).
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

namespace plumb::layers {

/// gradient [1, width], float32, += the sum over the rows of dy [rows, width], in an order that depends on
/// the shape alone; the width is a multiple of 16 bytes.
void bias_backward_weight(const Lane& lane, const Tensor& dy, const Tensor& gradient);

}  // namespace plumb::layers
