#include "runtime/layers/loss.hpp"
#include "runtime/layers/vector.cuh"

#include <cmath>

namespace plumb::layers {
namespace {

constexpr unsigned row_threads = 512;
constexpr unsigned threads = 256;
constexpr unsigned sum_blocks_a_multiprocessor = 4;

// In float32 the fast exponential's error would be seen.
template <class T>
__device__ float exponential(float x) {
  return sizeof(T) == 4 ? expf(x) : __expf(x);
}

// A block a row; each thread keeps a running maximum and sum (arXiv 1805.02867), and the block joins them.
template <class T>
__global__ void cross_entropy_forward_kernel(const T* logits, const std::int32_t* targets, float* log_sum_exp,
                                             float* losses, unsigned packs) {
  constexpr int size = Pack<T>::size;
  const std::uint64_t row = std::uint64_t{blockIdx.x} * packs;
  float largest = -INFINITY;
  float sum = 0;
  // Several loads at once: a row's elements depend on each other only through the maximum.
  constexpr unsigned at_once = 4;
  for (unsigned first = threadIdx.x; first < packs; first += at_once * row_threads) {
    Pack<T> values[at_once];
    float top = -INFINITY;
#pragma unroll
    for (unsigned p = 0; p < at_once; ++p) {
      if (first + p * row_threads < packs) values[p] = load(logits, row + first + p * row_threads);
    }
#pragma unroll
    for (unsigned p = 0; p < at_once; ++p) {
      if (first + p * row_threads < packs) {
#pragma unroll
        for (int i = 0; i < size; ++i) top = fmaxf(top, values[p][i]);
      }
    }
    const float before = largest;
    largest = fmaxf(largest, top);
    sum *= expf(before - largest);
#pragma unroll
    for (unsigned p = 0; p < at_once; ++p) {
      if (first + p * row_threads < packs) {
#pragma unroll
        for (int i = 0; i < size; ++i) sum += exponential<T>(values[p][i] - largest);
      }
    }
  }
  __shared__ float tops[row_threads / 32];
  __shared__ float sums[row_threads / 32];
  const float warp_top = warp_max(largest);
  // A thread without a pack has -inf and no sum.
  sum = warp_sum(largest == -INFINITY ? 0.0F : sum * expf(largest - warp_top));
  if (threadIdx.x % 32 == 0) {
    tops[threadIdx.x / 32] = warp_top;
    sums[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float top = tops[0];
    for (unsigned w = 1; w < row_threads / 32; ++w) top = fmaxf(top, tops[w]);
    float total = 0;
    for (unsigned w = 0; w < row_threads / 32; ++w) {
      if (tops[w] != -INFINITY) total += sums[w] * expf(tops[w] - top);
    }
    const float result = top + logf(total);
    log_sum_exp[blockIdx.x] = result;
    losses[blockIdx.x] = result - to_float(logits[row * size + static_cast<unsigned>(targets[blockIdx.x])]);
  }
}

template <class T>
__global__ void cross_entropy_backward_kernel(const T* logits, const std::int32_t* targets,
                                              const float* log_sum_exp, float scale, T* d_logits,
                                              unsigned packs) {
  constexpr int size = Pack<T>::size;
  const unsigned at = blockIdx.y * threads + threadIdx.x;
  if (at >= packs) return;
  const std::uint64_t row = std::uint64_t{blockIdx.x} * packs;
  const float total = log_sum_exp[blockIdx.x];
  const int target = targets[blockIdx.x] - static_cast<int>(at * size);
  const Pack<T> value = load(logits, row + at);
  Pack<T> out;
#pragma unroll
  for (int i = 0; i < size; ++i)
    out.set(i, scale * (exponential<T>(value[i] - total) - (i == target ? 1.0F : 0.0F)));
  store(d_logits, row + at, out);
}

template <class T>
__global__ void squares_kernel(const T* y, const T* target, float* partial, T* copy, std::uint64_t packs) {
  __shared__ float shared[32];
  float sum[1] = {0};
  for (std::uint64_t at = std::uint64_t{blockIdx.x} * threads + threadIdx.x; at < packs;
       at += std::uint64_t{gridDim.x} * threads) {
    const Pack<T> a = load_once(y, at);
    const Pack<T> b = load_once(target, at);
#pragma unroll
    for (int i = 0; i < Pack<T>::size; ++i) sum[0] += (a[i] - b[i]) * (a[i] - b[i]);
    if (copy) store(copy, at, b);
  }
  block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum[0];
}

template <class T>
__global__ void squares_backward_kernel(const T* y, const T* target, float factor, T* dy,
                                        std::uint64_t packs) {
  const std::uint64_t at = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= packs) return;
  const Pack<T> a = load_once(y, at);
  const Pack<T> b = load_once(target, at);
  Pack<T> out;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) out.set(i, factor * (a[i] - b[i]));
  store(dy, at, out);
}

// One block: the order of the sum depends on nothing but the count.
__global__ void add_sum_kernel(const float* values, std::uint64_t count, float scale, float* to) {
  __shared__ float shared[32];
  float sum[1] = {0};
  for (std::uint64_t i = threadIdx.x; i < count; i += blockDim.x) sum[0] += values[i];
  block_sum(sum, shared);
  if (threadIdx.x == 0) *to += scale * sum[0];
}

}  // namespace

