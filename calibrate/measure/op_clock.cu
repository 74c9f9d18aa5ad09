#include "calibrate/measure/op_clock.hpp"
#include "runtime/device/check.hpp"

#include <cuda_runtime.h>

namespace plumb::measure {
namespace {

struct Note {
  unsigned long long cycles;
  unsigned long long nanoseconds;
  unsigned multiprocessor;
};

__global__ void note_kernel(Note* note) {
  Note now{};
  asm volatile("mov.u32 %0, %smid;" : "=r"(now.multiprocessor));
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now.nanoseconds));
  now.cycles = static_cast<unsigned long long>(clock64());
  *note = now;
}

void queue(const device::Stream& stream, Note* note) {
  note_kernel<<<1, 1, 0, stream.handle()>>>(note);
  PLUMB_CUDA_CALL(cudaGetLastError());
}

}  // namespace

OpClock::OpClock() : notes_(Bytes{2 * sizeof(Note)}) {}

void OpClock::begin(const device::Stream& stream) { queue(stream, notes_.as<Note>()); }
void OpClock::end(const device::Stream& stream) { queue(stream, notes_.as<Note>() + 1); }

std::uint32_t OpClock::mhz() const {
  // The timer may tick in microseconds.
  constexpr unsigned long long enough = 100'000;
  const Note& begin = notes_.as<Note>()[0];
  const Note& end = notes_.as<Note>()[1];
  if (begin.multiprocessor != end.multiprocessor || end.nanoseconds < begin.nanoseconds + enough) return 0;
  const unsigned long long ns = end.nanoseconds - begin.nanoseconds;
  return static_cast<std::uint32_t>((1000 * (end.cycles - begin.cycles) + ns / 2) / ns);
}

}  // namespace plumb::measure
