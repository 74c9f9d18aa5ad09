// What the kernels share: sixteen-byte loads and stores, and sums over a block.
#pragma once
#include "runtime/device/check.hpp"
#include "runtime/layers/tensor.hpp"
#include "schedules/ir/error.hpp"

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace plumb::layers {

using Bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(Bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline Bf16 from_float<Bf16>(float x) {
  return __float2bfloat16(x);
}

/// Sixteen bytes of T: the widest access of a thread.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T values[size];
  __device__ float operator[](int i) const { return to_float(values[i]); }
  __device__ void set(int i, float x) { values[i] = from_float<T>(x); }
};

template <class T>
__device__ Pack<T> load(const T* from, std::uint64_t pack) {
  return reinterpret_cast<const Pack<T>*>(from)[pack];
}
/// For data that is read once: it leaves the caches to others.
template <class T>
__device__ Pack<T> load_once(const T* from, std::uint64_t pack) {
  const uint4 raw = __ldcs(reinterpret_cast<const uint4*>(from) + pack);
  return *reinterpret_cast<const Pack<T>*>(&raw);
}
template <class T>
__device__ void store(T* to, std::uint64_t pack, const Pack<T>& value) {
  reinterpret_cast<Pack<T>*>(to)[pack] = value;
}

/// As many floats beside a pack of T.
template <class T>
__device__ void load_floats(const float* from, std::uint64_t pack, float (&values)[Pack<T>::size]) {
  const float4* source = reinterpret_cast<const float4*>(from) + pack * (Pack<T>::size / 4);
#pragma unroll
  for (int i = 0; i < Pack<T>::size / 4; ++i) {
    const float4 four = source[i];
    values[4 * i] = four.x;
    values[4 * i + 1] = four.y;
    values[4 * i + 2] = four.z;
    values[4 * i + 3] = four.w;
  }
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

/// Sums of `n` values over a block of whole warps; every thread gets them. `shared` holds 32 * n floats and
/// may be used again right away.
template <int n>
__device__ void block_sum(float (&values)[n], float* shared) {
  const unsigned warp = threadIdx.x / 32;
  const unsigned warps = blockDim.x / 32;
#pragma unroll
  for (int i = 0; i < n; ++i) values[i] = warp_sum(values[i]);
  if (warps == 1) return;
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < n; ++i) shared[warp * n + i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < n; ++i) {
    values[i] = 0;
    for (unsigned w = 0; w < warps; ++w) values[i] += shared[w * n + i];
  }
  __syncthreads();
}

/// Runs `body` with the element type: body(T{}) for T = Bf16 or float.
template <class Body>
void with_type(DataType type, Body body) {
  type == DataType::bf16 ? body(Bf16{}) : body(float{});
}

/// After a launch.
inline void check_launch() { PLUMB_CUDA_CALL(cudaGetLastError()); }

}  // namespace plumb::layers
