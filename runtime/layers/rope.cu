#include "runtime/layers/rope.hpp"
#include "runtime/layers/vector.cuh"

#include <algorithm>

namespace plumb::layers {
namespace {

__global__ void rope_table_kernel(float2* table, unsigned sequence, unsigned half, double base) {
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= sequence * half) return;
  const double angle = at / half / pow(base, static_cast<double>(at % half) / half);
  double sine = 0;
  double cosine = 0;
  sincos(angle, &sine, &cosine);
  table[at] = make_float2(static_cast<float>(cosine), static_cast<float>(sine));
}

// A block a token: a thread loads its cosines and sines once and turns its place in every head it meets.
template <class T>
__global__ void rope_kernel(const float* table, T* qkv, unsigned sequence, unsigned width_packs,
                            unsigned heads, unsigned half_packs, float direction) {
  constexpr int size = Pack<T>::size;
  const unsigned place = threadIdx.x % half_packs;
  const unsigned position = blockIdx.x % sequence;
  float angles[2][size];
  const std::uint64_t table_pack = 2 * (std::uint64_t{position} * half_packs + place);
  load_floats<T>(table, table_pack, angles[0]);
  load_floats<T>(table, table_pack + 1, angles[1]);
  for (unsigned head = threadIdx.x / half_packs; head < heads; head += blockDim.x / half_packs) {
    const std::uint64_t at = std::uint64_t{blockIdx.x} * width_packs + head * 2 * half_packs + place;
    const Pack<T> first = load(qkv, at);
    const Pack<T> second = load(qkv, at + half_packs);
    Pack<T> first_out;
    Pack<T> second_out;
#pragma unroll
    for (int i = 0; i < size; ++i) {
      const float cosine = angles[2 * i / size][2 * i % size];
      const float sine = direction * angles[(2 * i + 1) / size][(2 * i + 1) % size];
      first_out.set(i, first[i] * cosine - second[i] * sine);
      second_out.set(i, second[i] * cosine + first[i] * sine);
    }
    store(qkv, at, first_out);
    store(qkv, at + half_packs, second_out);
  }
}

void turn(const Lane& lane, const AttentionSize& size, const float* table, const Tensor& qkv,
          float direction) {
  with_type(size.type, [&](auto t) {
    using T = decltype(t);
    constexpr unsigned pack = Pack<T>::size;
    PLUMB_CHECK(size.head_dim % (2 * pack) == 0 && size.head_dim / 2 / pack <= 256);
    const auto half_packs = static_cast<unsigned>(size.head_dim / 2 / pack);
    const auto heads = static_cast<unsigned>(size.heads + size.key_value_heads);
    const unsigned heads_at_once = std::max(1U, std::min(heads, 256 / half_packs));
    rope_kernel<<<static_cast<unsigned>(size.tokens()), heads_at_once * half_packs, 0,
                  lane.stream().handle()>>>(table, qkv.as<T>(), static_cast<unsigned>(size.sequence),
                                            static_cast<unsigned>(size.width() / pack), heads, half_packs,
                                            direction);
  });
  check_launch();
}

}  // namespace

Bytes rope_table_bytes(const AttentionSize& size) {
  return {static_cast<std::int64_t>(size.sequence * size.head_dim * sizeof(float))};
}

void make_rope_table(const Lane& lane, const AttentionSize& size, float base, float* table) {
  const auto pairs = static_cast<unsigned>(size.sequence * size.head_dim / 2);
  rope_table_kernel<<<(pairs + 255) / 256, 256, 0, lane.stream().handle()>>>(
      reinterpret_cast<float2*>(table), static_cast<unsigned>(size.sequence),
      static_cast<unsigned>(size.head_dim / 2), base);
  check_launch();
}

void rope_forward(const Lane& lane, const AttentionSize& size, const float* table, const Tensor& qkv) {
  turn(lane, size, table, qkv, 1.0F);
}

void rope_backward(const Lane& lane, const AttentionSize& size, const float* table, const Tensor& d_qkv) {
  turn(lane, size, table, d_qkv, -1.0F);
}

}  // namespace plumb::layers
