#include "runtime/reference/layers.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

namespace plumb::reference {
namespace {

// Eight sums side by side, put together in a fixed order: what a compiler may vectorise without changing the
// result.
constexpr std::size_t lanes = 8;

template <class T>
T dot(const T* a, const T* b, std::size_t count) {
  std::array<T, lanes> sums{};
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::size_t l = 0; l < lanes; ++l) sums[l] += a[i + l] * b[i + l];
  }
  T rest = 0;
  for (; i < count; ++i) rest += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])) + rest;
}

// to += factor * from
template <class T>
void add_times(T factor, const T* from, T* to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

}  // namespace

template <class T>
void linear(const LinearShape& shape, std::span<const T> x, std::span<const T> w, std::span<const T> bias,
            std::span<T> y) {
  PLUMB_CHECK(x.size() == shape.tokens * shape.inputs && w.size() == shape.outputs * shape.inputs &&
              y.size() == shape.tokens * shape.outputs && (bias.empty() || bias.size() == shape.outputs));
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    for (std::size_t o = 0; o < shape.outputs; ++o) {
      const T product = dot(&x[t * shape.inputs], &w[o * shape.inputs], shape.inputs);
      y[t * shape.outputs + o] = bias.empty() ? product : product + bias[o];
    }
  }
}

template <class T>
void linear_backward_input(const LinearShape& shape, std::span<const T> dy, std::span<const T> w,
                           std::span<T> dx) {
  PLUMB_CHECK(dx.size() == shape.tokens * shape.inputs && w.size() == shape.outputs * shape.inputs &&
              dy.size() == shape.tokens * shape.outputs);
  std::fill(dx.begin(), dx.end(), T{0});
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    for (std::size_t o = 0; o < shape.outputs; ++o) {
      add_times(dy[t * shape.outputs + o], &w[o * shape.inputs], &dx[t * shape.inputs], shape.inputs);
    }
  }
}

template <class T>
void linear_backward_weight(const LinearShape& shape, std::span<const T> dy, std::span<const T> x,
                            std::span<T> dw, std::span<T> dbias) {
  PLUMB_CHECK(x.size() == shape.tokens * shape.inputs && dw.size() == shape.outputs * shape.inputs &&
              dy.size() == shape.tokens * shape.outputs && (dbias.empty() || dbias.size() == shape.outputs));
  // One block of a row of dw at a time, summed over all tokens before it is added.
  constexpr std::size_t block = 64;
  std::array<T, block> sums;
  for (std::size_t o = 0; o < shape.outputs; ++o) {
    for (std::size_t first = 0; first < shape.inputs; first += block) {
      const std::size_t count = std::min<std::size_t>(block, shape.inputs - first);
      sums.fill(0);
      for (std::size_t t = 0; t < shape.tokens; ++t) {
        add_times(dy[t * shape.outputs + o], &x[t * shape.inputs + first], sums.data(), count);
      }
      for (std::size_t i = 0; i < count; ++i) dw[o * shape.inputs + first + i] += sums[i];
    }
    if (dbias.empty()) continue;
    T sum = 0;
    for (std::size_t t = 0; t < shape.tokens; ++t) sum += dy[t * shape.outputs + o];
    dbias[o] += sum;
  }
}

template <class T>
void rms_norm(const NormShape& shape, std::span<const T> x, std::span<const T> gain, std::span<T> y,
              std::span<T> rstd) {
  PLUMB_CHECK(x.size() == shape.rows * shape.width && y.size() == x.size() && rstd.size() == shape.rows);
  for (std::size_t r = 0; r < shape.rows; ++r) {
    const T* row = &x[r * shape.width];
    const T mean = dot(row, row, shape.width) / static_cast<T>(shape.width);
    rstd[r] = 1 / std::sqrt(mean + static_cast<T>(shape.epsilon));
    for (std::size_t i = 0; i < shape.width; ++i) y[r * shape.width + i] = row[i] * rstd[r] * gain[i];
  }
}

