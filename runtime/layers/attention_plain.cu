// A warp a row: it computes what a textbook says, in float32, and needs nothing from elsewhere. It is the
// attention of float32 models and of heads that cuDNN does not take; speed is not its aim.
#include "runtime/layers/attention_plain.hpp"
#include "runtime/layers/vector.cuh"

#include <cmath>

namespace plumb::layers {
namespace {

constexpr unsigned warps_a_block = 8;
constexpr int most_elements = 8;  // of a head in one lane of a warp: head_dim up to 256

struct Shape {
  unsigned sequence, heads, key_value_heads, head_dim, width;
  float scale;
  __device__ unsigned key_offset(unsigned key_head) const { return (heads + key_head) * head_dim; }
  __device__ unsigned value_offset(unsigned key_head) const {
    return (heads + key_value_heads + key_head) * head_dim;
  }
};

template <class T>
__device__ void load_head(const T* from, unsigned head_dim, float (&values)[most_elements]) {
#pragma unroll
  for (int e = 0; e < most_elements; ++e) {
    const unsigned at = threadIdx.x + 32 * e;
    values[e] = at < head_dim ? to_float(from[at]) : 0.0F;
  }
}
template <class T>
__device__ void store_head(T* to, unsigned head_dim, const float (&values)[most_elements]) {
#pragma unroll
  for (int e = 0; e < most_elements; ++e) {
    const unsigned at = threadIdx.x + 32 * e;
    if (at < head_dim) to[at] = from_float<T>(values[e]);
  }
}
__device__ float dot(const float (&a)[most_elements], const float (&b)[most_elements]) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < most_elements; ++e) sum += a[e] * b[e];
  return warp_sum(sum);
}

// Rows of work: [sequences, heads, sequence] for queries. Softmax on the way, as in arXiv 1805.02867.
template <class T>
__global__ void forward_kernel(Shape s, const T* qkv, T* o, float* log_sum_exp, std::uint64_t rows) {
  const std::uint64_t row = std::uint64_t{blockIdx.x} * warps_a_block + threadIdx.y;
  if (row >= rows) return;
  const unsigned query = row % s.sequence;
  const unsigned head = row / s.sequence % s.heads;
  const std::uint64_t first = row / s.sequence / s.heads * s.sequence;  // token of its sequence
  const unsigned key_head = head / (s.heads / s.key_value_heads);
  float q[most_elements];
  float sum[most_elements] = {};
  load_head(qkv + (first + query) * s.width + head * s.head_dim, s.head_dim, q);
  float largest = -INFINITY;
  float total = 0;
  for (unsigned key = 0; key <= query; ++key) {
    const T* token = qkv + (first + key) * s.width;
    float k[most_elements];
    float v[most_elements];
    load_head(token + s.key_offset(key_head), s.head_dim, k);
    load_head(token + s.value_offset(key_head), s.head_dim, v);
    const float score = dot(q, k) * s.scale;
    const float before = largest;
    largest = fmaxf(largest, score);
    const float shrink = expf(before - largest);
    const float weight = expf(score - largest);
    total = total * shrink + weight;
#pragma unroll
    for (int e = 0; e < most_elements; ++e) sum[e] = sum[e] * shrink + weight * v[e];
  }
#pragma unroll
  for (int e = 0; e < most_elements; ++e) sum[e] /= total;
  store_head(o + (first + query) * s.heads * s.head_dim + head * s.head_dim, s.head_dim, sum);
  if (threadIdx.x == 0) log_sum_exp[row] = largest + logf(total);
}

// With P the probabilities and D a row's sum of dO O: dS = P (dO V^T - D), dQ = dS K scale. D is left for the
// keys.
template <class T>
__global__ void query_kernel(Shape s, const T* d_o, const T* qkv, const T* o, const float* log_sum_exp,
                             float* delta, T* d_qkv, std::uint64_t rows) {
  const std::uint64_t row = std::uint64_t{blockIdx.x} * warps_a_block + threadIdx.y;
  if (row >= rows) return;
  const unsigned query = row % s.sequence;
  const unsigned head = row / s.sequence % s.heads;
  const std::uint64_t first = row / s.sequence / s.heads * s.sequence;
  const unsigned key_head = head / (s.heads / s.key_value_heads);
  const std::uint64_t out = (first + query) * s.heads * s.head_dim + head * s.head_dim;
  float q[most_elements];
  float d[most_elements];
  float result[most_elements];
  float sum[most_elements] = {};
  load_head(qkv + (first + query) * s.width + head * s.head_dim, s.head_dim, q);
  load_head(d_o + out, s.head_dim, d);
  load_head(o + out, s.head_dim, result);
  const float along = dot(d, result);
  for (unsigned key = 0; key <= query; ++key) {
    const T* token = qkv + (first + key) * s.width;
    float k[most_elements];
    float v[most_elements];
    load_head(token + s.key_offset(key_head), s.head_dim, k);
    load_head(token + s.value_offset(key_head), s.head_dim, v);
    const float probability = expf(dot(q, k) * s.scale - log_sum_exp[row]);
    const float slope = probability * (dot(d, v) - along) * s.scale;
#pragma unroll
    for (int e = 0; e < most_elements; ++e) sum[e] += slope * k[e];
  }
  store_head(d_qkv + (first + query) * s.width + head * s.head_dim, s.head_dim, sum);
  if (threadIdx.x == 0) delta[row] = along;
}

