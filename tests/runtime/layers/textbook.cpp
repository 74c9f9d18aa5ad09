#include "tests/runtime/layers/textbook.hpp"

#include "runtime/reference/layers.hpp"

#include <cmath>
#include <span>

namespace plumb::layers::textbook {
namespace {

using In = std::span<const double>;
using Out = std::span<double>;

reference::AttentionSizes sizes_of(const Heads& h) {
  return {h.sequences, h.sequence, h.heads, h.key_value_heads, h.head_dim};
}

// The columns [begin, begin + width) of rows of `all`, and back.
Matrix columns(const Matrix& all, std::size_t row, std::size_t begin, std::size_t width) {
  Matrix part;
  for (std::size_t at = begin; at < all.size(); at += row) {
    part.insert(part.end(), all.begin() + static_cast<std::ptrdiff_t>(at),
                all.begin() + static_cast<std::ptrdiff_t>(at + width));
  }
  return part;
}
void put_columns(const Matrix& part, std::size_t row, std::size_t begin, std::size_t width, Matrix& all) {
  for (std::size_t i = 0; i < part.size(); ++i) all[i / width * row + begin + i % width] = part[i];
}

struct QueriesKeysValues {
  Matrix q, k, v;
};
QueriesKeysValues apart(const Matrix& qkv, const Heads& h) {
  const std::size_t q = h.heads * h.head_dim;
  const std::size_t k = h.key_value_heads * h.head_dim;
  return {columns(qkv, h.width(), 0, q), columns(qkv, h.width(), q, k), columns(qkv, h.width(), q + k, k)};
}
Matrix together(const QueriesKeysValues& parts, const Heads& h) {
  const std::size_t q = h.heads * h.head_dim;
  const std::size_t k = h.key_value_heads * h.head_dim;
  Matrix all(h.sequences * h.sequence * h.width());
  put_columns(parts.q, h.width(), 0, q, all);
  put_columns(parts.k, h.width(), q, k, all);
  put_columns(parts.v, h.width(), q + k, k, all);
  return all;
}

struct RowStatistics {
  Matrix mean, rstd;
};
Matrix norm_with(const Matrix& x, const Matrix& gain, const Matrix& bias, std::size_t rows, bool centred,
                 RowStatistics& s) {
  Matrix y(x.size());
  s = {Matrix(rows), Matrix(rows)};
  const reference::NormShape shape{rows, x.size() / rows};
  centred ? reference::layer_norm<double>(shape, x, gain, bias, y, s.mean, s.rstd)
          : reference::rms_norm<double>(shape, x, gain, y, s.rstd);
  return y;
}

}  // namespace

Matrix linear(const Matrix& x, const Matrix& w, std::size_t m, std::size_t n, std::size_t k) {
  Matrix y(m * n);
  reference::linear<double>({m, k, n}, x, w, In{}, y);
  return y;
}
Matrix linear_input(const Matrix& dy, const Matrix& w, std::size_t m, std::size_t n, std::size_t k) {
  Matrix dx(m * k);
  reference::linear_backward_input<double>({m, k, n}, dy, w, dx);
  return dx;
}
Matrix linear_weight(const Matrix& dy, const Matrix& x, std::size_t m, std::size_t n, std::size_t k) {
  Matrix dw(n * k);
  reference::linear_backward_weight<double>({m, k, n}, dy, x, dw, Out{});
  return dw;
}

Matrix norm(const Matrix& x, const Matrix& gain, const Matrix& bias, std::size_t rows, bool centred) {
  RowStatistics statistics;
  return norm_with(x, gain, bias, rows, centred, statistics);
}
NormGradients norm_gradients(const Matrix& dy, const Matrix& x, const Matrix& gain, std::size_t rows,
                             bool centred) {
  const reference::NormShape shape{rows, x.size() / rows};
  RowStatistics s;
  norm_with(x, gain, Matrix(shape.width), rows, centred, s);
  NormGradients g{Matrix(x.size()), Matrix(shape.width), Matrix(shape.width)};
  centred ? reference::layer_norm_backward<double>(shape, dy, x, gain, s.mean, s.rstd, g.x, g.gain, g.bias)
          : reference::rms_norm_backward<double>(shape, dy, x, gain, s.rstd, g.x, g.gain);
  return g;
}

Matrix swiglu(const Matrix& gate_and_up, std::size_t rows, std::size_t ffn) {
  Matrix s(rows * ffn);
  reference::swiglu<double>(rows, ffn, gate_and_up, s);
  return s;
}
Matrix swiglu_gradient(const Matrix& ds, const Matrix& gate_and_up, std::size_t rows, std::size_t ffn) {
  Matrix d(gate_and_up.size());
  reference::swiglu_backward<double>(rows, ffn, ds, gate_and_up, d);
  return d;
}
Matrix gelu(const Matrix& x) {
  Matrix y(x.size());
  reference::gelu<double>(x, y);
  return y;
}
Matrix gelu_gradient(const Matrix& dy, const Matrix& x) {
  Matrix dx(x.size());
  reference::gelu_backward<double>(dy, x, dx);
  return dx;
}

Matrix rope(const Matrix& qkv, const Heads& h, double direction) {
  QueriesKeysValues parts = apart(qkv, h);
  reference::rotate<double>(sizes_of(h), h.heads, direction < 0, parts.q);
  reference::rotate<double>(sizes_of(h), h.key_value_heads, direction < 0, parts.k);
  return together(parts, h);
}

Matrix attention(const Matrix& qkv, const Heads& h, Matrix* log_sum_exp) {
  const QueriesKeysValues in = apart(qkv, h);
  Matrix o(in.q.size());
  Matrix total(h.sequences * h.sequence * h.heads);
  reference::attention<double>(sizes_of(h), in.q, in.k, in.v, o, total);
  if (log_sum_exp) {  // [tokens, heads] there, [sequences, heads, sequence] on the device
    log_sum_exp->resize(total.size());
    for (std::size_t i = 0; i < total.size(); ++i) {
      const std::size_t token = i / h.heads;
      (*log_sum_exp)[(token / h.sequence * h.heads + i % h.heads) * h.sequence + token % h.sequence] =
          total[i];
    }
  }
  return o;
}
Matrix attention_gradient(const Matrix& d_o, const Matrix& qkv, const Heads& h) {
  const QueriesKeysValues in = apart(qkv, h);
  Matrix o(in.q.size());
  Matrix total(h.sequences * h.sequence * h.heads);
  reference::attention<double>(sizes_of(h), in.q, in.k, in.v, o, total);
  QueriesKeysValues d{Matrix(in.q.size()), Matrix(in.k.size()), Matrix(in.v.size())};
  reference::attention_backward<double>(sizes_of(h), in.q, in.k, in.v, o, total, d_o, d.q, d.k, d.v);
  return together(d, h);
}

Matrix cross_entropy(const Matrix& logits, const std::vector<std::int32_t>& targets) {
  const std::size_t width = logits.size() / targets.size();
  Matrix losses(targets.size());
  for (std::size_t r = 0; r < targets.size(); ++r) {
    double sum = 0;
    for (std::size_t i = 0; i < width; ++i) sum += std::exp(logits[r * width + i]);
    losses[r] = std::log(sum) - logits[r * width + static_cast<std::size_t>(targets[r])];
  }
  return losses;
}

Matrix cross_entropy_gradient(const Matrix& logits, const std::vector<std::int32_t>& targets, double scale) {
  const std::size_t width = logits.size() / targets.size();
  Matrix d(logits.size());
  for (std::size_t r = 0; r < targets.size(); ++r) {
    double sum = 0;
    for (std::size_t i = 0; i < width; ++i) sum += std::exp(logits[r * width + i]);
    for (std::size_t i = 0; i < width; ++i) {
      d[r * width + i] = scale * (std::exp(logits[r * width + i]) / sum -
                                  (static_cast<std::size_t>(targets[r]) == i ? 1.0 : 0.0));
    }
  }
  return d;
}

}  // namespace plumb::layers::textbook