// With n = x rstd and g = dy gain: dx = rstd (g - n mean(g n)); dgain = sum of dy n.
template <class T>
void rms_norm_backward(const NormShape& shape, std::span<const T> dy, std::span<const T> x,
                       std::span<const T> gain, std::span<const T> rstd, std::span<T> dx,
                       std::span<T> dgain) {
  PLUMB_CHECK(dy.size() == shape.rows * shape.width && dx.size() == dy.size() && dgain.size() == shape.width);
  for (std::size_t i = 0; i < shape.width; ++i) {
    T sum = 0;
    for (std::size_t r = 0; r < shape.rows; ++r) {
      sum += dy[r * shape.width + i] * x[r * shape.width + i] * rstd[r];
    }
    dgain[i] += sum;
  }
  for (std::size_t r = 0; r < shape.rows; ++r) {
    const T* dy_row = &dy[r * shape.width];
    const T* x_row = &x[r * shape.width];
    T sum = 0;
    for (std::size_t i = 0; i < shape.width; ++i) sum += dy_row[i] * gain[i] * x_row[i];
    const T mean = sum * rstd[r] / static_cast<T>(shape.width);
    for (std::size_t i = 0; i < shape.width; ++i) {
      dx[r * shape.width + i] = rstd[r] * (dy_row[i] * gain[i] - x_row[i] * rstd[r] * mean);
    }
  }
}

template <class T>
void layer_norm(const NormShape& shape, std::span<const T> x, std::span<const T> gain,
                std::span<const T> bias, std::span<T> y, std::span<T> mean, std::span<T> rstd) {
  PLUMB_CHECK(x.size() == shape.rows * shape.width && y.size() == x.size() && rstd.size() == shape.rows &&
              mean.size() == shape.rows);
  for (std::size_t r = 0; r < shape.rows; ++r) {
    const T* row = &x[r * shape.width];
    T sum = 0;
    for (std::size_t i = 0; i < shape.width; ++i) sum += row[i];
    mean[r] = sum / static_cast<T>(shape.width);
    T squares = 0;
    for (std::size_t i = 0; i < shape.width; ++i) squares += (row[i] - mean[r]) * (row[i] - mean[r]);
    rstd[r] = 1 / std::sqrt(squares / static_cast<T>(shape.width) + static_cast<T>(shape.epsilon));
    for (std::size_t i = 0; i < shape.width; ++i) {
      y[r * shape.width + i] = (row[i] - mean[r]) * rstd[r] * gain[i] + bias[i];
    }
  }
}

// With n = (x - mean) rstd and g = dy gain: dx = rstd (g - mean(g) - n mean(g n)).
template <class T>
void layer_norm_backward(const NormShape& shape, std::span<const T> dy, std::span<const T> x,
                         std::span<const T> gain, std::span<const T> mean, std::span<const T> rstd,
                         std::span<T> dx, std::span<T> dgain, std::span<T> dbias) {
  PLUMB_CHECK(dy.size() == shape.rows * shape.width && dx.size() == dy.size() &&
              dgain.size() == shape.width && dbias.size() == shape.width);
  for (std::size_t i = 0; i < shape.width; ++i) {
    T gain_sum = 0, bias_sum = 0;
    for (std::size_t r = 0; r < shape.rows; ++r) {
      const std::size_t at = r * shape.width + i;
      gain_sum += dy[at] * (x[at] - mean[r]) * rstd[r];
      bias_sum += dy[at];
    }
    dgain[i] += gain_sum;
    dbias[i] += bias_sum;
  }
  for (std::size_t r = 0; r < shape.rows; ++r) {
    const T* dy_row = &dy[r * shape.width];
    const T* x_row = &x[r * shape.width];
    T sum = 0, along = 0;
    for (std::size_t i = 0; i < shape.width; ++i) {
      sum += dy_row[i] * gain[i];
      along += dy_row[i] * gain[i] * (x_row[i] - mean[r]) * rstd[r];
    }
    sum /= static_cast<T>(shape.width);
    along /= static_cast<T>(shape.width);
    for (std::size_t i = 0; i < shape.width; ++i) {
      dx[r * shape.width + i] =
          rstd[r] * (dy_row[i] * gain[i] - sum - (x_row[i] - mean[r]) * rstd[r] * along);
    }
  }
}

