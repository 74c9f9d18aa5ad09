// How fast a step is replayed. One item is one compute op. Run in the release preset on one core:
//   taskset -c 0 sim_bench --benchmark_repetitions=5 --benchmark_report_aggregates_only=true
#include "schedules/generators/generator.hpp"
#include "schedules/ir/check.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/lower.hpp"
#include "sim/critical_path.hpp"
#include "sim/dag.hpp"
#include "sim/replay.hpp"
#include "sim/simulate.hpp"

#include <algorithm>

#include <benchmark/benchmark.h>

namespace plumb {
namespace {

constexpr Duration ms{1'000'000};

// 1F1B in which every backward_weight follows its backward_input at once.
Schedule split_1f1b(std::uint32_t ranks, std::uint32_t microbatches) {
  Schedule schedule = make_schedule(generator("1f1b"), {ranks, microbatches, {}, {}});
  for (auto& rank : schedule.actions) {
    std::vector<Action> split;
    split.reserve(3 * std::size_t{microbatches});
    for (const Action& action : rank) {
      Op op = action.first();
      if (op.kind != OpKind::backward) {
        split.push_back(action);
        continue;
      }
      op.kind = OpKind::backward_input;
      split.emplace_back(op);
      op.kind = OpKind::backward_weight;
      split.emplace_back(op);
    }
    rank = std::move(split);
  }
  return schedule;
}

// F 10 ms, I 11 ms, W 9 ms and 5 us on each edge between ranks.
CostModel reference_costs() { return unit_costs({ms * 10, ms * 11, ms * 9, {}, {}, Duration{5000}}); }

struct Case {
  std::uint32_t ranks;
  std::uint32_t microbatches;
  LoweredSchedule lowered;
};

// One size is held at a time: the largest takes gigabytes.
const Case& reference_case(const benchmark::State& state) {
  const auto ranks = static_cast<std::uint32_t>(state.range(0));
  const auto microbatches = static_cast<std::uint32_t>(state.range(1));
  static Case held{};
  if (held.ranks != ranks || held.microbatches != microbatches) {
    held = {};
    held = {ranks, microbatches, lower(split_1f1b(ranks, microbatches))};
  }
  return held;
}

std::int64_t ops_of(const Case& reference) {
  return std::int64_t{3} * reference.ranks * reference.microbatches;
}

// 98,304, 1,572,864 and 12,582,912 compute ops.
void sizes(benchmark::internal::Benchmark* bench) {
  bench->Args({64, 512})->Args({128, 4096})->Args({512, 8192})->Unit(benchmark::kMillisecond);
}

void expect_reference_makespan(const Case& reference, std::int64_t makespan) {
  if (reference.ranks == 64 && reference.microbatches == 512) PLUMB_CHECK(makespan == 16'683'630'000);
}

void first_replay(benchmark::State& state) {
  const Case& reference = reference_case(state);
  const CostModel cost = reference_costs();
  const Dag dag = build_dag(reference.lowered, cost, {});
  std::vector<std::int64_t> ends(dag.nodes.size());
  for (auto _ : state) {
    replay(dag, ends);
    benchmark::DoNotOptimize(ends.data());
  }
  expect_reference_makespan(reference, *std::max_element(ends.begin(), ends.end()));
  state.SetItemsProcessed(state.iterations() * ops_of(reference));
}
BENCHMARK(first_replay)->Apply(sizes);

void recosted_replay(benchmark::State& state) {
  const Case& reference = reference_case(state);
  Replay cached(reference.lowered, reference_costs());
  Duration makespan;
  for (auto _ : state) makespan = cached.run();
  expect_reference_makespan(reference, makespan.ns);
  state.SetItemsProcessed(state.iterations() * ops_of(reference));
}
BENCHMARK(recosted_replay)->Apply(sizes);

void build(benchmark::State& state) {
  const Case& reference = reference_case(state);
  const CostModel cost = reference_costs();
  for (auto _ : state) benchmark::DoNotOptimize(build_dag(reference.lowered, cost, {}));
  state.SetItemsProcessed(state.iterations() * ops_of(reference));
}
BENCHMARK(build)->Apply(sizes);

void simulate_with(benchmark::State& state, const CostModel& cost, const ExecutionOptions& options) {
  const Case& reference = reference_case(state);
  for (auto _ : state) benchmark::DoNotOptimize(simulate(reference.lowered, cost, options));
  state.SetItemsProcessed(state.iterations() * ops_of(reference));
}

void build_and_simulate(benchmark::State& state) { simulate_with(state, reference_costs(), {}); }
BENCHMARK(build_and_simulate)->Apply(sizes);

void event_driven_shared_links(benchmark::State& state) {
  ExecutionOptions options;
  options.links_are_shared = true;
  options.duplex = Duplex::half;
  simulate_with(state, reference_costs(), options);
}
BENCHMARK(event_driven_shared_links)->Apply(sizes);

void event_driven_messages_slow_compute(benchmark::State& state) {
  CostModel cost = reference_costs();
  cost.classes.push_back("message");
  cost.message_class = WorkClass{1};
  cost.slowdown_ppm = {{1'000'000, 1'189'000}, {1'250'000, 1'000'000}};
  ExecutionOptions options;
  options.links_are_shared = true;
  options.messages_slow_compute = true;
  simulate_with(state, cost, options);
}
BENCHMARK(event_driven_messages_slow_compute)->Apply(sizes);

void event_driven_transfers_occupy_compute(benchmark::State& state) {
  ExecutionOptions options;
  options.links_are_shared = true;
  options.transfers_occupy_compute = true;
  simulate_with(state, reference_costs(), options);
}
BENCHMARK(event_driven_transfers_occupy_compute)->Apply(sizes);

void generate_check_lower_build_simulate(benchmark::State& state) {
  const CostModel cost = reference_costs();
  const auto ranks = static_cast<std::uint32_t>(state.range(0));
  const auto microbatches = static_cast<std::uint32_t>(state.range(1));
  for (auto _ : state) {
    const Schedule schedule = split_1f1b(ranks, microbatches);
    PLUMB_CHECK(check(schedule).valid());
    benchmark::DoNotOptimize(simulate(lower(schedule), cost));
  }
  state.SetItemsProcessed(state.iterations() * 3 * ranks * microbatches);
}
BENCHMARK(generate_check_lower_build_simulate)->Apply(sizes);

}  // namespace
}  // namespace plumb
