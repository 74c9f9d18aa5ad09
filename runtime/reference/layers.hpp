// The layers on the host, as plain as they can be: the oracle of every other implementation, and the
// arithmetic of cpu_backend. T is float or double; what is summed is summed in T, in an order that depends on
// the shape alone. Row-major without gaps; [rows, columns] beside every tensor. Forward, backward_input and
// backward_weight apart: backward_weight adds to what is there, everything else overwrites.
#pragma once
#include <cstdint>
#include <span>

namespace plumb::reference {

/// y [tokens, outputs] = x [tokens, inputs] w [outputs, inputs]^T (+ bias [outputs]); an empty bias is none.
struct LinearShape {
  std::uint64_t tokens = 0;
  std::uint64_t inputs = 0;
  std::uint64_t outputs = 0;
};
template <class T>
void linear(const LinearShape& shape, std::span<const T> x, std::span<const T> w, std::span<const T> bias,
            std::span<T> y);
/// dx [tokens, inputs] = dy w
template <class T>
void linear_backward_input(const LinearShape& shape, std::span<const T> dy, std::span<const T> w,
                           std::span<T> dx);
/// dw += dy^T x, dbias += the sum of dy over the tokens. Each call's sum is complete before it is added.
template <class T>
void linear_backward_weight(const LinearShape& shape, std::span<const T> dy, std::span<const T> x,
                            std::span<T> dw, std::span<T> dbias);

/// Rows are normalised on their own. The denominator's term: 1e-5, as Llama's and GPT-2's.
struct NormShape {
  std::uint64_t rows = 0;
  std::uint64_t width = 0;
  double epsilon = 1e-5;
};
/// y = x rstd gain, rstd [rows] = 1 / sqrt(mean(x^2) + epsilon)
template <class T>
void rms_norm(const NormShape& shape, std::span<const T> x, std::span<const T> gain, std::span<T> y,
              std::span<T> rstd);
/// dx, and dgain [width] += over the rows; so that x can be given back with backward_input.
template <class T>
void rms_norm_backward(const NormShape& shape, std::span<const T> dy, std::span<const T> x,
                       std::span<const T> gain, std::span<const T> rstd, std::span<T> dx, std::span<T> dgain);
/// y = (x - mean) rstd gain + bias, rstd [rows] = 1 / sqrt(variance + epsilon)
template <class T>
void layer_norm(const NormShape& shape, std::span<const T> x, std::span<const T> gain,
                std::span<const T> bias, std::span<T> y, std::span<T> mean, std::span<T> rstd);
template <class T>
void layer_norm_backward(const NormShape& shape, std::span<const T> dy, std::span<const T> x,
                         std::span<const T> gain, std::span<const T> mean, std::span<const T> rstd,
                         std::span<T> dx, std::span<T> dgain, std::span<T> dbias);

/// Of one microbatch: `sequences` of `length` tokens each.
struct AttentionSizes {
  std::uint64_t sequences = 0;
  std::uint64_t length = 0;
  std::uint64_t heads = 0;
  std::uint64_t key_value_heads = 0;  // heads / key_value_heads queries share one key and value
  std::uint64_t head_dim = 0;
  std::uint64_t tokens() const { return sequences * length; }
};
/// Turns x [tokens, count, head_dim] in place by position (arXiv 2104.09864, in Llama's layout: element i
/// with i + head_dim / 2, base 10000). `inverse` turns back, which is the gradient's way.
template <class T>
void rotate(const AttentionSizes& sizes, std::uint64_t count, bool inverse, std::span<T> x);
/// o [tokens, heads, head_dim] of q [tokens, heads, head_dim] and k, v [tokens, key_value_heads, head_dim],
/// causal, scores divided by sqrt(head_dim); log_sum_exp [tokens, heads] of the scores.
template <class T>
void attention(const AttentionSizes& sizes, std::span<const T> q, std::span<const T> k, std::span<const T> v,
               std::span<T> o, std::span<T> log_sum_exp);
/// The probabilities are made again from log_sum_exp.
template <class T>
void attention_backward(const AttentionSizes& sizes, std::span<const T> q, std::span<const T> k,
                        std::span<const T> v, std::span<const T> o, std::span<const T> log_sum_exp,
                        std::span<const T> d_o, std::span<T> dq, std::span<T> dk, std::span<T> dv);

/// y [rows, width] = silu(gate) up, of gate_and_up [rows, 2 width], gate first.
template <class T>
void swiglu(std::uint64_t rows, std::uint64_t width, std::span<const T> gate_and_up, std::span<T> y);
template <class T>
void swiglu_backward(std::uint64_t rows, std::uint64_t width, std::span<const T> dy,
                     std::span<const T> gate_and_up, std::span<T> d_gate_and_up);
/// The exact one: x (1 + erf(x / sqrt 2)) / 2.
template <class T>
void gelu(std::span<const T> x, std::span<T> y);
template <class T>
void gelu_backward(std::span<const T> dy, std::span<const T> x, std::span<T> dx);

/// y [tokens, hidden] = table[token] (+ positions[place in its sequence]); an empty `positions` is none.
template <class T>
void embed(std::span<const std::int32_t> tokens, std::uint64_t length, std::uint64_t hidden,
           std::span<const T> table, std::span<const T> positions, std::span<T> y);
template <class T>
void embed_backward_weight(std::span<const std::int32_t> tokens, std::uint64_t length, std::uint64_t hidden,
                           std::span<const T> dy, std::span<T> dtable, std::span<T> dpositions);

/// The head and its loss in one: logits = x [tokens, hidden] w [vocab, hidden]^T live a token at a time.
/// Returns the mean over the tokens of -log softmax(logits)[target]; log_sum_exp [tokens] is kept instead of
/// the logits.
template <class T>
double cross_entropy(const LinearShape& head, std::span<const T> x, std::span<const T> w,
                     std::span<const std::int32_t> targets, std::span<T> log_sum_exp);
/// d_logits [tokens, vocab] = (softmax - one at the target) scale / tokens, the logits made again; dx =
/// d_logits w. The head's backward_weight is linear_backward_weight of d_logits and x.
template <class T>
void cross_entropy_backward_input(const LinearShape& head, std::span<const T> x, std::span<const T> w,
                                  std::span<const std::int32_t> targets, std::span<const T> log_sum_exp,
                                  T scale, std::span<T> d_logits, std::span<T> dx);

/// The mean of (output - target)^2, and its gradient 2 (output - target) scale / elements.
template <class T>
double squared_error(std::span<const T> output, std::span<const T> target);
template <class T>
void squared_error_backward(std::span<const T> output, std::span<const T> target, T scale,
                            std::span<T> d_output);

/// sum = a + b; sum may be one of them.
template <class T>
void add(std::span<const T> a, std::span<const T> b, std::span<T> sum);

}  // namespace plumb::reference