template <class T>
void rotate(const AttentionSizes& sizes, std::uint64_t count, bool inverse, std::span<T> x) {
  PLUMB_CHECK(x.size() == sizes.tokens() * count * sizes.head_dim && sizes.head_dim % 2 == 0);
  const std::size_t half = sizes.head_dim / 2;
  for (std::size_t p = 0; p < sizes.length; ++p) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(p) *
          std::pow(10000.0, -static_cast<double>(2 * i) / static_cast<double>(sizes.head_dim));
      const T cosine = static_cast<T>(std::cos(angle));
      const T sine = static_cast<T>(inverse ? -std::sin(angle) : std::sin(angle));
      for (std::size_t s = 0; s < sizes.sequences; ++s) {
        for (std::size_t h = 0; h < count; ++h) {
          T* head = &x[((s * sizes.length + p) * count + h) * sizes.head_dim];
          const T a = head[i], b = head[i + half];
          head[i] = a * cosine - b * sine;
          head[i + half] = b * cosine + a * sine;
        }
      }
    }
  }
}

template <class T>
void attention(const AttentionSizes& sizes, std::span<const T> q, std::span<const T> k, std::span<const T> v,
               std::span<T> o, std::span<T> log_sum_exp) {
  PLUMB_CHECK(q.size() == sizes.tokens() * sizes.heads * sizes.head_dim && o.size() == q.size() &&
              k.size() == sizes.tokens() * sizes.key_value_heads * sizes.head_dim && v.size() == k.size() &&
              log_sum_exp.size() == sizes.tokens() * sizes.heads && sizes.heads % sizes.key_value_heads == 0);
  const std::size_t d = sizes.head_dim;
  const std::size_t share = sizes.heads / sizes.key_value_heads;
  const T scale = 1 / std::sqrt(static_cast<T>(d));
  for (std::size_t s = 0; s < sizes.sequences; ++s) {
    for (std::size_t h = 0; h < sizes.heads; ++h) {
      const auto key = [&](std::size_t t) {
        return ((s * sizes.length + t) * sizes.key_value_heads + h / share) * d;
      };
      for (std::size_t t = 0; t < sizes.length; ++t) {
        const std::size_t row = (s * sizes.length + t) * sizes.heads + h;
        const T* query = &q[row * d];
        T most = -std::numeric_limits<T>::infinity();
        for (std::size_t u = 0; u <= t; ++u) most = std::max(most, dot(query, &k[key(u)], d) * scale);
        T sum = 0;
        T* out = &o[row * d];
        std::fill(out, out + d, T{0});
        for (std::size_t u = 0; u <= t; ++u) {
          const T weight = std::exp(dot(query, &k[key(u)], d) * scale - most);
          sum += weight;
          add_times(weight, &v[key(u)], out, d);
        }
        for (std::size_t i = 0; i < d; ++i) out[i] /= sum;
        log_sum_exp[row] = most + std::log(sum);
      }
    }
  }
}

// With P the probabilities and D = sum(d_o o): dS = P (d_o v^T - D) scale; dq = dS k, dk = dS^T q, dv = P^T
// d_o.
template <class T>
void attention_backward(const AttentionSizes& sizes, std::span<const T> q, std::span<const T> k,
                        std::span<const T> v, std::span<const T> o, std::span<const T> log_sum_exp,
                        std::span<const T> d_o, std::span<T> dq, std::span<T> dk, std::span<T> dv) {
  PLUMB_CHECK(dq.size() == q.size() && dk.size() == k.size() && dv.size() == v.size() &&
              d_o.size() == o.size());
  const std::size_t d = sizes.head_dim;
  const std::size_t share = sizes.heads / sizes.key_value_heads;
  const T scale = 1 / std::sqrt(static_cast<T>(d));
  for (const auto& gradient : {dq, dk, dv}) std::fill(gradient.begin(), gradient.end(), T{0});
  for (std::size_t s = 0; s < sizes.sequences; ++s) {
    for (std::size_t h = 0; h < sizes.heads; ++h) {
      const auto key = [&](std::size_t t) {
        return ((s * sizes.length + t) * sizes.key_value_heads + h / share) * d;
      };
      for (std::size_t t = 0; t < sizes.length; ++t) {
        const std::size_t row = (s * sizes.length + t) * sizes.heads + h;
        const T* query = &q[row * d];
        const T* out_gradient = &d_o[row * d];
        const T along = dot(out_gradient, &o[row * d], d);
        for (std::size_t u = 0; u <= t; ++u) {
          const T probability = std::exp(dot(query, &k[key(u)], d) * scale - log_sum_exp[row]);
          const T score = probability * (dot(out_gradient, &v[key(u)], d) - along) * scale;
          add_times(probability, out_gradient, &dv[key(u)], d);
          add_times(score, &k[key(u)], &dq[row * d], d);
          add_times(score, query, &dk[key(u)], d);
        }
      }
    }
  }
}

