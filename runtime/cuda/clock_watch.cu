#include "runtime/clock_watch.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/check.hpp"
#include "runtime/device/stream.hpp"

#include <algorithm>
#include <vector>

#include <cuda_runtime.h>

namespace plumb {
namespace {

constexpr unsigned most_multiprocessors = 1024;

struct Reading {
  unsigned long long cycles;
  unsigned long long nanoseconds;
};

// Each block notes what the multiprocessor that it landed on has counted.
__global__ void read_kernel(Reading* readings) {
  unsigned multiprocessor = 0;
  asm volatile("mov.u32 %0, %smid;" : "=r"(multiprocessor));
  unsigned long long time = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  if (multiprocessor < most_multiprocessors)
    readings[multiprocessor] = {static_cast<unsigned long long>(clock64()), time};
}

constexpr Bytes reading_bytes{static_cast<std::int64_t>(most_multiprocessors * sizeof(Reading))};

}  // namespace

struct ClockWatch::Impl {
  device::HostBuffer begin{reading_bytes};
  device::HostBuffer end{reading_bytes};
  device::Stream stream;

  void read(const device::HostBuffer& into) {
    Reading* readings = into.as<Reading>();
    std::fill_n(readings, most_multiprocessors, Reading{0, 0});
    // Several times as many as there are multiprocessors, so that each gets some.
    read_kernel<<<most_multiprocessors, 1, 0, stream.handle()>>>(readings);
    PLUMB_CUDA_CALL(cudaGetLastError());
    stream.synchronize();
  }
};

ClockWatch::ClockWatch() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) impl_ = std::make_unique<Impl>();
}

ClockWatch::~ClockWatch() = default;

void ClockWatch::start() {
  if (impl_) impl_->read(impl_->begin);
}

std::uint32_t ClockWatch::stop() {
  if (!impl_) return 0;
  impl_->read(impl_->end);
  std::vector<std::uint32_t> clocks;
  for (unsigned sm = 0; sm < most_multiprocessors; ++sm) {
    const Reading& begin = impl_->begin.as<Reading>()[sm];
    const Reading& end = impl_->end.as<Reading>()[sm];
    if (begin.nanoseconds == 0 || end.nanoseconds <= begin.nanoseconds || end.cycles <= begin.cycles)
      continue;
    const unsigned long long ns = end.nanoseconds - begin.nanoseconds;
    clocks.push_back(static_cast<std::uint32_t>((1000 * (end.cycles - begin.cycles) + ns / 2) / ns));
  }
  if (clocks.empty()) return 0;
  const auto middle = clocks.begin() + static_cast<std::ptrdiff_t>(clocks.size() / 2);
  std::nth_element(clocks.begin(), middle, clocks.end());
  return *middle;
}

}  // namespace plumb
