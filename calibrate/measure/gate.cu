#include "calibrate/measure/gate.hpp"
#include "runtime/device/check.hpp"

#include <atomic>

#include <cuda_runtime.h>

namespace plumb::measure {
namespace {

struct Shared {
  int open;
  unsigned long long cycles;
  unsigned long long nanoseconds;
};

__device__ unsigned long long nanoseconds() {
  unsigned long long time = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}

// The timer that counts nanoseconds may tick in microseconds: cycles are counted from tick to tick. It spins:
// a multiprocessor whose only warp sleeps may sleep too, and counts no cycles meanwhile (eight ranks that did
// the same at the same time read two clocks, exactly 10 : 11 apart).
__global__ void wait_kernel(volatile Shared* shared) {
  const unsigned long long arrived = nanoseconds();
  unsigned long long begin = arrived;
  while (begin == arrived) begin = nanoseconds();
  const long long begin_cycles = clock64();
  unsigned long long now = begin;
  long long now_cycles = begin_cycles;
  do {
    const unsigned long long tick = nanoseconds();
    if (tick != now) {
      now = tick;
      now_cycles = clock64();
    }
  } while (shared->open == 0 && now - begin < 1'000'000'000ULL);
  shared->cycles = static_cast<unsigned long long>(now_cycles - begin_cycles);
  shared->nanoseconds = now - begin;
}

std::atomic_ref<int> flag(const device::HostBuffer& buffer) {
  return std::atomic_ref<int>(buffer.as<Shared>()->open);
}

}  // namespace

Gate::Gate() : flag_(Bytes{sizeof(Shared)}) { flag(flag_).store(1); }

void Gate::close(const device::Stream& stream) {
  flag(flag_).store(0);
  wait_kernel<<<1, 1, 0, stream.handle()>>>(flag_.as<Shared>());
  PLUMB_CUDA_CALL(cudaGetLastError());
}

std::uint32_t Gate::clock_mhz() const {
  constexpr unsigned long long enough = 20'000;  // 20 us, read to a tick of at most one
  const Shared& shared = *flag_.as<Shared>();
  if (shared.nanoseconds < enough) return 0;
  return static_cast<std::uint32_t>((1000 * shared.cycles + shared.nanoseconds / 2) / shared.nanoseconds);
}

void Gate::open() { flag(flag_).store(1); }

}  // namespace plumb::measure
