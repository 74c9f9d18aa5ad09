// How far schedules' losses and gradients are from those of the same microbatches one by one through the
// model in one piece, on one GPU or on the CPU.
//   gradient_table [SETTING …]             every schedule on 2, 4 and 8 shares of the GPU, a thread each
//   gradient_table nccl RANKS [SETTING …]  five schedules with a process a rank, under MPS, NCCL between them
//   gradient_table cpu [SETTING …]         every schedule on 2, 4 and 8 CPU ranks, threads; float32
// Settings are numbered from 0 as they stand below; each is a table, so that several processes can make a
// page. Prints a page of tables; exits with 1 where a difference is out of bounds.
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/cpu_backend.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/launch/mps.hpp"
#include "runtime/launch/own_ranks.hpp"
#include "schedules/generators/generator.hpp"
#include "tests/runtime/cuda/team.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

using namespace plumb;
using namespace plumb::test;

namespace {

// Enough for a GPU's kernels, and little enough for the host's plain loops.
struct Size {
  std::uint64_t hidden;
  std::uint64_t tokens;
};
constexpr Size on_gpu{256, 128}, on_cpu{64, 8};

struct Setting {
  const char* name;
  ModelShape model;
  WeightType type;
  double bound;
  bool over_nccl;            // too
  std::uint32_t most_ranks;  // in one process: cuDNN takes its time for each of 16 stages of bf16 attention
};

// Products, norms, losses and messages are the same operations with and without a pipeline, and bf16's
// gradients are added up in float32: what is left is the order in which microbatches and owners are added, so
// one bound holds for both types: DualPipe's own test's. Attention in bf16 is cuDNN's, whose backward may add
// in any order; what it then rounds to the other neighbour moves one element by 2^-8, squared 1.5e-5.
std::vector<Setting> settings(std::uint64_t hidden) {
  return {{"mlp, float32", mlp(hidden), WeightType::fp32, 1e-13, true, 8},
          {"Llama, float32", gpt(hidden), WeightType::fp32, 1e-13, false, 8},
          {"GPT-2 with biases and a tied head, float32", gpt2(hidden), WeightType::fp32, 1e-13, true, 8},
          {"Qwen3 with norms of queries and keys and a tied head, float32", qwen3(hidden), WeightType::fp32,
           1e-13, false, 8},
          {"mlp, bf16", mlp(hidden), WeightType::bf16, 1e-13, true, 8},
          {"Llama, bf16", gpt(hidden), WeightType::bf16, 1e-5, true, 4}};
}

// What a table's time goes into.
class Stopwatch {
 public:
  /// What is done from now on.
  void doing(const char* what) {
    const auto now = std::chrono::steady_clock::now();
    seconds_[doing_] += std::chrono::duration<double>(now - since_).count();
    doing_ = what;
    since_ = now;
  }
  /// `12.1 s: workers 8.0, one piece 4.0, step 0.1`; and begins anew.
  std::string lap() {
    doing("the rest");
    double all = 0;
    std::string parts;
    for (const auto& [what, seconds] : seconds_) {
      all += seconds;
      if (seconds >= 0.05) parts += fmt::format("{} {} {:.1f}", parts.empty() ? ":" : ",", what, seconds);
    }
    seconds_.clear();
    return fmt::format("{:.1f} s{}", all, parts);
  }

 private:
  std::map<std::string, double> seconds_;
  std::string doing_ = "the rest";
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
};

struct Cell {
  double difference = 0;
  double losses_differ = 0;  // 1 where a loss is not equal to the bit
  std::string worst;
  std::uint32_t microbatches = 0;

