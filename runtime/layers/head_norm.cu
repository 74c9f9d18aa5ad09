#include "runtime/layers/head_norm.hpp"
#include "runtime/layers/partial_sums.cuh"
#include "runtime/layers/vector.cuh"

namespace plumb::layers {
namespace {

constexpr unsigned warps = 8;  // of a block; each takes a head of a token at a time
constexpr unsigned blocks_a_multiprocessor = 4;
constexpr int most_packs = 2;  // of a head, a thread

struct Heads {
  unsigned tokens, queries, keys;  // heads
  unsigned packs;                  // of a head
  unsigned width;                  // of a token's row of qkv, in packs
  __device__ unsigned each() const { return queries + keys; }
  __device__ unsigned all() const { return tokens * each(); }
  __device__ std::uint64_t at(unsigned head) const {
    return std::uint64_t{head / each()} * width + std::uint64_t{head % each()} * packs;
  }
};

template <class T>
__global__ void forward_kernel(Heads heads, T* qkv, const T* query_gain, const T* key_gain, T* x,
                               float* rstd) {
  constexpr int size = Pack<T>::size;
  const unsigned lane = threadIdx.x % 32;
  const unsigned head = blockIdx.x * warps + threadIdx.x / 32;
  if (head >= heads.all()) return;
  const T* gain = head % heads.each() < heads.queries ? query_gain : key_gain;
  Pack<T> in[most_packs];
  float squares = 0;
#pragma unroll
  for (int p = 0; p < most_packs; ++p) {
    const unsigned at = lane + 32 * p;
    if (at >= heads.packs) continue;
    in[p] = load(qkv, heads.at(head) + at);
    store(x, std::uint64_t{head} * heads.packs + at, in[p]);
#pragma unroll
    for (int i = 0; i < size; ++i) squares += in[p][i] * in[p][i];
  }
  const float own = rsqrtf(warp_sum(squares) / static_cast<float>(heads.packs * size) + norm_epsilon);
  if (lane == 0) rstd[head] = own;
#pragma unroll
  for (int p = 0; p < most_packs; ++p) {
    const unsigned at = lane + 32 * p;
    if (at >= heads.packs) continue;
    const Pack<T> gains = load(gain, at);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < size; ++i) out.set(i, in[p][i] * own * gains[i]);
    store(qkv, heads.at(head) + at, out);
  }
}

// With n = x rstd and g = dy gain: dx = rstd (g - n mean(g n)); the gain's gradient is the sum of dy n.
// partial: [queries, keys][block][head_dim].
template <class T>
__global__ void backward_kernel(Heads heads, T* d_qkv, const T* query_gain, const T* key_gain, const T* x,
                                const float* rstd, float* partial) {
  constexpr int size = Pack<T>::size;
  extern __shared__ float shared[];  // [queries, keys][warp][head_dim]
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  const unsigned head_dim = heads.packs * size;
  float sums[2][most_packs][size] = {};
  for (unsigned head = blockIdx.x * warps + warp; head < heads.all(); head += gridDim.x * warps) {
    const bool key = head % heads.each() >= heads.queries;
    const T* gain = key ? key_gain : query_gain;
    const float own = rstd[head];
    float n[most_packs][size], g[most_packs][size];
    float along = 0;
#pragma unroll
    for (int p = 0; p < most_packs; ++p) {
      const unsigned at = lane + 32 * p;
      if (at >= heads.packs) continue;
      const Pack<T> in = load(x, std::uint64_t{head} * heads.packs + at);
      const Pack<T> d = load(d_qkv, heads.at(head) + at);
      const Pack<T> gains = load(gain, at);
#pragma unroll
      for (int i = 0; i < size; ++i) {
        n[p][i] = in[i] * own;
        g[p][i] = d[i] * gains[i];
        along += g[p][i] * n[p][i];
        const float slope = d[i] * n[p][i];
        sums[0][p][i] += key ? 0.0F : slope;
        sums[1][p][i] += key ? slope : 0.0F;
      }
    }
    along = warp_sum(along) / static_cast<float>(head_dim);
#pragma unroll
    for (int p = 0; p < most_packs; ++p) {
      const unsigned at = lane + 32 * p;
      if (at >= heads.packs) continue;
      Pack<T> out;
#pragma unroll
      for (int i = 0; i < size; ++i) out.set(i, own * (g[p][i] - n[p][i] * along));
      store(d_qkv, heads.at(head) + at, out);
    }
  }
#pragma unroll
  for (int of = 0; of < 2; ++of) {
#pragma unroll
    for (int p = 0; p < most_packs; ++p) {
      const unsigned at = lane + 32 * p;
      if (at >= heads.packs) continue;
#pragma unroll
      for (int i = 0; i < size; ++i) shared[(of * warps + warp) * head_dim + at * size + i] = sums[of][p][i];
    }
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 2 * head_dim; i += warps * 32) {
    const unsigned of = i / head_dim, column = i % head_dim;
    float sum = 0;
    for (unsigned w = 0; w < warps; ++w) sum += shared[(of * warps + w) * head_dim + column];
    partial[(std::uint64_t{of} * gridDim.x + blockIdx.x) * head_dim + column] = sum;
  }
}

template <class T>
Heads heads_of(const AttentionSize& size) {
  constexpr std::uint64_t pack = Pack<T>::size;
  PLUMB_CHECK(size.head_dim % pack == 0 && size.head_dim / pack <= 32 * most_packs);
  return {static_cast<unsigned>(size.tokens()), static_cast<unsigned>(size.heads),
          static_cast<unsigned>(size.key_value_heads), static_cast<unsigned>(size.head_dim / pack),
          static_cast<unsigned>(size.width() / pack)};
}

}  // namespace

