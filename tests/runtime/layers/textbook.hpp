// The layers as a textbook has them, in double precision on the host: what the device's results are compared
// with. Matrices are row-major std::vector<double>; names and formulas are those of runtime/layers.
#pragma once
#include <cstdint>
#include <vector>

namespace plumb::layers::textbook {

using Matrix = std::vector<double>;

/// y[m, n] = x[m, k] w[n, k]^T, and its two gradients.
Matrix linear(const Matrix& x, const Matrix& w, std::size_t m, std::size_t n, std::size_t k);
Matrix linear_input(const Matrix& dy, const Matrix& w, std::size_t m, std::size_t n, std::size_t k);
Matrix linear_weight(const Matrix& dy, const Matrix& x, std::size_t m, std::size_t n, std::size_t k);

/// `centred`: LayerNorm; otherwise RMSNorm, and bias is not read.
Matrix norm(const Matrix& x, const Matrix& gain, const Matrix& bias, std::size_t rows, bool centred);
struct NormGradients {
  Matrix x, gain, bias;
};
NormGradients norm_gradients(const Matrix& dy, const Matrix& x, const Matrix& gain, std::size_t rows,
                             bool centred);

Matrix swiglu(const Matrix& gate_and_up, std::size_t rows, std::size_t ffn);
Matrix swiglu_gradient(const Matrix& ds, const Matrix& gate_and_up, std::size_t rows, std::size_t ffn);
Matrix gelu(const Matrix& x);
Matrix gelu_gradient(const Matrix& dy, const Matrix& x);

struct Heads {
  std::size_t sequences, sequence, heads, key_value_heads, head_dim;
  std::size_t width() const { return (heads + 2 * key_value_heads) * head_dim; }
};
/// `direction` -1 turns back.
Matrix rope(const Matrix& qkv, const Heads& heads, double direction);
Matrix attention(const Matrix& qkv, const Heads& heads, Matrix* log_sum_exp = nullptr);
Matrix attention_gradient(const Matrix& d_o, const Matrix& qkv, const Heads& heads);

/// Of logits alone, which runtime/reference never has in one place: losses of the rows, and the gradient of
/// `scale` times their sum.
Matrix cross_entropy(const Matrix& logits, const std::vector<std::int32_t>& targets);
Matrix cross_entropy_gradient(const Matrix& logits, const std::vector<std::int32_t>& targets, double scale);

}  // namespace plumb::layers::textbook