  bool within(double bound) const { return difference < bound && losses_differ == 0; }
};

std::string to_text(const Cell& cell, double bound) {
  return (cell.difference == 0 ? "equal" : fmt::format("{:.1e}", cell.difference)) +
         (cell.losses_differ == 0 ? "" : ", losses differ") +
         (cell.within(bound) ? "" : " **out of bounds**");
}

// One step of the team's against the model in one piece.
Cell compare_step(Team& team, const TrainingPlan& plan, const Unpipelined& expected) {
  Cell cell;
  const GradientCheck check = compare(team, plan, expected.gradients);
  cell.difference = check.max_difference;
  cell.worst = check.worst_parameter;
  cell.microbatches = plan.schedule.microbatches;
  for (const auto& worker : team) {
    for (const auto& [microbatch, loss] : worker->losses())
      if (loss != expected.losses[microbatch.value]) cell.losses_differ = 1;
  }
  return cell;
}

TrainingPlan plan_of(std::string_view name, std::uint32_t ranks, const Setting& setting,
                     std::uint64_t tokens = on_gpu.tokens) {
  return plan_for(schedule_of(name, ranks, CommPlacement::per_op), setting.model, tokens, setting.type);
}

// Where ranks are threads of this process.
struct Threads {
  std::string name;
  Size size;
  std::function<Team(const TrainingPlan&)> team;
  std::function<Unpipelined(const TrainingPlan&)> whole;
};

Threads threads_of_gpu(std::map<std::string, std::string>& algorithms) {
  const auto options = [&](const TrainingPlan& plan) {
    return GpuOptions{plan.schedule.ranks(), &algorithms};
  };
  return {"shares of it, a thread each, messages by copies", on_gpu,
          [=](const TrainingPlan& plan) { return make_gpu_workers(plan, options(plan)); },
          [=](const TrainingPlan& plan) {
            return run_unpipelined_on_gpu(plan, data_of(plan), 1, options(plan));
          }};
}

Threads threads_of_cpu() {
  return {"ranks, a thread each, messages by copies", on_cpu,
          [](const TrainingPlan& plan) { return make_cpu_workers(plan); },
          [](const TrainingPlan& plan) { return run_unpipelined(plan, data_of(plan), 1); }};
}

void print_head(const std::string& title, const std::string& where, const std::string& how,
                const Size& size) {
  std::printf(
      "# %s\n\n%s: %s. One layer a stage, H %lu, %lu tokens a microbatch. A number is the largest over "
      "parameters of |x - y|^2 / (|x|^2 + |y|^2); *equal* means to the bit, and losses are equal to the bit "
      "wherever nothing else is said.\n",
      title.c_str(), where.c_str(), how.c_str(), size.hidden, size.tokens);
}

bool table(const Setting& setting, const Threads& threads) {
  bool good = true;
  std::map<std::string_view, std::vector<Cell>> cells;
  for (std::uint32_t ranks = 2; ranks <= setting.most_ranks; ranks *= 2) {
    Stopwatch watch;
    std::map<std::pair<std::uint32_t, std::uint32_t>, Unpipelined> expected;  // stages, microbatches
    for (const Generator* family : generators()) {
      const TrainingPlan plan = plan_of(family->name, ranks, setting, threads.size.tokens);
      const std::pair key{plan.schedule.stages, plan.schedule.microbatches};
      watch.doing("one piece");
      if (!expected.contains(key)) expected[key] = threads.whole(plan);
      watch.doing("workers");
      Team team = threads.team(plan);
      watch.doing("data");
      load(team, plan);
      watch.doing("steps");
      step(team);
      watch.doing("comparing");
      cells[family->name].push_back(compare_step(team, plan, expected.at(key)));
      watch.doing("ending");
      team.clear();
      good = good && cells[family->name].back().within(setting.bound);
    }
    double worst = 0;
    for (const auto& [name, row] : cells) worst = std::max(worst, row.back().difference);
    std::fprintf(stderr, "%s, %u ranks: at most %.1e, in %s\n", setting.name, ranks, worst,
                 watch.lap().c_str());
  }
  std::printf("\n## %s\nBound: %.0e.\n\n", setting.name, setting.bound);
  std::string head = "| schedule |", line = "|---|";
  for (std::uint32_t ranks = 2; ranks <= setting.most_ranks; ranks *= 2) {
    head += fmt::format(" {} ranks |", ranks);
    line += "--:|";
  }
  std::printf("%s microbatches | worst parameter |\n%s--:|---|\n", head.c_str(), line.c_str());
  for (const Generator* family : generators()) {
    const std::vector<Cell>& row = cells.at(family->name);
    const Cell& worst = *std::max_element(
        row.begin(), row.end(), [](const Cell& a, const Cell& b) { return a.difference < b.difference; });
    std::string text = fmt::format("| {} |", family->name);
    for (const Cell& cell : row) text += fmt::format(" {} |", to_text(cell, setting.bound));
    std::string microbatches;
    for (const Cell& cell : row)
      microbatches += fmt::format("{}{}", microbatches.empty() ? "" : ", ", cell.microbatches);
    text += fmt::format(" {} | {} |", microbatches, worst.difference == 0 ? "" : worst.worst);
    std::printf("%s\n", text.c_str());
  }
  std::fflush(stdout);
  return good;
}

constexpr const char* nccl_schedules[] = {"1f1b", "zb-h1", "interleaved-1f1b", "dualpipe", "dualpipe-v"};

// The worst of all ranks' cells, on rank 0.
Cell worst_of(Rendezvous& rendezvous, Cell cell) {
  const std::string mine = fmt::format("{:a} {} {}", cell.difference, cell.losses_differ, cell.worst);
  for (const std::string& one : rendezvous.gather(mine)) {
    char* end = nullptr;
    const double difference = std::strtod(one.c_str(), &end);
    cell.losses_differ = std::max(cell.losses_differ, std::strtod(end, &end));
    if (!(difference <= cell.difference)) {
      cell.difference = difference;
      cell.worst = end + 1;
    }
  }
  return cell;
}

int be_rank(const std::vector<Setting>& chosen) {
  const Placement placement = discover({}, process_environment(), getppid());
  Rendezvous rendezvous(placement, std::chrono::seconds{30});
  const bool leads = rendezvous.rank() == 0;
  std::map<std::string, std::string> algorithms;
  bool good = true;
  std::string page;
  Stopwatch watch;
  for (const Setting& setting : chosen) {
    std::string row = fmt::format("| {} | {:.0e} |", setting.name, setting.bound);
    std::map<std::pair<std::uint32_t, std::uint32_t>, Unpipelined> expected;  // stages, microbatches
    for (const char* name : nccl_schedules) {
      const TrainingPlan plan = plan_of(name, rendezvous.ranks(), setting);
      // A rank computes the same bit for bit only on as many multiprocessors.
      NcclOptions options;
      options.shares = rendezvous.ranks();
      options.share = rendezvous.rank();
      options.algorithms = &algorithms;
      Team team;
      watch.doing("workers");
      team.push_back(make_nccl_worker(plan, rendezvous, options));
      watch.doing("data");
      load(team, plan);
      watch.doing("steps");
      step(team);
      watch.doing("one piece");
      const std::pair key{plan.schedule.stages, plan.schedule.microbatches};
      if (!expected.contains(key))
        expected[key] = run_unpipelined_on_gpu(plan, data_of(plan), 1,
                                               {rendezvous.ranks(), &algorithms, left_free(options)});
      watch.doing("comparing");
      const Cell cell = worst_of(rendezvous, compare_step(team, plan, expected.at(key)));
      good = good && cell.within(setting.bound);
      row += fmt::format(" {} |", to_text(cell, setting.bound));
      watch.doing("ending");
    }
    if (leads) std::fprintf(stderr, "%s\n%s\n", row.c_str(), watch.lap().c_str());
    page += row + "\n";
  }
  if (!leads) return 0;
  print_head(fmt::format("Gradients on {} processes with NCCL between them", rendezvous.ranks()),
             device::device_info().name, "a process a rank, each on its share of the GPU, under MPS", on_gpu);
  std::printf("\n| model | bound |");
  for (const char* name : nccl_schedules) std::printf(" %s |", name);
  std::printf("\n|---|--:|--:|--:|--:|--:|--:|\n%s\n%s.\n", page.c_str(),
              good ? "All within bounds" : "OUT OF BOUNDS");
  std::fflush(stdout);
  return good ? 0 : 1;
}

int launch(std::uint32_t ranks, std::vector<std::string> arguments) {
  OwnRanks job{ranks, "/proc/self/exe", std::move(arguments), one_gpu_environment(ranks),
               std::chrono::seconds{8}};
  std::optional<Mps> mps;
  if (!mps_is_running()) {
    mps.emplace();
    for (auto& variable : mps->environment()) job.environment.push_back(std::move(variable));
  }
  const OwnRanksResult result = run_own_ranks(job);
  if (!result.failure.empty()) std::fprintf(stderr, "%s\n", result.failure.c_str());
  return result.exit_code;
}

int tables(const std::vector<Setting>& chosen, const Threads& threads, const std::string& where, bool whole) {
  const auto begin = std::chrono::steady_clock::now();
  if (whole) {
    print_head("Gradients of every schedule against the model without a pipeline", where,
               "2, 4 and 8 " + threads.name, threads.size);
  }
  bool good = true;
  for (const Setting& setting : chosen) good = table(setting, threads) && good;
  std::printf("\n%s, in %.0f s.\n", good ? "All within bounds" : "OUT OF BOUNDS",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string mode = argc > 1 ? argv[1] : "";
  const bool nccl = mode == "nccl" && argc > 2, cpu = mode == "cpu";
  const std::vector<Setting> all = settings((cpu ? on_cpu : on_gpu).hidden);
  std::vector<Setting> chosen;
  for (int i = nccl ? 3 : cpu ? 2 : 1; i < argc; ++i) chosen.push_back(all.at(std::stoul(argv[i])));
  const bool whole = chosen.empty();
  if (whole) {
    std::copy_if(all.begin(), all.end(), std::back_inserter(chosen), [&](const Setting& setting) {
      return cpu ? setting.type == WeightType::fp32 : !nccl || setting.over_nccl;
    });
  }
  if (cpu) return tables(chosen, threads_of_cpu(), "The CPU", whole);
  if (nccl) {
    if (std::getenv("RANK")) return be_rank(chosen);
    return launch(static_cast<std::uint32_t>(std::stoul(argv[2])), {argv + 1, argv + argc});
  }
  std::map<std::string, std::string> algorithms;
  return tables(chosen, threads_of_gpu(algorithms), device::device_info().name, whole);
} catch (const std::exception& error) {
  std::fprintf(stderr, "rank %s: %s\n", std::getenv("RANK") ? std::getenv("RANK") : "-", error.what());
  return 3;
}