// dK = dS^T Q scale, dV = P^T dO, over all queries that saw the key, of all heads that share it: no atomics.
template <class T>
__global__ void key_kernel(Shape s, const T* d_o, const T* qkv, const float* log_sum_exp, const float* delta,
                           T* d_qkv, std::uint64_t rows) {
  const std::uint64_t row = std::uint64_t{blockIdx.x} * warps_a_block + threadIdx.y;
  if (row >= rows) return;
  const unsigned key = row % s.sequence;
  const unsigned key_head = row / s.sequence % s.key_value_heads;
  const std::uint64_t sequence = row / s.sequence / s.key_value_heads;
  const std::uint64_t first = sequence * s.sequence;
  const unsigned shared_by = s.heads / s.key_value_heads;
  float k[most_elements];
  float v[most_elements];
  float d_k[most_elements] = {};
  float d_v[most_elements] = {};
  load_head(qkv + (first + key) * s.width + s.key_offset(key_head), s.head_dim, k);
  load_head(qkv + (first + key) * s.width + s.value_offset(key_head), s.head_dim, v);
  for (unsigned head = key_head * shared_by; head < (key_head + 1) * shared_by; ++head) {
    for (unsigned query = key; query < s.sequence; ++query) {
      const std::uint64_t at = (sequence * s.heads + head) * s.sequence + query;
      float q[most_elements];
      float d[most_elements];
      load_head(qkv + (first + query) * s.width + head * s.head_dim, s.head_dim, q);
      load_head(d_o + (first + query) * s.heads * s.head_dim + head * s.head_dim, s.head_dim, d);
      const float probability = expf(dot(q, k) * s.scale - log_sum_exp[at]);
      const float slope = probability * (dot(d, v) - delta[at]) * s.scale;
#pragma unroll
      for (int e = 0; e < most_elements; ++e) {
        d_k[e] += slope * q[e];
        d_v[e] += probability * d[e];
      }
    }
  }
  store_head(d_qkv + (first + key) * s.width + s.key_offset(key_head), s.head_dim, d_k);
  store_head(d_qkv + (first + key) * s.width + s.value_offset(key_head), s.head_dim, d_v);
}

Shape shape_of(const AttentionSize& size) {
  PLUMB_CHECK(size.head_dim <= 32 * most_elements && size.heads % size.key_value_heads == 0);
  return {static_cast<unsigned>(size.sequence),        static_cast<unsigned>(size.heads),
          static_cast<unsigned>(size.key_value_heads), static_cast<unsigned>(size.head_dim),
          static_cast<unsigned>(size.width()),         1.0F / sqrtf(static_cast<float>(size.head_dim))};
}
unsigned blocks_for(std::uint64_t rows) {
  return static_cast<unsigned>((rows + warps_a_block - 1) / warps_a_block);
}

}  // namespace

void plain_attention_forward(const Lane& lane, const AttentionSize& size, const Tensor& qkv, const Tensor& o,
                             float* log_sum_exp) {
  const std::uint64_t rows = size.tokens() * size.heads;
  with_type(size.type, [&](auto t) {
    using T = decltype(t);
    forward_kernel<<<blocks_for(rows), dim3(32, warps_a_block), 0, lane.stream().handle()>>>(
        shape_of(size), qkv.as<const T>(), o.as<T>(), log_sum_exp, rows);
  });
  check_launch();
}

void plain_attention_backward(const Lane& lane, const AttentionSize& size, const Tensor& d_o,
                              const Tensor& qkv, const Tensor& o, const float* log_sum_exp, float* delta,
                              const Tensor& d_qkv) {
  const std::uint64_t query_rows = size.tokens() * size.heads;
  const std::uint64_t key_rows = size.tokens() * size.key_value_heads;
  const dim3 warps(32, warps_a_block);
  with_type(size.type, [&](auto t) {
    using T = decltype(t);
    query_kernel<<<blocks_for(query_rows), warps, 0, lane.stream().handle()>>>(
        shape_of(size), d_o.as<const T>(), qkv.as<const T>(), o.as<const T>(), log_sum_exp, delta,
        d_qkv.as<T>(), query_rows);
    check_launch();
    key_kernel<<<blocks_for(key_rows), warps, 0, lane.stream().handle()>>>(
        shape_of(size), d_o.as<const T>(), qkv.as<const T>(), log_sum_exp, static_cast<const float*>(delta),
        d_qkv.as<T>(), key_rows);
  });
  check_launch();
}

}  // namespace plumb::layers
