#include "runtime/clock_watch.hpp"

#include "runtime/device/clock_count.hpp"
#include "runtime/device/stream.hpp"

#include <cuda_runtime_api.h>

namespace plumb {
namespace {
// Several times as many as there are multiprocessors, so that each gets some.
constexpr std::uint32_t blocks = 1024;
}  // namespace

struct ClockWatch::Impl {
  device::ClockCount begin{blocks};
  device::ClockCount end{blocks};
  device::Stream stream;

  void note(const device::ClockCount& count) const {
    count.note(stream);
    stream.synchronize();
  }
};

ClockWatch::ClockWatch() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) impl_ = std::make_unique<Impl>();
}

ClockWatch::~ClockWatch() = default;

void ClockWatch::start() {
  if (impl_) impl_->note(impl_->begin);
}

std::uint32_t ClockWatch::stop() {
  if (!impl_) return 0;
  impl_->note(impl_->end);
  return mean_mhz(impl_->begin, impl_->end);
}

}  // namespace plumb
