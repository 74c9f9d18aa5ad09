#include "runtime/device/device_info.hpp"

#include "runtime/device/check.hpp"
#include "runtime/device/communicator.hpp"
#include "schedules/ir/error.hpp"

#include <array>

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <dlfcn.h>

namespace plumb::device {
namespace {
std::string cuda_version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// NVIDIA's management library, by its stable C interface: https://docs.nvidia.com/deploy/nvml-api
constexpr int clock_of_memory = 2;           // NVML_CLOCK_MEM
constexpr int clock_of_multiprocessors = 1;  // NVML_CLOCK_SM
constexpr unsigned long long throttling =
    0x4 | 0x8 | 0x20 | 0x40 | 0x80;  // power cap, slowdowns, thermal, brake

template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}
}  // namespace

void require_device() {
  int count = 0;
  PLUMB_CUDA_CALL(cudaGetDeviceCount(&count));
  if (count == 0) throw DeviceError("there is no GPU to run on");
}

DeviceInfo device_info() {
  require_device();
  int device = 0;
  PLUMB_CUDA_CALL(cudaGetDevice(&device));
  cudaDeviceProp properties{};
  PLUMB_CUDA_CALL(cudaGetDeviceProperties(&properties, device));
  int driver = 0;
  int runtime = 0;
  PLUMB_CUDA_CALL(cudaDriverGetVersion(&driver));
  PLUMB_CUDA_CALL(cudaRuntimeGetVersion(&runtime));
  DeviceInfo info;
  info.name = properties.name;
  info.compute_capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
  info.multiprocessors = static_cast<std::uint32_t>(properties.multiProcessorCount);
  info.memory = Bytes{static_cast<std::int64_t>(properties.totalGlobalMem)};
  info.l2_cache = Bytes{properties.l2CacheSize};
  info.cuda_driver = cuda_version_text(driver);
  info.cuda_runtime = cuda_version_text(runtime);
  const std::string driver_version = ClockReader().driver_version();
  info.driver = driver_version.empty() ? "CUDA " + info.cuda_driver : driver_version;
  const std::size_t blas = cublasLtGetVersion();
  info.cublas = std::to_string(blas / 10000) + "." + std::to_string(blas / 100 % 100) + "." +
                std::to_string(blas % 100);
  const std::size_t dnn = cudnnGetVersion();
  info.cudnn =
      std::to_string(dnn / 10000) + "." + std::to_string(dnn / 100 % 100) + "." + std::to_string(dnn % 100);
  info.nccl = nccl_version();
  info.nccl_built_with = plumb::device::nccl_built_with();
  return info;
}

ClockReader::ClockReader() {
  library_ = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library_) return;
  const auto init = symbol<int()>(library_, "nvmlInit_v2");
  const auto by_bus = symbol<int(const char*, void**)>(library_, "nvmlDeviceGetHandleByPciBusId_v2");
  int device = 0;
  std::array<char, 32> bus{};
  if (!init || !by_bus || init() != 0 || cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetPCIBusId(bus.data(), bus.size(), device) != cudaSuccess ||
      by_bus(bus.data(), &device_) != 0) {
    device_ = nullptr;
  }
}

ClockReader::~ClockReader() {
  if (library_) dlclose(library_);
}

ClockReader::Reading ClockReader::read() const {
  Reading reading;
  if (!device_) return reading;
  unsigned mhz = 0;
  const auto clock = symbol<int(void*, int, unsigned*)>(library_, "nvmlDeviceGetClockInfo");
  if (clock && clock(device_, clock_of_multiprocessors, &mhz) == 0) reading.mhz = mhz;
  unsigned long long reasons = 0;
  const auto why =
      symbol<int(void*, unsigned long long*)>(library_, "nvmlDeviceGetCurrentClocksThrottleReasons");
  if (why && why(device_, &reasons) == 0) reading.throttled = (reasons & throttling) != 0;
  return reading;
}

std::uint32_t ClockReader::most_mhz() const {
  unsigned mhz = 0;
  const auto most =
      device_ ? symbol<int(void*, int, unsigned*)>(library_, "nvmlDeviceGetMaxClockInfo") : nullptr;
  return most && most(device_, clock_of_multiprocessors, &mhz) == 0 ? mhz : 0;
}

std::uint32_t ClockReader::memory_mhz() const {
  unsigned mhz = 0;
  const auto clock =
      device_ ? symbol<int(void*, int, unsigned*)>(library_, "nvmlDeviceGetClockInfo") : nullptr;
  return clock && clock(device_, clock_of_memory, &mhz) == 0 ? mhz : 0;
}

std::string ClockReader::driver_version() const {
  std::array<char, 96> text{};
  const auto version =
      library_ ? symbol<int(char*, unsigned)>(library_, "nvmlSystemGetDriverVersion") : nullptr;
  if (!version || version(text.data(), static_cast<unsigned>(text.size())) != 0) return {};
  return text.data();
}

}  // namespace plumb::device