void head_norm_forward(const Lane& lane, const AttentionSize& size, const HeadNormParameters& gains,
                       const Tensor& qkv, const HeadNormKept& kept) {
  with_type(size.type, [&](auto t) {
    using T = decltype(t);
    const Heads heads = heads_of<T>(size);
    const unsigned all = heads.tokens * (heads.queries + heads.keys);
    forward_kernel<<<(all + warps - 1) / warps, warps * 32, 0, lane.stream().handle()>>>(
        heads, qkv.as<T>(), gains.queries.as<const T>(), gains.keys.as<const T>(), kept.x.as<T>(), kept.rstd);
  });
  check_launch();
}

Bytes head_norm_scratch(const AttentionSize& size, std::uint32_t multiprocessors) {
  return {static_cast<std::int64_t>(std::uint64_t{2} * multiprocessors * blocks_a_multiprocessor *
                                    size.head_dim * sizeof(float))};
}

void head_norm_backward(const Lane& lane, Scratch scratch, const AttentionSize& size,
                        const HeadNormParameters& gains, const HeadNormKept& kept, const Tensor& d_qkv,
                        const HeadNormParameters& gradients) {
  float* partial = static_cast<float*>(scratch.take(head_norm_scratch(size, lane.multiprocessors())));
  const unsigned blocks = lane.multiprocessors() * blocks_a_multiprocessor;
  const auto head_dim = static_cast<unsigned>(size.head_dim);
  with_type(size.type, [&](auto t) {
    using T = decltype(t);
    backward_kernel<<<blocks, warps * 32, std::size_t{2} * warps * head_dim * sizeof(float),
                      lane.stream().handle()>>>(heads_of<T>(size), d_qkv.as<T>(), gains.queries.as<const T>(),
                                                gains.keys.as<const T>(), kept.x.as<const T>(), kept.rstd,
                                                partial);
  });
  check_launch();
  add_partials_kernel<<<dim3((head_dim + 31) / 32, 2), dim3(32, sum_warps), 0, lane.stream().handle()>>>(
      partial, gradients.queries.as<float>(), gradients.keys.as<float>(), blocks, head_dim);
  check_launch();
}

}  // namespace plumb::layers
