#include "runtime/cuda/gradient_kernels.hpp"
#include "runtime/device/check.hpp"
#include "runtime/device/stream.hpp"

#include <cuda_runtime.h>

namespace plumb::cuda {
namespace {

constexpr unsigned threads = 256;

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

}  // namespace

void sum_of_squares(const device::Stream& stream, const float* values, std::uint64_t count, double* partial,
                    double* sum) {
  squares_kernel<<<squares_partials, threads, 0, stream.handle()>>>(values, count, partial);
  total_kernel<<<1, threads, 0, stream.handle()>>>(partial, sum);
  PLUMB_CUDA_CALL(cudaGetLastError());
}

}  // namespace plumb::cuda
