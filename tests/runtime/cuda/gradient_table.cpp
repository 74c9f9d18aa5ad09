// Every schedule on 2, 4 and 8 shares of one GPU: how far its losses and gradients are from those of the same
// microbatches one by one through the model in one piece.
//   gradient_table [HIDDEN TOKENS]
// Prints a page of tables; exits with 1 where a difference is out of bounds.
#include "runtime/device/device_info.hpp"
#include "runtime/gpu_workers.hpp"
#include "schedules/generators/generator.hpp"
#include "tests/runtime/cuda/team.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

using namespace plumb;
using namespace plumb::test;

namespace {

struct Setting {
  const char* name;
  ModelShape model;
  WeightType type;
  /// What adding in another order may make of a difference. float32: DualPipe's own test's. bf16: gradients
  /// are added up in float32 too, so nothing but attention differs, whose backward in cuDNN adds in no fixed
  /// order: it rounds a few sums to the other neighbour, which is 2^-8 of one element, squared 1.5e-5.
  double bound;
};

struct Cell {
  double difference = 0;
  bool same_losses = true;
  std::string worst;
  std::uint32_t microbatches = 0;
};

std::string to_text(const Cell& cell, double bound) {
  const std::string number = cell.difference == 0 ? "equal" : fmt::format("{:.1e}", cell.difference);
  return number + (cell.same_losses ? "" : " (losses differ)") +
         (cell.difference < bound ? "" : " **out of bounds**");
}

class Table {
 public:
  explicit Table(const Setting& setting, std::uint64_t tokens) : setting_(setting), tokens_(tokens) {}

  bool make() {
    for (const std::uint32_t ranks : {2u, 4u, 8u}) {
      const GpuOptions options{ranks, &algorithms_};
      std::map<std::pair<std::uint32_t, std::uint32_t>, Unpipelined> expected;  // stages, microbatches
      for (const Generator* family : generators()) {
        const TrainingPlan plan = plan_for(schedule_of(family->name, ranks, CommPlacement::per_op),
                                           setting_.model, tokens_, setting_.type);
        const std::pair key{plan.schedule.stages, plan.schedule.microbatches};
        if (!expected.contains(key)) expected[key] = run_unpipelined_on_gpu(plan, data_of(plan), 1, options);
        Team team = make_gpu_workers(plan, options);
        load(team, plan);
        step(team);
        const GradientCheck check = compare(team, plan, expected.at(key).gradients);
        Cell& cell = cells_[family->name].emplace_back();
        cell.difference = check.max_difference;
        cell.worst = check.worst_parameter;
        cell.microbatches = plan.schedule.microbatches;
        cell.same_losses = losses(team, plan) == expected.at(key).losses;
        if (!(cell.difference < setting_.bound)) good_ = false;
      }
    }
    return good_;
  }

  void print() const {
    std::printf("\n## %s\nBound: %.0e.\n\n", setting_.name, setting_.bound);
    std::printf("| schedule | 2 ranks | 4 ranks | 8 ranks | microbatches | worst parameter |\n");
    std::printf("|---|--:|--:|--:|--:|---|\n");
    for (const Generator* family : generators()) {
      const std::vector<Cell>& row = cells_.at(family->name);
      const Cell& worst = *std::max_element(
          row.begin(), row.end(), [](const Cell& a, const Cell& b) { return a.difference < b.difference; });
      std::string text = fmt::format("| {} |", family->name);
      for (const Cell& cell : row) text += fmt::format(" {} |", to_text(cell, setting_.bound));
      text += fmt::format(" {}, {}, {} | {} |", row[0].microbatches, row[1].microbatches, row[2].microbatches,
                          worst.difference == 0 ? "" : worst.worst);
      std::printf("%s\n", text.c_str());
    }
    std::fflush(stdout);
  }

 private:
  const Setting& setting_;
  std::uint64_t tokens_;
  std::map<std::string, std::string> algorithms_;
  std::map<std::string_view, std::vector<Cell>> cells_;
  bool good_ = true;
};

}  // namespace

int main(int argc, char** argv) try {
  const std::uint64_t hidden = argc > 1 ? std::stoul(argv[1]) : 256;
  const std::uint64_t tokens = argc > 2 ? std::stoul(argv[2]) : 128;
  const Setting settings[] = {
      {"mlp, float32", mlp(hidden), WeightType::fp32, 1e-13},
      {"llama, float32", gpt(hidden), WeightType::fp32, 1e-13},
      {"GPT-2 with biases and a tied head, float32", gpt2(hidden), WeightType::fp32, 1e-13},
      {"mlp, bf16", mlp(hidden), WeightType::bf16, 1e-13},
      {"llama, bf16", gpt(hidden), WeightType::bf16, 1e-4},
      {"GPT-2 with biases and a tied head, bf16", gpt2(hidden), WeightType::bf16, 1e-4},
  };
  const auto begin = std::chrono::steady_clock::now();
  std::printf("# Gradients of every schedule against the model without a pipeline\n\n");
  std::printf(
      "%s, 2, 4 and 8 shares of it, one layer a stage, H %lu, %lu tokens a microbatch. A number is the "
      "largest over parameters of |x - y|^2 / (|x|^2 + |y|^2); *equal* means to the bit. Losses are equal "
      "to the bit where nothing else is said.\n",
      device::device_info().name.c_str(), hidden, tokens);
  bool good = true;
  for (const Setting& setting : settings) {
    Table table(setting, tokens);
    good = table.make() && good;
    table.print();
  }
  std::printf("\n%s, in %.0f s.\n", good ? "All within bounds" : "OUT OF BOUNDS",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return good ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
