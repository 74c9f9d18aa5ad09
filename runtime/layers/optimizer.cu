#include "runtime/layers/optimizer.hpp"
#include "runtime/layers/vector.cuh"

#include <cmath>

namespace plumb::layers {
namespace {

constexpr unsigned threads = 256;

template <class T>
__global__ void adamw_kernel(AdamW a, float first_correction, float second_correction, float gradient_scale,
                             T* weights, float4* master, float4* gradient, float4* first, float4* second,
                             std::uint64_t fours) {
  const std::uint64_t at = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= fours) return;
  const float4 g = gradient[at];
  float4 w = master[at];
  float4 m = first[at];
  float4 v = second[at];
  const auto update = [&](float slope, float& weight, float& moment, float& square) {
    moment = a.beta_1 * moment + (1 - a.beta_1) * slope;
    square = a.beta_2 * square + (1 - a.beta_2) * slope * slope;
    weight -= a.learning_rate * a.weight_decay * weight;
    weight -= a.learning_rate * (moment * first_correction) / (sqrtf(square * second_correction) + a.epsilon);
  };
  update(gradient_scale * g.x, w.x, m.x, v.x);
  update(gradient_scale * g.y, w.y, m.y, v.y);
  update(gradient_scale * g.z, w.z, m.z, v.z);
  update(gradient_scale * g.w, w.w, m.w, v.w);
  master[at] = w;
  first[at] = m;
  second[at] = v;
  gradient[at] = make_float4(0, 0, 0, 0);
  struct alignas(4 * sizeof(T)) Four {
    T values[4];
  };
  reinterpret_cast<Four*>(weights)[at] = {from_float<T>(w.x), from_float<T>(w.y), from_float<T>(w.z),
                                          from_float<T>(w.w)};
}

}  // namespace

void adamw_step(const Lane& lane, const AdamW& settings, std::uint64_t step, float gradient_scale,
                const Tensor& weights, float* master, float* gradient, float* first_moment,
                float* second_moment) {
  PLUMB_CHECK(weights.elements() % 4 == 0 && step > 0);
  const std::uint64_t fours = weights.elements() / 4;
  const auto first = static_cast<float>(1 / (1 - std::pow(static_cast<double>(settings.beta_1), step)));
  const auto second = static_cast<float>(1 / (1 - std::pow(static_cast<double>(settings.beta_2), step)));
  with_type(weights.type, [&](auto t) {
    using T = decltype(t);
    adamw_kernel<<<static_cast<unsigned>((fours + threads - 1) / threads), threads, 0,
                   lane.stream().handle()>>>(
        settings, first, second, gradient_scale, weights.as<T>(), reinterpret_cast<float4*>(master),
        reinterpret_cast<float4*>(gradient), reinterpret_cast<float4*>(first_moment),
        reinterpret_cast<float4*>(second_moment), fours);
  });
  check_launch();
}

}  // namespace plumb::layers
