#include "runtime/layers/activation.hpp"
#include "runtime/layers/vector.cuh"

namespace plumb::layers {
namespace {

constexpr unsigned threads = 256;

__device__ float sigmoid(float z) { return 1.0F / (1.0F + __expf(-z)); }

// In float32 the fast exponential's error (2 ulp and more for large arguments) would be seen.
template <class T>
__device__ float exact_sigmoid(float z) {
  return sizeof(T) == 4 ? 1.0F / (1.0F + expf(-z)) : sigmoid(z);
}

// blockIdx.x is the row, so that no index has to be divided.
template <class T>
__global__ void swiglu_forward_kernel(const T* in, T* out, unsigned packs) {
  const unsigned at = blockIdx.y * threads + threadIdx.x;
  if (at >= packs) return;
  const std::uint64_t row = blockIdx.x;
  const Pack<T> gate = load_once(in, row * 2 * packs + at);
  const Pack<T> up = load_once(in, row * 2 * packs + packs + at);
  Pack<T> s;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) s.set(i, gate[i] * exact_sigmoid<T>(gate[i]) * up[i]);
  store(out, row * packs + at, s);
}

template <class T>
__global__ void swiglu_backward_kernel(const T* ds, const T* in, T* d_in, unsigned packs) {
  const unsigned at = blockIdx.y * threads + threadIdx.x;
  if (at >= packs) return;
  const std::uint64_t row = blockIdx.x;
  const Pack<T> d = load_once(ds, row * packs + at);
  const Pack<T> gate = load_once(in, row * 2 * packs + at);
  const Pack<T> up = load_once(in, row * 2 * packs + packs + at);
  Pack<T> d_gate;
  Pack<T> d_up;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) {
    const float z = gate[i];
    const float share = exact_sigmoid<T>(z);
    d_gate.set(i, d[i] * up[i] * share * (1.0F + z * (1.0F - share)));
    d_up.set(i, d[i] * z * share);
  }
  store(d_in, row * 2 * packs + at, d_gate);
  store(d_in, row * 2 * packs + packs + at, d_up);
}

__device__ float normal_below(float x) { return 0.5F * (1.0F + erff(x * 0.70710678118654752F)); }

template <class T>
__global__ void gelu_forward_kernel(const T* x, T* y, std::uint64_t packs) {
  const std::uint64_t at = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= packs) return;
  const Pack<T> in = load_once(x, at);
  Pack<T> out;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) out.set(i, in[i] * normal_below(in[i]));
  store(y, at, out);
}

template <class T>
__global__ void gelu_backward_kernel(const T* dy, const T* x, T* dx, std::uint64_t packs) {
  const std::uint64_t at = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= packs) return;
  const Pack<T> d = load_once(dy, at);
  const Pack<T> in = load_once(x, at);
  Pack<T> out;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) {
    const float z = in[i];
    const float density =
        0.39894228040143268F * (sizeof(T) == 4 ? expf(-0.5F * z * z) : __expf(-0.5F * z * z));
    out.set(i, d[i] * (normal_below(z) + z * density));
  }
  store(dx, at, out);
}

template <class T>
std::uint64_t packs_in(std::uint64_t elements) {
  PLUMB_CHECK(elements % Pack<T>::size == 0);
  return elements / Pack<T>::size;
}
unsigned blocks_for(std::uint64_t packs) { return static_cast<unsigned>((packs + threads - 1) / threads); }

}  // namespace

void swiglu_forward(const Lane& lane, const Tensor& gate_and_up, const Tensor& s) {
  PLUMB_CHECK(gate_and_up.columns == 2 * s.columns && gate_and_up.rows == s.rows);
  with_type(s.type, [&](auto t) {
    using T = decltype(t);
    const auto packs = static_cast<unsigned>(packs_in<T>(s.columns));
    swiglu_forward_kernel<<<dim3(static_cast<unsigned>(s.rows), blocks_for(packs)), threads, 0,
                            lane.stream().handle()>>>(gate_and_up.as<T>(), s.as<T>(), packs);
  });
  check_launch();
}

void swiglu_backward(const Lane& lane, const Tensor& ds, const Tensor& gate_and_up,
                     const Tensor& d_gate_and_up) {
  PLUMB_CHECK(gate_and_up.columns == 2 * ds.columns && gate_and_up.rows == ds.rows);
  with_type(ds.type, [&](auto t) {
    using T = decltype(t);
    const auto packs = static_cast<unsigned>(packs_in<T>(ds.columns));
    swiglu_backward_kernel<<<dim3(static_cast<unsigned>(ds.rows), blocks_for(packs)), threads, 0,
                             lane.stream().handle()>>>(ds.as<T>(), gate_and_up.as<T>(), d_gate_and_up.as<T>(),
                                                       packs);
  });
  check_launch();
}

void gelu_forward(const Lane& lane, const Tensor& x, const Tensor& y) {
  with_type(x.type, [&](auto t) {
    using T = decltype(t);
    const std::uint64_t packs = packs_in<T>(x.elements());
    gelu_forward_kernel<<<blocks_for(packs), threads, 0, lane.stream().handle()>>>(x.as<T>(), y.as<T>(),
                                                                                   packs);
  });
  check_launch();
}

void gelu_backward(const Lane& lane, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  with_type(x.type, [&](auto t) {
    using T = decltype(t);
    const std::uint64_t packs = packs_in<T>(x.elements());
    gelu_backward_kernel<<<blocks_for(packs), threads, 0, lane.stream().handle()>>>(dy.as<T>(), x.as<T>(),
                                                                                    dx.as<T>(), packs);
  });
  check_launch();
}

}  // namespace plumb::layers
