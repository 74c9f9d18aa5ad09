// Making schedules: what one op costs, alone and with the message groups of the author's runtime.
//
// Memory that was given back to the kernel costs a page fault again, which on virtual machines is more than
// writing the page. So the allocator is told to keep what is freed; `cold` in the name is without that.
#include "schedules/generators/generator.hpp"

#include <limits>

#include <benchmark/benchmark.h>
#include <malloc.h>

namespace plumb {
namespace {

void keep_freed_memory(bool keep) {
  mallopt(M_MMAP_THRESHOLD, keep ? 1 << 30 : 128 << 10);
  mallopt(M_TRIM_THRESHOLD, keep ? std::numeric_limits<int>::max() : 128 << 10);
}

Shape shape_of(const benchmark::State& state) {
  return {static_cast<std::uint32_t>(state.range(0)), static_cast<std::uint32_t>(state.range(1)), {}, {}};
}

void make(benchmark::State& state, const char* name, bool keep) {
  keep_freed_memory(keep);
  const Generator& family = generator(name);
  const Shape shape = shape_of(state);
  std::size_t ops = 0;
  for (auto _ : state) {
    const Schedule schedule = make_schedule(family, shape);
    ops = count_ops(schedule);
    benchmark::DoNotOptimize(schedule.actions.data());
  }
  state.counters["ops/s"] =
      benchmark::Counter(static_cast<double>(ops), benchmark::Counter::kIsIterationInvariantRate);
}

void make_batched(benchmark::State& state, const char* name, bool keep) {
  keep_freed_memory(keep);
  const Generator& family = generator(name);
  const Shape shape = legal_shape(family, shape_of(state));
  const std::size_t ops = count_ops(make_schedule(family, shape));
  for (auto _ : state) {
    const LoweredSchedule lowered = family.make_batched(shape);
    benchmark::DoNotOptimize(lowered.per_rank.data());
  }
  state.counters["ops/s"] =
      benchmark::Counter(static_cast<double>(ops), benchmark::Counter::kIsIterationInvariantRate);
}

void each_size(benchmark::internal::Benchmark* bench) {
  bench->Args({64, 512})->Args({512, 8192})->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(make, one_f_one_b, "1f1b", true)->Apply(each_size);
BENCHMARK_CAPTURE(make, interleaved_1f1b, "interleaved-1f1b", true)->Apply(each_size);
BENCHMARK_CAPTURE(make, zb_h1, "zb-h1", true)->Apply(each_size);
BENCHMARK_CAPTURE(make, interleaved_zb, "interleaved-zb", true)->Apply(each_size);
BENCHMARK_CAPTURE(make, dualpipe, "dualpipe", true)->Apply(each_size);
BENCHMARK_CAPTURE(make, dualpipe_v, "dualpipe-v", true)->Apply(each_size);
BENCHMARK_CAPTURE(make_batched, dualpipe, "dualpipe", true)->Apply(each_size);
BENCHMARK_CAPTURE(make_batched, dualpipe_v, "dualpipe-v", true)->Apply(each_size);
BENCHMARK_CAPTURE(make, dualpipe_cold, "dualpipe", false)->Apply(each_size);
BENCHMARK_CAPTURE(make_batched, dualpipe_cold, "dualpipe", false)->Apply(each_size);

}  // namespace
}  // namespace plumb
