#include "runtime/device/event.hpp"

#include "runtime/device/check.hpp"
#include "runtime/device/stream.hpp"

#include <cmath>

#include <cuda_runtime_api.h>

namespace plumb::device {

Event::Event(EventKind kind) {
  PLUMB_CUDA_CALL(cudaEventCreateWithFlags(
      &handle_, kind == EventKind::timing ? cudaEventDefault : cudaEventDisableTiming));
}

Event::~Event() {
  if (handle_) static_cast<void>(cudaEventDestroy(handle_));
}

void Event::record(const Stream& stream) const { PLUMB_CUDA_CALL(cudaEventRecord(handle_, stream.handle())); }

bool Event::happened() const {
  const cudaError_t status = cudaEventQuery(handle_);
  if (status == cudaErrorNotReady) return false;
  PLUMB_CUDA_CALL(status);
  return true;
}

void Event::synchronize() const { PLUMB_CUDA_CALL(cudaEventSynchronize(handle_)); }

Duration between(const Event& begin, const Event& end) {
  float milliseconds = 0;
  PLUMB_CUDA_CALL(cudaEventElapsedTime(&milliseconds, begin.handle(), end.handle()));
  return {std::llround(static_cast<double>(milliseconds) * 1e6)};
}

}  // namespace plumb::device