template <class T>
void swiglu(std::uint64_t rows, std::uint64_t width, std::span<const T> gate_and_up, std::span<T> y) {
  PLUMB_CHECK(gate_and_up.size() == rows * 2 * width && y.size() == rows * width);
  for (std::size_t r = 0; r < rows; ++r) {
    const T* gate = &gate_and_up[r * 2 * width];
    const T* up = gate + width;
    for (std::size_t i = 0; i < width; ++i) y[r * width + i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  }
}

template <class T>
void swiglu_backward(std::uint64_t rows, std::uint64_t width, std::span<const T> dy,
                     std::span<const T> gate_and_up, std::span<T> d_gate_and_up) {
  PLUMB_CHECK(gate_and_up.size() == rows * 2 * width && d_gate_and_up.size() == gate_and_up.size() &&
              dy.size() == rows * width);
  for (std::size_t r = 0; r < rows; ++r) {
    const T* gate = &gate_and_up[r * 2 * width];
    const T* up = gate + width;
    T* d_gate = &d_gate_and_up[r * 2 * width];
    T* d_up = d_gate + width;
    for (std::size_t i = 0; i < width; ++i) {
      const T sigmoid = 1 / (1 + std::exp(-gate[i]));
      const T silu = gate[i] * sigmoid;
      const T dy_i = dy[r * width + i];
      d_gate[i] = dy_i * up[i] * (sigmoid + silu * (1 - sigmoid));
      d_up[i] = dy_i * silu;
    }
  }
}

template <class T>
void gelu(std::span<const T> x, std::span<T> y) {
  PLUMB_CHECK(x.size() == y.size());
  const T half_root = static_cast<T>(0.70710678118654752440);  // 1 / sqrt 2
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * (1 + std::erf(x[i] * half_root)) / 2;
}

template <class T>
void gelu_backward(std::span<const T> dy, std::span<const T> x, std::span<T> dx) {
  PLUMB_CHECK(x.size() == dy.size() && x.size() == dx.size());
  const T half_root = static_cast<T>(0.70710678118654752440);  // 1 / sqrt 2
  const T density = static_cast<T>(0.39894228040143267794);    // 1 / sqrt(2 pi)
  for (std::size_t i = 0; i < x.size(); ++i) {
    const T below = (1 + std::erf(x[i] * half_root)) / 2;
    dx[i] = dy[i] * (below + x[i] * density * std::exp(-x[i] * x[i] / 2));
  }
}

template <class T>
void embed(std::span<const std::int32_t> tokens, std::uint64_t length, std::uint64_t hidden,
           std::span<const T> table, std::span<const T> positions, std::span<T> y) {
  PLUMB_CHECK(y.size() == tokens.size() * hidden &&
              (positions.empty() || positions.size() >= length * hidden));
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const T* row = &table[static_cast<std::size_t>(tokens[t]) * hidden];
    const T* position = positions.empty() ? nullptr : &positions[t % length * hidden];
    for (std::size_t i = 0; i < hidden; ++i) {
      y[t * hidden + i] = position ? row[i] + position[i] : row[i];
    }
  }
}

