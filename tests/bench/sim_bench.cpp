// How fast a step is replayed. One item is one compute op. Run in the release preset on one core:
//   taskset -c 0 sim_bench --benchmark_repetitions=5 --benchmark_report_aggregates_only=true
#include "schedules/generators/generator.hpp"
#include "schedules/ir/check.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/lower.hpp"
#include "sim/contention.hpp"
#include "sim/critical_path.hpp"
#include "sim/dag.hpp"
#include "sim/program.hpp"
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

ExecutionOptions half_duplex() {
  ExecutionOptions options;
  options.duplex = Duplex::half;
  return options;
}

// Messages slow computation by the 18.9 % that were measured on average, and are slowed by a quarter
// themselves.
CostModel contended_costs() {
  CostModel cost = reference_costs();
  cost.classes.push_back("message");
  cost.message_class = WorkClass{1};
  cost.slowdown_ppm = {{1'000'000, 1'189'000}, {1'250'000, 1'000'000}};
  return cost;
}
ExecutionOptions contended() {
  ExecutionOptions options;
  options.links_are_shared = true;
  options.messages_slow_compute = true;
  return options;
}

// An event-driven engine alone: the graph is built and the program compiled, as for first_replay.
template <class Run>
void run_events(benchmark::State& state, const CostModel& cost, const ExecutionOptions& options,
                const Run& run) {
  const Case& reference = reference_case(state);
  const Dag dag = build_dag(reference.lowered, cost, options);
  const Program fresh = compile(reference.lowered, dag, options);
  Program program = fresh;
  for (auto _ : state) {
    state.PauseTiming();
    std::copy(fresh.actions.begin(), fresh.actions.end(), program.actions.begin());
    std::copy(fresh.messages.begin(), fresh.messages.end(), program.messages.begin());
    state.ResumeTiming();
    run(program, dag);
  }
  state.SetItemsProcessed(state.iterations() * ops_of(reference));
}

void event_driven_run_of_half_duplex_links(benchmark::State& state) {
  run_events(state, reference_costs(), half_duplex(),
             [](Program& program, const Dag& dag) { run_links(program, dag, half_duplex()); });
}
BENCHMARK(event_driven_run_of_half_duplex_links)->Apply(sizes);

void event_driven_run_of_links_and_contention(benchmark::State& state) {
  const CostModel cost = contended_costs();
  run_events(state, cost, contended(),
             [&](Program& program, const Dag& dag) { run_slowed(program, dag, cost, contended()); });
}
BENCHMARK(event_driven_run_of_links_and_contention)->Apply(sizes);

void event_driven_run_of_transfers_that_occupy_compute(benchmark::State& state) {
  run_events(state, reference_costs(), {},
             [](Program& program, const Dag& dag) { run_exclusive(program, dag, {}); });
}
BENCHMARK(event_driven_run_of_transfers_that_occupy_compute)->Apply(sizes);

void build_and_simulate_half_duplex_links(benchmark::State& state) {
  simulate_with(state, reference_costs(), half_duplex());
}
BENCHMARK(build_and_simulate_half_duplex_links)->Apply(sizes);

void build_and_simulate_links_and_contention(benchmark::State& state) {
  simulate_with(state, contended_costs(), contended());
}
BENCHMARK(build_and_simulate_links_and_contention)->Apply(sizes);

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
