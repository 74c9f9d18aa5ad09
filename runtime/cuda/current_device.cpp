#include "runtime/cuda/current_device.hpp"

#include "runtime/device/check.hpp"

#include <cuda_runtime_api.h>

namespace plumb::cuda {

std::uint32_t current_device() {
  int device = 0;
  PLUMB_CUDA_CALL(cudaGetDevice(&device));
  return static_cast<std::uint32_t>(device);
}

void use_device(std::uint32_t device) { PLUMB_CUDA_CALL(cudaSetDevice(static_cast<int>(device))); }

}  // namespace plumb::cuda