template <class T>
void embed_backward_weight(std::span<const std::int32_t> tokens, std::uint64_t length, std::uint64_t hidden,
                           std::span<const T> dy, std::span<T> dtable, std::span<T> dpositions) {
  PLUMB_CHECK(dy.size() == tokens.size() * hidden);
  // A row's share of these tokens is summed before it is added, as a linear's is: the sums of a frequent
  // token over many microbatches would else depend on their order by a rounding for each of its occurrences.
  std::vector<T> sum(hidden);
  const auto add_up = [&](std::span<const std::size_t> rows, T* to) {
    std::fill(sum.begin(), sum.end(), T{0});
    for (const std::size_t t : rows) add_times(T{1}, &dy[t * hidden], sum.data(), hidden);
    add_times(T{1}, sum.data(), to, hidden);
  };
  std::vector<std::size_t> order(tokens.size());
  const auto add_all = [&](const auto& place, T* to) {
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return place(a) < place(b); });
    for (std::size_t first = 0, end = 0; first < order.size(); first = end) {
      while (end < order.size() && place(order[end]) == place(order[first])) ++end;
      add_up(std::span(order).subspan(first, end - first), to + place(order[first]) * hidden);
    }
  };
  add_all([&](std::size_t t) { return static_cast<std::size_t>(tokens[t]); }, dtable.data());
  if (!dpositions.empty()) add_all([&](std::size_t t) { return t % length; }, dpositions.data());
}

template <class T>
double cross_entropy(const LinearShape& head, std::span<const T> x, std::span<const T> w,
                     std::span<const std::int32_t> targets, std::span<T> log_sum_exp) {
  PLUMB_CHECK(x.size() == head.tokens * head.inputs && w.size() == head.outputs * head.inputs &&
              targets.size() == head.tokens && log_sum_exp.size() == head.tokens);
  double loss = 0;
  for (std::size_t t = 0; t < head.tokens; ++t) {
    const T* row = &x[t * head.inputs];
    T most = -std::numeric_limits<T>::infinity();
    for (std::size_t o = 0; o < head.outputs; ++o) {
      most = std::max(most, dot(row, &w[o * head.inputs], head.inputs));
    }
    T sum = 0;
    T at_target = 0;
    for (std::size_t o = 0; o < head.outputs; ++o) {
      const T logit = dot(row, &w[o * head.inputs], head.inputs);
      sum += std::exp(logit - most);
      if (o == static_cast<std::size_t>(targets[t])) at_target = logit;
    }
    log_sum_exp[t] = most + std::log(sum);
    loss += static_cast<double>(log_sum_exp[t]) - static_cast<double>(at_target);
  }
  return loss / static_cast<double>(head.tokens);
}

template <class T>
void cross_entropy_backward_input(const LinearShape& head, std::span<const T> x, std::span<const T> w,
                                  std::span<const std::int32_t> targets, std::span<const T> log_sum_exp,
                                  T scale, std::span<T> d_logits, std::span<T> dx) {
  PLUMB_CHECK(d_logits.size() == head.tokens * head.outputs && dx.size() == head.tokens * head.inputs);
  const T share = scale / static_cast<T>(head.tokens);
  linear(head, x, w, {}, d_logits);
  for (std::size_t t = 0; t < head.tokens; ++t) {
    for (std::size_t o = 0; o < head.outputs; ++o) {
      T& logit = d_logits[t * head.outputs + o];
      const T one = o == static_cast<std::size_t>(targets[t]) ? T{1} : T{0};
      logit = (std::exp(logit - log_sum_exp[t]) - one) * share;
    }
  }
  linear_backward_input(head, std::span<const T>(d_logits), w, dx);
}

template <class T>
double squared_error(std::span<const T> output, std::span<const T> target) {
  PLUMB_CHECK(output.size() == target.size());
  double sum = 0;
  for (std::size_t i = 0; i < output.size(); ++i) {
    const T difference = output[i] - target[i];
    sum += static_cast<double>(difference) * static_cast<double>(difference);
  }
  return sum / static_cast<double>(output.size());
}

