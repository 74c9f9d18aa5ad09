// SwiGLU and GELU, elementwise.
//   swiglu  s = silu(gate) up, silu(z) = z / (1 + exp(-z))           (arXiv 2002.05202)
//   gelu    y = x Phi(x), Phi the normal distribution's, by erf      (arXiv 1606.08415)
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

namespace plumb::layers {

/// gate_and_up [tokens, 2 ffn], the gates first; s [tokens, ffn].
void swiglu_forward(const Lane& lane, const Tensor& gate_and_up, const Tensor& s);
void swiglu_backward(const Lane& lane, const Tensor& ds, const Tensor& gate_and_up,
                     const Tensor& d_gate_and_up);

/// Any two tensors of one shape.
void gelu_forward(const Lane& lane, const Tensor& x, const Tensor& y);
/// dx may be the same tensor as dy.
void gelu_backward(const Lane& lane, const Tensor& dy, const Tensor& x, const Tensor& dx);

}  // namespace plumb::layers
