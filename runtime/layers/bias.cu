#include "runtime/layers/bias.hpp"
#include "runtime/layers/vector.cuh"

namespace plumb::layers {
namespace {

// A block has eight packs of columns, 128 bytes of a row, and sixty-four groups of rows.
constexpr unsigned packs_a_block = 8;
constexpr unsigned row_groups = 64;

template <class T>
__global__ void sum_rows_kernel(const T* dy, float* gradient, unsigned rows, unsigned packs) {
  constexpr unsigned size = Pack<T>::size;
  constexpr unsigned columns = packs_a_block * size;
  __shared__ float sums[row_groups][columns];
  const unsigned pack = blockIdx.x * packs_a_block + threadIdx.x;
  float sum[size] = {};
  if (pack < packs) {
#pragma unroll 4
    for (unsigned r = threadIdx.y; r < rows; r += row_groups) {
      const Pack<T> value = load(dy, std::uint64_t{r} * packs + pack);
#pragma unroll
      for (unsigned i = 0; i < size; ++i) sum[i] += value[static_cast<int>(i)];
    }
  }
#pragma unroll
  for (unsigned i = 0; i < size; ++i) sums[threadIdx.y][threadIdx.x * size + i] = sum[i];
  __syncthreads();
  const unsigned own = threadIdx.y * packs_a_block + threadIdx.x;  // of the block's columns
  const unsigned column = blockIdx.x * columns + own;
  if (own >= columns || column >= packs * size) return;
  float total = 0;
  for (unsigned g = 0; g < row_groups; ++g) total += sums[g][own];
  gradient[column] += total;
}

}  // namespace

void bias_backward_weight(const Lane& lane, const Tensor& dy, const Tensor& gradient) {
  PLUMB_CHECK(gradient.type == DataType::fp32 && gradient.elements() == dy.columns);
  with_type(dy.type, [&](auto t) {
    using T = decltype(t);
    PLUMB_CHECK(dy.columns % Pack<T>::size == 0);
    const auto packs = static_cast<unsigned>(dy.columns / Pack<T>::size);
    sum_rows_kernel<<<(packs + packs_a_block - 1) / packs_a_block, dim3(packs_a_block, row_groups), 0,
                      lane.stream().handle()>>>(dy.as<const T>(), gradient.as<float>(),
                                                static_cast<unsigned>(dy.rows), packs);
  });
  check_launch();
}

}  // namespace plumb::layers