template <class T>
void squared_error_backward(std::span<const T> output, std::span<const T> target, T scale,
                            std::span<T> d_output) {
  PLUMB_CHECK(output.size() == target.size() && d_output.size() == output.size());
  const T share = 2 * scale / static_cast<T>(output.size());
  for (std::size_t i = 0; i < output.size(); ++i) d_output[i] = (output[i] - target[i]) * share;
}

template <class T>
void add(std::span<const T> a, std::span<const T> b, std::span<T> sum) {
  PLUMB_CHECK(a.size() == b.size() && a.size() == sum.size());
  for (std::size_t i = 0; i < a.size(); ++i) sum[i] = a[i] + b[i];
}

#define PLUMB_LAYERS_OF(T)                                                                                   \
  template void linear(const LinearShape&, std::span<const T>, std::span<const T>, std::span<const T>,       \
                       std::span<T>);                                                                        \
  template void linear_backward_input(const LinearShape&, std::span<const T>, std::span<const T>,            \
                                      std::span<T>);                                                         \
  template void linear_backward_weight(const LinearShape&, std::span<const T>, std::span<const T>,           \
                                       std::span<T>, std::span<T>);                                          \
  template void rms_norm(const NormShape&, std::span<const T>, std::span<const T>, std::span<T>,             \
                         std::span<T>);                                                                      \
  template void rms_norm_backward(const NormShape&, std::span<const T>, std::span<const T>,                  \
                                  std::span<const T>, std::span<const T>, std::span<T>, std::span<T>);       \
  template void layer_norm(const NormShape&, std::span<const T>, std::span<const T>, std::span<const T>,     \
                           std::span<T>, std::span<T>, std::span<T>);                                        \
  template void layer_norm_backward(const NormShape&, std::span<const T>, std::span<const T>,                \
                                    std::span<const T>, std::span<const T>, std::span<const T>,              \
                                    std::span<T>, std::span<T>, std::span<T>);                               \
  template void rotate(const AttentionSizes&, std::uint64_t, bool, std::span<T>);                            \
  template void attention(const AttentionSizes&, std::span<const T>, std::span<const T>, std::span<const T>, \
                          std::span<T>, std::span<T>);                                                       \
  template void attention_backward(const AttentionSizes&, std::span<const T>, std::span<const T>,            \
                                   std::span<const T>, std::span<const T>, std::span<const T>,               \
                                   std::span<const T>, std::span<T>, std::span<T>, std::span<T>);            \
  template void swiglu(std::uint64_t, std::uint64_t, std::span<const T>, std::span<T>);                      \
  template void swiglu_backward(std::uint64_t, std::uint64_t, std::span<const T>, std::span<const T>,        \
                                std::span<T>);                                                               \
  template void gelu(std::span<const T>, std::span<T>);                                                      \
  template void gelu_backward(std::span<const T>, std::span<const T>, std::span<T>);                         \
  template void embed(std::span<const std::int32_t>, std::uint64_t, std::uint64_t, std::span<const T>,       \
                      std::span<const T>, std::span<T>);                                                     \
  template void embed_backward_weight(std::span<const std::int32_t>, std::uint64_t, std::uint64_t,           \
                                      std::span<const T>, std::span<T>, std::span<T>);                       \
  template double cross_entropy(const LinearShape&, std::span<const T>, std::span<const T>,                  \
                                std::span<const std::int32_t>, std::span<T>);                                \
  template void cross_entropy_backward_input(const LinearShape&, std::span<const T>, std::span<const T>,     \
                                             std::span<const std::int32_t>, std::span<const T>, T,           \
                                             std::span<T>, std::span<T>);                                    \
  template double squared_error(std::span<const T>, std::span<const T>);                                     \
  template void squared_error_backward(std::span<const T>, std::span<const T>, T, std::span<T>);             \
  template void add(std::span<const T>, std::span<const T>, std::span<T>);

PLUMB_LAYERS_OF(float)
PLUMB_LAYERS_OF(double)
#undef PLUMB_LAYERS_OF

}  // namespace plumb::reference
