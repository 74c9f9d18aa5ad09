// Where figures come from: which machine, which libraries, which command.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// Everything that can change a timing without changing the code that is timed. Empty or 0: not known.
struct Provenance {
  std::string gpu;  // as the driver names it: `NVIDIA H200`
  std::uint32_t gpus = 0;
  std::uint32_t sms = 0;  // of one GPU
  Bytes gpu_memory;
  std::string driver;
  std::string cuda;          // the runtime library's version
  std::string nccl_header;   // built with
  std::string nccl_library;  // runs with
  std::string cudnn;
  std::string cublas;
  std::uint32_t sm_clock_mhz = 0;       // the median over all samples
  std::uint32_t most_sm_clock_mhz = 0;  // what the chip could
  std::uint32_t memory_clock_mhz = 0;
  std::string host;
  std::string time;  // when it began, ISO 8601
  std::string tool_version;
  std::string tool_commit;
  std::vector<std::string> argv;
  std::map<std::string, std::string> environment;  // CUDA_*, NCCL_*, PLUMB_*
  std::map<std::string, std::string> notes;        // whatever else a reader should know
  bool operator==(const Provenance&) const = default;
};

/// Two names of one GPU class: equal but for case, vendor and what tells boards of one chip apart (`NVIDIA
/// H100 80GB HBM3` and `h100`). An empty name is of any class.
bool same_gpu_class(std::string_view a, std::string_view b);

}  // namespace plumb
