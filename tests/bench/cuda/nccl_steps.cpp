// Schedules on one GPU with a process a rank and NCCL between them, started by this program itself.
//   nccl_steps HIDDEN TOKENS RANKS MICROBATCHES SCHEDULE[:CHUNKS][+MORE…][,…]
//              [check] [batched] [shares] [gpus=N] [gpt] [fp32] [algorithms=FILE] [connections=N]
//              [without-sums] [without-mps] [kill | freeze]
// MORE, for one schedule: threads or own-threads, ahead or late, free=N, channels=N, sums=N:
// NcclOptions::shared_threads, receives_ahead, left_free, channels, sum_channels. gpus: ranks are dealt out
// over so many instead of one. algorithms: how matrix products are computed, read if the file is there and
// else written by rank 0: ranks that try products out beside each other choose badly, and long. shares: each
// rank has its own share of the GPU instead of all of it. without-sums: the two owners of a stage keep their
// gradients to themselves, as DualPipe's published example does in its step. kill, freeze: rank 1 is killed,
// or stopped, in the middle of the second step; the deadline is 5 s.
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/launch/mps.hpp"
#include "runtime/launch/own_ranks.hpp"
#include "schedules/generators/generator.hpp"
#include "tests/runtime/cuda/team.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <unistd.h>

using namespace plumb;
using namespace plumb::test;

namespace {

struct Settings {
  std::uint64_t hidden = 0;
  std::uint64_t tokens = 0;
  std::uint32_t ranks = 0;
  std::uint32_t microbatches = 0;
  std::string schedules;
  std::string algorithms;
  std::uint32_t gpus = 1;
  std::uint32_t connections = 0;  // hardware queues of a process; 0: as everybody has them
  bool check = false, batched = false, shares = false, text = false, mps = true, sums = true, kill = false,
       freeze = false;
  bool fp32 = false;
};

std::uint32_t number_in(const std::string& word) {
  return static_cast<std::uint32_t>(std::stoul(word.substr(word.find('=') + 1)));
}

Settings read(int argc, char** argv) {
  Settings s;
  s.hidden = std::stoul(argv[1]);
  s.tokens = std::stoul(argv[2]);
  s.ranks = static_cast<std::uint32_t>(std::stoul(argv[3]));
  s.microbatches = static_cast<std::uint32_t>(std::stoul(argv[4]));
  s.schedules = argv[5];
  const std::map<std::string, bool Settings::*> flags{
      {"check", &Settings::check}, {"batched", &Settings::batched}, {"shares", &Settings::shares},
      {"gpt", &Settings::text},    {"kill", &Settings::kill},       {"freeze", &Settings::freeze},
      {"fp32", &Settings::fp32}};
  for (int i = 6; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "without-mps") s.mps = false;
    if (word == "without-sums") s.sums = false;
    if (word.starts_with("algorithms=")) s.algorithms = word.substr(11);
    if (word.starts_with("connections="))
      s.connections = static_cast<std::uint32_t>(std::stoul(word.substr(12)));
    if (word.starts_with("gpus=")) s.gpus = number_in(word);
    if (const auto flag = flags.find(argv[i]); flag != flags.end()) s.*flag->second = true;
  }
  return s;
}

// A line a shape: shape, tab, code.
std::map<std::string, std::string> read_algorithms(const std::string& path) {
  std::map<std::string, std::string> algorithms;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto tab = line.find('\t');
    if (tab != std::string::npos) algorithms[line.substr(0, tab)] = line.substr(tab + 1);
  }
  return algorithms;
}
void write_algorithms(const std::string& path, const std::map<std::string, std::string>& algorithms) {
  std::ofstream file(path);
  for (const auto& [shape, code] : algorithms) file << shape << '\t' << code << '\n';
}

void remove_sums(LoweredSchedule& lowered) {
  for (LoweredRank& rank : lowered.per_rank)
    std::erase_if(rank.steps, [](const Step& step) { return std::holds_alternative<Collective>(step); });
}

