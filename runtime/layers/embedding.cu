#include "runtime/layers/embedding.hpp"
#include "runtime/layers/vector.cuh"

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

// Four floats in one atomic operation, which compute capability 9.0 has.
__device__ void add_pack(float* to, const float (&values)[4]) {
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(values[0], values[1], values[2], values[3]));
}

template <class T>
__global__ void backward_kernel(const std::int32_t* ids, const T* d_out, unsigned sequence, float* d_table,
                                float* d_positions, unsigned packs) {
  constexpr int size = Pack<T>::size;
  const std::uint64_t row = blockIdx.x;
  const std::uint64_t to = static_cast<std::uint64_t>(ids[row]) * packs;
  const std::uint64_t position = std::uint64_t{blockIdx.x % sequence} * packs;
  for (unsigned at = threadIdx.x; at < packs; at += threads) {
    const Pack<T> value = load_once(d_out, row * packs + at);
#pragma unroll
    for (int i = 0; i < size; i += 4) {
      const float four[4] = {value[i], value[i + 1], value[i + 2], value[i + 3]};
      add_pack(d_table + (to + at) * size + i, four);
      if (d_positions) add_pack(d_positions + (position + at) * size + i, four);
    }
  }
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
    backward_kernel<<<static_cast<unsigned>(d_out.rows), threads, 0, lane.stream().handle()>>>(
        ids, d_out.as<const T>(), static_cast<unsigned>(sequence), d_table.as<float>(),
        d_positions.as<float>(), packs_of<T>(d_out));
  });
  check_launch();
}

}  // namespace plumb::layers
