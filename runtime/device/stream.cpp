#include "runtime/device/stream.hpp"

#include "runtime/device/check.hpp"
#include "runtime/device/event.hpp"

#include <cuda_runtime_api.h>

namespace plumb::device {

int level_of(Priority priority) {
  int low = 0;
  int high = 0;  // the smaller number
  PLUMB_CUDA_CALL(cudaDeviceGetStreamPriorityRange(&low, &high));
  return priority == Priority::low ? low : priority == Priority::high ? high : (low + high) / 2;
}

Stream::Stream(Priority priority) {
  PLUMB_CUDA_CALL(cudaStreamCreateWithPriority(&handle_, cudaStreamNonBlocking, level_of(priority)));
}

Stream::~Stream() {
  if (handle_) static_cast<void>(cudaStreamDestroy(handle_));
}

void Stream::wait(const Event& event) const {
  PLUMB_CUDA_CALL(cudaStreamWaitEvent(handle_, event.handle(), 0));
}

void Stream::synchronize() const { PLUMB_CUDA_CALL(cudaStreamSynchronize(handle_)); }

void copy(const Stream& stream, void* to, const void* from, std::size_t bytes) {
  PLUMB_CUDA_CALL(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream.handle()));
}

void fill(const Stream& stream, void* to, int byte, std::size_t bytes) {
  PLUMB_CUDA_CALL(cudaMemsetAsync(to, byte, bytes, stream.handle()));
}

void synchronize() { PLUMB_CUDA_CALL(cudaDeviceSynchronize()); }

}  // namespace plumb::device
