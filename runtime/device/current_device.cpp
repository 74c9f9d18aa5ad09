#include "runtime/device/current_device.hpp"

#include "runtime/device/check.hpp"
#include "schedules/ir/error.hpp"

#include <chrono>
#include <cstdlib>
#include <thread>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

namespace plumb::device {
namespace {
constexpr std::chrono::seconds busy_limit{12};
}

std::uint32_t current_device() {
  int device = 0;
  PLUMB_CUDA_CALL(cudaGetDevice(&device));
  return static_cast<std::uint32_t>(device);
}

void use_device(std::uint32_t device) {
  cudaError_t status = cudaSetDevice(static_cast<int>(device));
  // Where a process that used it through MPS was killed, the GPU takes nobody for some seconds.
  const auto end = std::chrono::steady_clock::now() + busy_limit;
  while (status == cudaErrorDevicesUnavailable && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds{250});
    status = cudaSetDevice(static_cast<int>(device));
  }
  if (status == cudaErrorMemoryAllocation || status == cudaErrorDevicesUnavailable) {
    // Which is also how MPS's refusal of one client too many reads.
    const char* const queues = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    throw DeviceError(
        fmt::format("GPU {}: {}. If processes share it through MPS, its server.log says whether their "
                    "hardware queues were "
                    "too many: this one asks for CUDA_DEVICE_MAX_CONNECTIONS={}",
                    device, cudaGetErrorString(status), queues ? queues : "8 by default"));
  }
  PLUMB_CUDA_CALL(status);
}

}  // namespace plumb::device
