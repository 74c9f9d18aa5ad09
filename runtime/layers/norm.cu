// A block a row, the row in registers: x is read once. The backward's blocks walk over rows and keep their
// share of the gains' gradients in registers; the blocks' shares are summed by a second, small kernel, in a
// fixed order.
#include "runtime/layers/norm.hpp"
#include "runtime/layers/partial_sums.cuh"
#include "runtime/layers/vector.cuh"

#include <algorithm>
#include <type_traits>

namespace plumb::layers {
namespace {

// Threads that a multiprocessor holds with the registers that the backward takes.
constexpr unsigned backward_threads_a_multiprocessor = 1024;
constexpr unsigned most_threads = 1024;
constexpr int most_packs_a_thread = 4;

/// How a row of so many packs is spread: two packs a thread hide the loads of one behind those of the other;
/// a block of more than 256 threads waits longer at its barriers than it gains.
struct Spread {
  unsigned threads;
  int packs_a_thread;
};
Spread spread_of(std::uint64_t packs) {
  int each = 1;
  while (each < most_packs_a_thread && packs > 256U * static_cast<unsigned>(each)) each *= 2;
  const std::uint64_t threads = (packs + static_cast<unsigned>(each) - 1) / static_cast<unsigned>(each);
  return {static_cast<unsigned>((threads + 31) / 32 * 32), each};
}
unsigned backward_blocks_a_multiprocessor(unsigned threads) {
  return std::max(1U, backward_threads_a_multiprocessor / threads);
}

/// body(std::integral_constant<int, packs a thread>).
template <class Body>
void with_packs(int packs, Body body) {
  switch (packs) {
    case 1:
      return body(std::integral_constant<int, 1>{});
    case 2:
      return body(std::integral_constant<int, 2>{});
    default:
      return body(std::integral_constant<int, most_packs_a_thread>{});
  }
}

template <class T, bool centred, int packs_a_thread>
__global__ void forward_kernel(const T* x, const T* gain, const T* bias, T* y, float* mean_out,
                               float* rstd_out, T* copy, unsigned packs) {
  constexpr int size = Pack<T>::size;
  __shared__ float shared[32];
  const std::uint64_t row = std::uint64_t{blockIdx.x} * packs;
  const float width = static_cast<float>(packs * size);
  Pack<T> in[packs_a_thread];
  float sum[1] = {0};
#pragma unroll
  for (int p = 0; p < packs_a_thread; ++p) {
    const unsigned at = threadIdx.x + p * blockDim.x;
    if (at < packs) in[p] = load(x, row + at);
  }
  float mean = 0;
  if constexpr (centred) {
#pragma unroll
    for (int p = 0; p < packs_a_thread; ++p) {
      if (threadIdx.x + p * blockDim.x < packs) {
#pragma unroll
        for (int i = 0; i < size; ++i) sum[0] += in[p][i];
      }
    }
    block_sum(sum, shared);
    mean = sum[0] / width;
    sum[0] = 0;
  }
#pragma unroll
  for (int p = 0; p < packs_a_thread; ++p) {
    if (threadIdx.x + p * blockDim.x < packs) {
#pragma unroll
      for (int i = 0; i < size; ++i) sum[0] += (in[p][i] - mean) * (in[p][i] - mean);
    }
  }
  block_sum(sum, shared);
  const float rstd = rsqrtf(sum[0] / width + norm_epsilon);
  if (threadIdx.x == 0) {
    if (centred) mean_out[blockIdx.x] = mean;
    rstd_out[blockIdx.x] = rstd;
  }
#pragma unroll
  for (int p = 0; p < packs_a_thread; ++p) {
    const unsigned at = threadIdx.x + p * blockDim.x;
    if (at < packs) {
      const Pack<T> g = load(gain, at);
      Pack<T> b;
      if constexpr (centred) b = load(bias, at);
      Pack<T> out;
#pragma unroll
      for (int i = 0; i < size; ++i) {
        out.set(i, (in[p][i] - mean) * rstd * g[i] + (centred ? b[i] : 0.0F));
      }
      store(y, row + at, out);
      if (copy) store(copy, row + at, in[p]);
    }
  }
}

// With h = (x - mean) rstd and g = dy gain: dx = rstd (g - mean(g) [centred only] - h mean(g h)).
template <class T, bool centred, int packs_a_thread>
__global__ void backward_kernel(const T* dy, const T* x, const T* gain, const float* means,
                                const float* rstds, const T* residual, T* dx, float* partial, unsigned rows,
                                unsigned packs) {
  constexpr int size = Pack<T>::size;
  __shared__ float shared[64];
  const float width = static_cast<float>(packs * size);
  float gain_gradient[packs_a_thread][size] = {};
  float bias_gradient[packs_a_thread][size] = {};
  for (unsigned r = blockIdx.x; r < rows; r += gridDim.x) {
    const std::uint64_t row = std::uint64_t{r} * packs;
    Pack<T> d[packs_a_thread];
    Pack<T> in[packs_a_thread];
    Pack<T> rest[packs_a_thread];
#pragma unroll
    for (int p = 0; p < packs_a_thread; ++p) {
      const unsigned at = threadIdx.x + p * blockDim.x;
      if (at < packs) {
        d[p] = load_once(dy, row + at);
        in[p] = load_once(x, row + at);
        if (residual) rest[p] = load_once(residual, row + at);
      }
    }
    const float mean = centred ? means[r] : 0.0F;
    const float rstd = rstds[r];
    float sums[2] = {0, 0};  // of g h and of g
#pragma unroll
    for (int p = 0; p < packs_a_thread; ++p) {
      const unsigned at = threadIdx.x + p * blockDim.x;
      if (at < packs) {
        const Pack<T> gains = load(gain, at);
#pragma unroll
        for (int i = 0; i < size; ++i) {
          const float h = (in[p][i] - mean) * rstd;
          const float g = d[p][i] * gains[i];
          sums[0] += g * h;
          if constexpr (centred) {
            sums[1] += g;
            bias_gradient[p][i] += d[p][i];
          }
          gain_gradient[p][i] += d[p][i] * h;
        }
      }
    }
    block_sum(sums, shared);
    const float along = sums[0] / width;
    const float constant = centred ? sums[1] / width : 0.0F;
#pragma unroll
    for (int p = 0; p < packs_a_thread; ++p) {
      const unsigned at = threadIdx.x + p * blockDim.x;
      if (at < packs) {
        const Pack<T> gains = load(gain, at);
        Pack<T> out;
#pragma unroll
        for (int i = 0; i < size; ++i) {
          const float h = (in[p][i] - mean) * rstd;
          const float g = d[p][i] * gains[i];
          const float through = rstd * (g - constant - h * along);
          out.set(i, residual ? rest[p][i] + through : through);
        }
        store(dx, row + at, out);
      }
    }
  }
#pragma unroll
  for (int p = 0; p < packs_a_thread; ++p) {
    const unsigned at = threadIdx.x + p * blockDim.x;
    if (at < packs) {
      float* gains = partial + (std::uint64_t{blockIdx.x} * packs + at) * size;
#pragma unroll
      for (int i = 0; i < size; ++i) gains[i] = gain_gradient[p][i];
      if constexpr (centred) {
        float* biases = gains + std::uint64_t{gridDim.x} * packs * size;
#pragma unroll
        for (int i = 0; i < size; ++i) biases[i] = bias_gradient[p][i];
      }
    }
  }
}

template <class T>
unsigned packs_of(const Tensor& x) {
  const std::uint64_t packs = x.columns / Pack<T>::size;
  PLUMB_CHECK(x.columns % Pack<T>::size == 0 && spread_of(packs).threads <= most_threads);
  return static_cast<unsigned>(packs);
}

}  // namespace

void norm_forward(const Lane& lane, NormKind kind, const Tensor& x, const NormParameters& parameters,
                  const Tensor& y, const NormStatistics& statistics, const Tensor& copy) {
  with_type(x.type, [&](auto t) {
    using T = decltype(t);
    const unsigned packs = packs_of<T>(x);
    const Spread spread = spread_of(packs);
    with_packs(spread.packs_a_thread, [&](auto each) {
      const auto kernel = kind == NormKind::layer_norm ? forward_kernel<T, true, each.value>
                                                       : forward_kernel<T, false, each.value>;
      kernel<<<static_cast<unsigned>(x.rows), spread.threads, 0, lane.stream().handle()>>>(
          x.as<T>(), parameters.gain.as<T>(), parameters.bias.as<T>(), y.as<T>(), statistics.mean,
          statistics.rstd, copy.as<T>(), packs);
    });
  });
  check_launch();
}

Bytes norm_scratch(NormKind kind, std::uint64_t width, std::uint32_t multiprocessors) {
  // The fewest threads a block has, and so the most blocks, are those of the narrower type.
  const unsigned blocks =
      multiprocessors * backward_blocks_a_multiprocessor(spread_of(width / Pack<Bf16>::size).threads);
  const std::uint64_t sums = kind == NormKind::layer_norm ? 2 : 1;
  return {static_cast<std::int64_t>(sums * width * 4 * blocks)};
}

void norm_backward(const Lane& lane, Scratch scratch, NormKind kind, const Tensor& dy, const Tensor& x,
                   const NormParameters& parameters, const NormStatistics& statistics, const Tensor& residual,
                   const Tensor& dx, const NormParameters& gradients) {
  float* partial = static_cast<float*>(scratch.take(norm_scratch(kind, x.columns, lane.multiprocessors())));
  const auto columns = static_cast<unsigned>(x.columns);
  unsigned blocks = 0;
  with_type(x.type, [&](auto t) {
    using T = decltype(t);
    const unsigned packs = packs_of<T>(x);
    const Spread spread = spread_of(packs);
    blocks = static_cast<unsigned>(std::min<std::uint64_t>(
        x.rows, lane.multiprocessors() * backward_blocks_a_multiprocessor(spread.threads)));
    with_packs(spread.packs_a_thread, [&](auto each) {
      const auto kernel = kind == NormKind::layer_norm ? backward_kernel<T, true, each.value>
                                                       : backward_kernel<T, false, each.value>;
      kernel<<<blocks, spread.threads, 0, lane.stream().handle()>>>(
          dy.as<T>(), x.as<T>(), parameters.gain.as<T>(), statistics.mean, statistics.rstd, residual.as<T>(),
          dx.as<T>(), partial, static_cast<unsigned>(x.rows), packs);
    });
  });
  check_launch();
  const dim3 grid((columns + 31) / 32, kind == NormKind::layer_norm ? 2 : 1);
  add_partials_kernel<<<grid, dim3(32, sum_warps), 0, lane.stream().handle()>>>(
      partial, gradients.gain.as<float>(), gradients.bias.as<float>(), blocks, columns);
  check_launch();
}

}  // namespace plumb::layers
