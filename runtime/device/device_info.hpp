// Which GPU this is, which libraries run, and how fast its clock is just now.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <string>

namespace plumb::device {

struct DeviceInfo {
  std::string name;
  std::string compute_capability;  // "9.0"
  std::uint32_t multiprocessors = 0;
  Bytes memory;
  Bytes l2_cache;
  std::string driver;  // "580.159.04", or its CUDA version where the management library is not there
  std::string cuda_driver;
  std::string cuda_runtime;
  std::string cublas;
  std::string cudnn;
  std::string nccl;             // that runs
  std::string nccl_built_with;  // of the headers
};

/// Of the current device. Throws DeviceError, in one sentence, where there is none.
DeviceInfo device_info();
/// The same check alone.
void require_device();

/// Reads the multiprocessors' clock through NVIDIA's management library, which is loaded when it is there.
class ClockReader {
 public:
  ClockReader();
  ClockReader(const ClockReader&) = delete;
  ClockReader& operator=(const ClockReader&) = delete;
  ~ClockReader();

  struct Reading {
    std::uint32_t mhz = 0;   // 0: not known
    bool throttled = false;  // by power, heat or a brake; being idle is no throttling
  };
  Reading read() const;
  /// The fastest the multiprocessors could run, and the memory's clock just now; 0: not known.
  std::uint32_t most_mhz() const;
  std::uint32_t memory_mhz() const;
  std::string driver_version() const;

 private:
  void* library_ = nullptr;
  void* device_ = nullptr;
};

}  // namespace plumb::device
