#include "runtime/layers/embedding.hpp"
#include "runtime/layers/vector.cuh"

#include <algorithm>

namespace plumb::layers {
namespace {

constexpr unsigned threads = 256;

template <class T>
__global__ void forward_kernel(const std::int32_t* ids, const T* table, const T* positions, unsigned sequence,
                               T* out, unsigned packs) {
  const std::uint64_t row = blockIdx.x;
  const std::uint64_t from = static_cast<std::uint64_t>(ids[row]) * packs;
  const std::uint64_t position = std::uint64_t{blockIdx.x % sequence} * packs;
  for (unsigned at = threadIdx.x; at < packs; at += threads) {
    Pack<T> value = load(table, from + at);
    if (positions) {
      const Pack<T> shift = load(positions, position + at);
#pragma unroll
      for (int i = 0; i < Pack<T>::size; ++i) value.set(i, value[i] + shift[i]);
    }
    store(out, row * packs + at, value);
  }
}

// The rows of one token id are added up in the order in which they came, by the block of the first of them: a
// sum whose order nobody knows would make no two runs alike. A block has a pack of columns for each thread.
template <class T>
__global__ void backward_kernel(const std::int32_t* ids, const T* d_out, float* d_table, unsigned rows,
                                unsigned packs) {
  constexpr int size = Pack<T>::size;
  __shared__ unsigned matches[threads];
  __shared__ unsigned of_warps[threads / 32];
  const unsigned first = blockIdx.x;
  const std::int32_t id = ids[first];
  bool seen = false;
  for (unsigned r = threadIdx.x; r < first; r += threads) seen = seen || ids[r] == id;
  if (__syncthreads_or(seen)) return;

  const unsigned pack = blockIdx.y * threads + threadIdx.x;
  float sum[size] = {};
  for (unsigned base = first; base < rows; base += threads) {
    const unsigned row = base + threadIdx.x;
    const bool match = row < rows && ids[row] == id;
    const int count = __syncthreads_count(match);
    if (count == 0) continue;
    const unsigned among = __ballot_sync(0xffffffffu, match);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = __popc(among);
    __syncthreads();
    if (match) {
      unsigned place = __popc(among & ((1u << threadIdx.x % 32) - 1));
      for (unsigned w = 0; w < threadIdx.x / 32; ++w) place += of_warps[w];
      matches[place] = row;
    }
    __syncthreads();
    if (pack < packs) {
#pragma unroll 4
      for (int k = 0; k < count; ++k) {
        const Pack<T> value = load_once(d_out, std::uint64_t{matches[k]} * packs + pack);
#pragma unroll
        for (int i = 0; i < size; ++i) sum[i] += value[i];
      }
    }
  }
  if (pack >= packs) return;
  float* to = d_table + (static_cast<std::uint64_t>(id) * packs + pack) * size;
#pragma unroll
  for (int i = 0; i < size; ++i) to[i] += sum[i];
}

// A place of the position table is in every sequence once.
template <class T>
__global__ void positions_kernel(const T* d_out, float* d_positions, unsigned rows, unsigned sequence,
                                 unsigned packs) {
  constexpr int size = Pack<T>::size;
  const unsigned pack = blockIdx.y * threads + threadIdx.x;
  if (pack >= packs) return;
  float sum[size] = {};
  for (unsigned row = blockIdx.x; row < rows; row += sequence) {
    const Pack<T> value = load_once(d_out, std::uint64_t{row} * packs + pack);
#pragma unroll
    for (int i = 0; i < size; ++i) sum[i] += value[i];
  }
  float* to = d_positions + (std::uint64_t{blockIdx.x} * packs + pack) * size;
#pragma unroll
  for (int i = 0; i < size; ++i) to[i] += sum[i];
}

template <class T>
unsigned packs_of(const Tensor& tensor) {
  PLUMB_CHECK(tensor.columns % Pack<T>::size == 0);
  return static_cast<unsigned>(tensor.columns / Pack<T>::size);
}

}  // namespace

void embedding_forward(const Lane& lane, const std::int32_t* ids, const Tensor& table,
                       const Tensor& positions, std::uint64_t sequence, const Tensor& out) {
  with_type(out.type, [&](auto t) {
    using T = decltype(t);
    forward_kernel<<<static_cast<unsigned>(out.rows), threads, 0, lane.stream().handle()>>>(
        ids, table.as<const T>(), positions.as<const T>(), static_cast<unsigned>(sequence), out.as<T>(),
        packs_of<T>(out));
  });
  check_launch();
}

void embedding_backward_weight(const Lane& lane, const std::int32_t* ids, const Tensor& d_out,
                               std::uint64_t sequence, const Tensor& d_table, const Tensor& d_positions) {
  with_type(d_out.type, [&](auto t) {
    using T = decltype(t);
    const auto rows = static_cast<unsigned>(d_out.rows);
    const unsigned packs = packs_of<T>(d_out);
    const unsigned parts = (packs + threads - 1) / threads;
    backward_kernel<<<dim3(rows, parts), threads, 0, lane.stream().handle()>>>(
        ids, d_out.as<const T>(), d_table.as<float>(), rows, packs);
    if (!d_positions.data) return;
    const auto places = static_cast<unsigned>(std::min(sequence, d_out.rows));
    positions_kernel<<<dim3(places, parts), threads, 0, lane.stream().handle()>>>(
        d_out.as<const T>(), d_positions.as<float>(), rows, static_cast<unsigned>(sequence), packs);
  });
  check_launch();
}

}  // namespace plumb::layers
