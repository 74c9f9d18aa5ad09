#include "runtime/device/memory_state.hpp"

#include "runtime/device/check.hpp"

#include <cuda_runtime_api.h>

namespace plumb::device {

MemoryState memory_state() {
  std::size_t free = 0;
  std::size_t total = 0;
  PLUMB_CUDA_CALL(cudaMemGetInfo(&free, &total));
  return {Bytes{static_cast<std::int64_t>(free)}, Bytes{static_cast<std::int64_t>(total)}};
}

}  // namespace plumb::device