/// One microbatch's numbers for all of them: a step takes as long, and the host is ready sooner.
void load_alike(Worker& worker, const TrainingPlan& plan) {
  std::optional<MicrobatchData> data;
  for (std::uint32_t m = 0; m < plan.schedule.microbatches; ++m) {
    if (!worker.needs(Microbatch{m})) continue;
    if (!data) data = data_of(plan).microbatch(1, 0);
    worker.load(Microbatch{m}, *data);
  }
}

double largest(Worker& worker, Rendezvous& rendezvous, double value) {
  std::vector<double> all(rendezvous.ranks());
  all[rendezvous.rank()] = value;
  worker.sum(all);
  return *std::max_element(all.begin(), all.end());
}

NcclOptions options_of(const Settings& s, const std::string& more, std::uint32_t rank) {
  NcclOptions options;
  options.device = rank % s.gpus;
  options.own_gpu = s.gpus >= s.ranks;
  options.shares = s.shares ? s.ranks : 0;
  options.share = rank;
  std::stringstream words(more);
  for (std::string word; std::getline(words, word, '+');) {
    if (word == "threads" || word == "own-threads") options.shared_threads = word == "threads";
    if (word == "ahead" || word == "late") options.receives_ahead = word == "ahead";
    if (word.starts_with("free=")) options.left_free = number_in(word);
    if (word.starts_with("channels=")) options.channels = number_in(word);
    if (word.starts_with("sums=")) options.sum_channels = number_in(word);
  }
  return options;
}

void run(const Settings& s, const std::string& wanted, Rendezvous& rendezvous) {
  const auto plus = std::min(wanted.find('+'), wanted.size());
  const std::string name = wanted.substr(0, plus), more = wanted.substr(plus);
  const auto colon = name.find(':');
  Shape shape{s.ranks, s.microbatches, std::nullopt, std::nullopt};
  if (colon != std::string::npos)
    shape.chunks = static_cast<std::uint32_t>(std::stoul(name.substr(colon + 1)));
  LoweredSchedule lowered = make_lowered(generator(name.substr(0, colon)), shape,
                                         {s.batched ? CommPlacement::batched : CommPlacement::per_op, 1});
  if (!s.sums) remove_sums(lowered);
  TrainingPlan plan = plan_for(std::move(lowered), s.text ? gpt(s.hidden) : mlp(s.hidden), s.tokens,
                               s.fp32 ? WeightType::fp32 : WeightType::bf16);
  if (s.kill || s.freeze) plan.deadline = Duration{5'000'000'000};

  std::map<std::string, std::string> algorithms = read_algorithms(s.algorithms);
  const bool write = !s.algorithms.empty() && algorithms.empty() && rendezvous.rank() == 0;
  NcclOptions options = options_of(s, more, rendezvous.rank());
  options.algorithms = &algorithms;
  const auto begin = std::chrono::steady_clock::now();
  Team team;
  team.push_back(make_nccl_worker(plan, rendezvous, options));
  Worker& worker = *team.front();
  if (write) write_algorithms(s.algorithms, algorithms);
  s.check ? load(team, plan) : load_alike(worker, plan);
  rendezvous.barrier();
  const double start = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::vector<double> steps;
  std::vector<double> walls;  // the same by the slowest host's clock, with gradients cleared and all launched
  double compute_end = 0, busy = 0, most_busy = 0;  // of the last step
  for (int i = 0; i < 7; ++i) {
    if ((s.kill || s.freeze) && i == 1 && rendezvous.rank() == 1) {
      worker.clear_gradients();
      worker.begin_step();
      std::fprintf(stderr, "rank 1 %s itself\n", s.kill ? "kills" : "stops");
      raise(s.kill ? SIGKILL : SIGSTOP);
    }
    rendezvous.barrier();
    const auto step_begin = std::chrono::steady_clock::now();
    step(team);
    const double wall = largest(
        worker, rendezvous,
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - step_begin).count());
    walls.push_back(wall);
    const StepTimes times = worker.times();
    TimePoint end{};
    Duration own_busy{};
    for (const Interval& ran : times.compute) {
      end = std::max(end, ran.end);
      own_busy = own_busy + (ran.end - ran.begin);
    }
    compute_end = largest(worker, rendezvous, static_cast<double>(end.ns)) / 1e6;
    most_busy = largest(worker, rendezvous, static_cast<double>(own_busy.ns)) / 1e6;
    std::vector<double> sum{static_cast<double>(own_busy.ns) / 1e6};
    worker.sum(sum);
    busy = sum[0];
    for (const Interval& ran : times.collectives) end = std::max(end, ran.end);
    steps.push_back(largest(worker, rendezvous, static_cast<double>(end.ns)) / 1e6);
  }
  double difference = 0;
  if (s.check) {
    // A rank computes the same bit for bit only on as many multiprocessors, so with `shares`.
    const Unpipelined expected =
        run_unpipelined_on_gpu(plan, data_of(plan), 1, {s.ranks, &algorithms, left_free(options)});
    difference = largest(worker, rendezvous, compare(team, plan, expected.gradients).max_difference);
  }
  if (rendezvous.rank() == 0) {
    std::printf("%-18s %u ranks m %u %s%s: ready in %.1f s, steps", wanted.c_str(), s.ranks, s.microbatches,
                s.batched ? "batched" : "per-op", s.sums ? "" : ", without sums", start);
    for (const double each : steps) std::printf(" %.3f", each);
    std::sort(steps.begin(), steps.end());
    std::sort(walls.begin(), walls.end());
    std::printf(
        " ms, median %.3f, by the host's clock %.3f; of the last step compute ends at %.3f, ranks busy %.3f "
        "together, %.3f at most",
        steps[steps.size() / 2], walls[walls.size() / 2], compute_end, busy, most_busy);
    if (s.check) std::printf("; gradients %.2e", difference);
    std::printf("\n");
    std::fflush(stdout);
  }
}

