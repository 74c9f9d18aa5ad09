#include "runtime/layers/random.hpp"
#include "runtime/layers/vector.cuh"

namespace plumb::layers {
namespace {

constexpr int threads = 256;
unsigned blocks_for(std::uint64_t work) { return static_cast<unsigned>((work + threads - 1) / threads); }

template <class T>
__global__ void uniform_kernel(T* to, std::uint64_t count, std::uint64_t seed, float amplitude) {
  const std::uint64_t i = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) to[i] = from_float<T>(amplitude * uniform(seed, i));
}

__global__ void token_kernel(std::int32_t* to, std::uint64_t count, std::uint64_t seed, std::uint32_t limit) {
  const std::uint64_t i = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) {
    to[i] =
        static_cast<std::int32_t>(static_cast<std::uint32_t>((uniform(seed, i) + 1.0F) * 8388608.0F) % limit);
  }
}

template <class T>
__global__ void constant_kernel(T* to, std::uint64_t count, float value) {
  const std::uint64_t i = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) to[i] = from_float<T>(value);
}

template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, std::uint64_t count) {
  const std::uint64_t i = std::uint64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) to[i] = from_float<To>(to_float(from[i]));
}

}  // namespace

void fill_uniform(const Lane& lane, const Tensor& tensor, std::uint64_t seed, float amplitude) {
  with_type(tensor.type, [&](auto t) {
    using T = decltype(t);
    uniform_kernel<<<blocks_for(tensor.elements()), threads, 0, lane.stream().handle()>>>(
        tensor.as<T>(), tensor.elements(), seed, amplitude);
  });
  check_launch();
}

void fill_tokens(const Lane& lane, std::int32_t* tokens, std::uint64_t count, std::uint64_t seed,
                 std::uint32_t limit) {
  token_kernel<<<blocks_for(count), threads, 0, lane.stream().handle()>>>(tokens, count, seed, limit);
  check_launch();
}

void fill_constant(const Lane& lane, const Tensor& tensor, float value) {
  with_type(tensor.type, [&](auto t) {
    using T = decltype(t);
    constant_kernel<<<blocks_for(tensor.elements()), threads, 0, lane.stream().handle()>>>(
        tensor.as<T>(), tensor.elements(), value);
  });
  check_launch();
}

void convert(const Lane& lane, const Tensor& from, const Tensor& to) {
  PLUMB_CHECK(from.elements() == to.elements());
  with_type(from.type, [&](auto f) {
    with_type(to.type, [&](auto t) {
      convert_kernel<<<blocks_for(from.elements()), threads, 0, lane.stream().handle()>>>(
          from.as<decltype(f)>(), to.as<decltype(t)>(), from.elements());
    });
  });
  check_launch();
}

}  // namespace plumb::layers
