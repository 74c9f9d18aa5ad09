#include "runtime/device/check.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/layers/gradient_sum.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>

#include <cuda_runtime.h>

namespace plumb::layers {
namespace {

constexpr unsigned threads = 256;
// What each thread adds up, in fours. Few, so that blocks end soon: whatever else waits for a multiprocessor,
// a message above all, gets in between them.
constexpr unsigned fours_each = 4;

struct Copies {
  float* data[most_copies];
  unsigned size;
};

__device__ void sum_four(const Copies& copies, std::uint64_t at, std::uint64_t count) {
  if (4 * at + 4 <= count) {
    float4 sum = reinterpret_cast<const float4*>(copies.data[0])[at];
    for (unsigned i = 1; i < copies.size; ++i) {
      const float4 other = reinterpret_cast<const float4*>(copies.data[i])[at];
      sum = make_float4(sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w);
    }
    for (unsigned i = 0; i < copies.size; ++i) reinterpret_cast<float4*>(copies.data[i])[at] = sum;
    return;
  }
  for (std::uint64_t one = 4 * at; one < count; ++one) {
    float sum = copies.data[0][one];
    for (unsigned i = 1; i < copies.size; ++i) sum += copies.data[i][one];
    for (unsigned i = 0; i < copies.size; ++i) copies.data[i][one] = sum;
  }
}

__global__ void sum_copies_kernel(Copies copies, std::uint64_t fours, std::uint64_t count) {
  const std::uint64_t first = std::uint64_t{blockIdx.x} * threads * fours_each + threadIdx.x;
  for (unsigned k = 0; k < fours_each; ++k) {
    const std::uint64_t at = first + k * threads;
    if (at < fours) sum_four(copies, at, count);
  }
}

}  // namespace

void sum_copies(const device::Stream& stream, std::span<float* const> copies, std::uint64_t count) {
  PLUMB_CHECK(!copies.empty() && copies.size() <= most_copies);
  if (count == 0) return;
  Copies arguments{};
  std::copy(copies.begin(), copies.end(), arguments.data);
  arguments.size = static_cast<unsigned>(copies.size());
  const std::uint64_t fours = (count + 3) / 4;
  const std::uint64_t blocks = (fours + threads * fours_each - 1) / (threads * fours_each);
  sum_copies_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream.handle()>>>(arguments, fours, count);
  PLUMB_CUDA_CALL(cudaGetLastError());
}

}  // namespace plumb::layers