void cross_entropy_forward(const Lane& lane, const Tensor& logits, const std::int32_t* targets,
                           float* log_sum_exp, float* losses) {
  with_type(logits.type, [&](auto t) {
    using T = decltype(t);
    PLUMB_CHECK(logits.columns % Pack<T>::size == 0);
    cross_entropy_forward_kernel<<<static_cast<unsigned>(logits.rows), row_threads, 0,
                                   lane.stream().handle()>>>(
        logits.as<const T>(), targets, log_sum_exp, losses,
        static_cast<unsigned>(logits.columns / Pack<T>::size));
  });
  check_launch();
}

void cross_entropy_backward(const Lane& lane, const Tensor& logits, const std::int32_t* targets,
                            const float* log_sum_exp, float scale, const Tensor& d_logits) {
  with_type(logits.type, [&](auto t) {
    using T = decltype(t);
    const auto packs = static_cast<unsigned>(logits.columns / Pack<T>::size);
    const dim3 blocks(static_cast<unsigned>(logits.rows), (packs + threads - 1) / threads);
    cross_entropy_backward_kernel<<<blocks, threads, 0, lane.stream().handle()>>>(
        logits.as<const T>(), targets, log_sum_exp, scale, d_logits.as<T>(), packs);
  });
  check_launch();
}

Bytes loss_scratch(std::uint32_t multiprocessors) {
  return {static_cast<std::int64_t>(multiprocessors * sum_blocks_a_multiprocessor * sizeof(float))};
}

void mean_square_forward(const Lane& lane, Scratch scratch, const Tensor& y, const Tensor& target,
                         float scale, float* loss, const Tensor& copy) {
  float* partial = static_cast<float*>(scratch.take(loss_scratch(lane.multiprocessors())));
  const unsigned blocks = lane.multiprocessors() * sum_blocks_a_multiprocessor;
  with_type(y.type, [&](auto t) {
    using T = decltype(t);
    PLUMB_CHECK(y.elements() % Pack<T>::size == 0);
    squares_kernel<<<blocks, threads, 0, lane.stream().handle()>>>(
        y.as<const T>(), target.as<const T>(), partial, copy.as<T>(), y.elements() / Pack<T>::size);
  });
  check_launch();
  add_sum(lane, partial, blocks, scale, loss);
}

void mean_square_backward(const Lane& lane, const Tensor& y, const Tensor& target, float scale,
                          const Tensor& dy) {
  with_type(y.type, [&](auto t) {
    using T = decltype(t);
    const std::uint64_t packs = y.elements() / Pack<T>::size;
    squares_backward_kernel<<<static_cast<unsigned>((packs + threads - 1) / threads), threads, 0,
                              lane.stream().handle()>>>(y.as<const T>(), target.as<const T>(), 2 * scale,
                                                        dy.as<T>(), packs);
  });
  check_launch();
}

void add_sum(const Lane& lane, const float* values, std::uint64_t count, float scale, float* sum) {
  add_sum_kernel<<<1, 1024, 0, lane.stream().handle()>>>(values, count, scale, sum);
  check_launch();
}

}  // namespace plumb::layers