int be_rank(const Settings& s) {
  const Placement placement = discover({}, process_environment(), getppid());
  Rendezvous rendezvous(placement, std::chrono::seconds{30});
  std::stringstream names(s.schedules);
  for (std::string name; std::getline(names, name, ',');) run(s, name, rendezvous);
  return 0;
}

int launch(const Settings& s, int argc, char** argv) {
  std::optional<Mps> mps;
  OwnRanks job{s.ranks, "/proc/self/exe", {argv + 1, argv + argc}, {}, std::chrono::seconds{8}, {}};
  if (s.gpus < s.ranks) job.environment = one_gpu_environment((s.ranks + s.gpus - 1) / s.gpus);
  if (s.connections > 0)
    job.environment.emplace_back("CUDA_DEVICE_MAX_CONNECTIONS", std::to_string(s.connections));
  if (s.gpus < s.ranks && s.mps && !mps_is_running()) {
    mps.emplace();
    for (auto& variable : mps->environment()) job.environment.push_back(std::move(variable));
  }
  const auto begin = std::chrono::steady_clock::now();
  const OwnRanksResult result = run_own_ranks(job);
  std::printf("%s after %.1f s\n", result.failure.empty() ? "all ranks ended" : result.failure.c_str(),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return result.exit_code;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 6) return std::fprintf(stderr, "see the first lines of nccl_steps.cpp\n"), 2;
  const Settings settings = read(argc, argv);
  return std::getenv("RANK") ? be_rank(settings) : launch(settings, argc, argv);
} catch (const std::exception& error) {
  std::fprintf(stderr, "rank %s: %s\n", std::getenv("RANK") ? std::getenv("RANK") : "-", error.what());
  return 3;
}
