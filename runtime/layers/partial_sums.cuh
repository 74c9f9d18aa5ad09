// Column sums in two steps: blocks leave a row each, which are then added up in a fixed order.
#pragma once
#include "runtime/layers/vector.cuh"

namespace plumb::layers {

/// first, second [columns] += the column sums of partial [rows, columns] and, with blockIdx.y = 1, of the
/// matrix behind it. 32 columns a block; its warps share the rows, and each has several loads under way.
/// Launched with grid (columns / 32, up; 1 or 2) and block (32, sum_warps).
inline constexpr unsigned sum_warps = 32;
static __global__ void add_partials_kernel(const float* partial, float* first, float* second, unsigned rows,
                                           unsigned columns) {
  __shared__ float shared[sum_warps][33];
  const unsigned column = blockIdx.x * 32 + threadIdx.x;
  const float* from = partial + std::uint64_t{blockIdx.y} * rows * columns;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (unsigned r = threadIdx.y; r < rows; r += sum_warps) sum += from[std::uint64_t{r} * columns + column];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  // Each warp sums the shares of one column.
  sum = warp_sum(shared[threadIdx.x][threadIdx.y]);
  const unsigned own = blockIdx.x * 32 + threadIdx.y;
  if (threadIdx.x == 0 && own < columns) (blockIdx.y == 0 ? first : second)[own] += sum;
}

}  // namespace plumb::layers
