#include "runtime/device/check.hpp"
#include "runtime/device/clock_count.hpp"
#include "runtime/device/stream.hpp"

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include <cuda_runtime.h>

namespace plumb::device {
namespace {

struct Reading {
  unsigned long long cycles;
  unsigned long long nanoseconds;
  unsigned multiprocessor;
};

// The timer may tick in microseconds.
constexpr unsigned long long enough_ns = 100'000;

__global__ void note_kernel(Reading* readings) {
  Reading now{};
  asm volatile("mov.u32 %0, %smid;" : "=r"(now.multiprocessor));
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now.nanoseconds));
  now.cycles = static_cast<unsigned long long>(clock64());
  readings[blockIdx.x] = now;
}

}  // namespace

ClockCount::ClockCount(std::uint32_t blocks)
    : blocks_(blocks), readings_(Bytes{static_cast<std::int64_t>(blocks * sizeof(Reading))}) {}

void ClockCount::note(const Stream& stream) const {
  note_kernel<<<blocks_, 1, 0, stream.handle()>>>(readings_.as<Reading>());
  PLUMB_CUDA_CALL(cudaGetLastError());
}

std::uint32_t mean_mhz(const ClockCount& begin, const ClockCount& end) {
  std::map<unsigned, Reading> began;
  for (const Reading& reading : std::span(begin.readings_.as<Reading>(), begin.blocks_))
    began.emplace(reading.multiprocessor, reading);
  std::vector<std::uint32_t> clocks;
  for (const Reading& to : std::span(end.readings_.as<Reading>(), end.blocks_)) {
    const auto from = began.extract(to.multiprocessor);  // so that each counts once
    if (!from || to.nanoseconds < from.mapped().nanoseconds + enough_ns) continue;
    const unsigned long long ns = to.nanoseconds - from.mapped().nanoseconds;
    clocks.push_back(static_cast<std::uint32_t>((1000 * (to.cycles - from.mapped().cycles) + ns / 2) / ns));
  }
  if (clocks.empty()) return 0;
  const auto middle = clocks.begin() + static_cast<std::ptrdiff_t>(clocks.size() / 2);
  std::nth_element(clocks.begin(), middle, clocks.end());
  return *middle;
}

}  // namespace plumb::device
