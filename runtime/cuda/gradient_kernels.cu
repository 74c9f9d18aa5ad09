#include "runtime/cuda/gradient_kernels.hpp"
#include "runtime/device/check.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>

#include <cuda_runtime.h>

namespace plumb::cuda {
namespace {

constexpr unsigned threads = 256;

struct Copies {
  float* data[most_copies];
  unsigned size;
};

__global__ void sum_copies_kernel(Copies copies, std::uint64_t fours, std::uint64_t count) {
  for (std::uint64_t at = std::uint64_t{blockIdx.x} * threads + threadIdx.x; at < fours;
       at += std::uint64_t{gridDim.x} * threads) {
    if (4 * at + 4 <= count) {
      float4 sum = reinterpret_cast<const float4*>(copies.data[0])[at];
      for (unsigned i = 1; i < copies.size; ++i) {
        const float4 other = reinterpret_cast<const float4*>(copies.data[i])[at];
        sum = make_float4(sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w);
      }
      for (unsigned i = 0; i < copies.size; ++i) reinterpret_cast<float4*>(copies.data[i])[at] = sum;
    } else {
      for (std::uint64_t one = 4 * at; one < count; ++one) {
        float sum = copies.data[0][one];
        for (unsigned i = 1; i < copies.size; ++i) sum += copies.data[i][one];
        for (unsigned i = 0; i < copies.size; ++i) copies.data[i][one] = sum;
      }
    }
  }
}

// A block's threads add up what they hold; the first has the sum.
__device__ double block_total(double value) {
  __shared__ double held[threads];
  held[threadIdx.x] = value;
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) held[threadIdx.x] += held[threadIdx.x + half];
  }
  return held[0];
}

__global__ void squares_kernel(const float* values, std::uint64_t count, double* partial) {
  // Several loads at once: one at a time leaves the memory idle most of the time.
  constexpr unsigned at_once = 4;
  const std::uint64_t fours = count / 4;
  const std::uint64_t stride = std::uint64_t{gridDim.x} * threads;
  const std::uint64_t first = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  double sum = 0;
  const auto add = [&](float value) { sum += static_cast<double>(value) * static_cast<double>(value); };
  for (std::uint64_t at = first; at < fours; at += at_once * stride) {
    float4 loaded[at_once];
#pragma unroll
    for (unsigned i = 0; i < at_once; ++i) {
      const std::uint64_t place = at + i * stride;
      loaded[i] = place < fours ? reinterpret_cast<const float4*>(values)[place] : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (const float4& four : loaded) {
      add(four.x);
      add(four.y);
      add(four.z);
      add(four.w);
    }
  }
  if (4 * fours + first < count) add(values[4 * fours + first]);
  sum = block_total(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void total_kernel(const double* partial, double* sum) {
  static_assert(squares_partials % threads == 0);
  double own = 0;
  for (unsigned at = threadIdx.x; at < squares_partials; at += threads) own += partial[at];
  const double total = block_total(own);
  if (threadIdx.x == 0) *sum = total;
}

unsigned blocks_for(std::uint64_t items) {
  return static_cast<unsigned>(std::clamp<std::uint64_t>((items + threads - 1) / threads, 1, 1024));
}

}  // namespace

void sum_copies(const device::Stream& stream, std::span<float* const> copies, std::uint64_t count) {
  PLUMB_CHECK(!copies.empty() && copies.size() <= most_copies);
  Copies arguments{};
  std::copy(copies.begin(), copies.end(), arguments.data);
  arguments.size = static_cast<unsigned>(copies.size());
  const std::uint64_t fours = (count + 3) / 4;
  sum_copies_kernel<<<blocks_for(fours), threads, 0, stream.handle()>>>(arguments, fours, count);
  PLUMB_CUDA_CALL(cudaGetLastError());
}

void sum_of_squares(const device::Stream& stream, const float* values, std::uint64_t count, double* partial,
                    double* sum) {
  squares_kernel<<<squares_partials, threads, 0, stream.handle()>>>(values, count, partial);
  total_kernel<<<1, threads, 0, stream.handle()>>>(partial, sum);
  PLUMB_CUDA_CALL(cudaGetLastError());
}

}  // namespace plumb::cuda
