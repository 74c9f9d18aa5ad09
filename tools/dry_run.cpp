#include "tools/dry_run.hpp"

#include "schedules/model/layer_costs.hpp"
#include "tools/render/table.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace plumb::tools {
namespace {

// By the model's formulas: what --dry-run knows before any device is touched.
std::vector<StageMemory> predicted_memory(const TrainingPlan& plan) {
  std::vector<StageMemory> memory;
  for (std::uint32_t s = 0; s < plan.schedule.stages; ++s) {
    const StageBytes bytes = stage_bytes(plan.model, plan.layout, Stage{s});
    memory.push_back({bytes.activation_message,
                      bytes.gradient_message,
                      bytes.freed_by_backward_input,
                      bytes.kept_by_forward - bytes.freed_by_backward_input,
                      bytes.added_by_backward_input,
                      {bytes.forward_workspace, bytes.backward_input_workspace,
                       bytes.backward_weight_workspace, bytes.backward_workspace}});
  }
  return memory;
}

}  // namespace

void print_dry_run(Console& console, const TrainingPlan& plan, bool json_wanted,
                   const std::function<std::string(std::uint32_t)>& runs_on) {
  const std::vector<StageMemory> memory = predicted_memory(plan);
  std::string json;
  render::Table table;
  table.head = {
      "rank", "runs on", "stages", "parameters", "weights, gradients, optimizer", "peak activations",
      "arena"};
  std::string lists;
  for (std::uint32_t r = 0; r < plan.schedule.ranks(); ++r) {
    const RankProgram program = make_rank_program(plan.schedule, Rank{r}, memory, plan.arena);
    std::string stages, list;
    std::uint64_t parameters = 0;
    Bytes held;
    for (const Stage stage : program.held) {
      const StageBytes bytes = stage_bytes(plan.model, plan.layout, stage);
      stages += fmt::format("{}{}", stages.empty() ? "" : ",", stage.value);
      parameters += bytes.parameters;
      held += bytes.weights + bytes.gradients + bytes.optimizer_state;
    }
    for (const ProgramStep& step : program.steps) {
      const auto* compute = std::get_if<ComputeStep>(&step);
      if (compute) list += (list.empty() ? "" : " ") + to_string(compute->action);
    }
    // Copies of the pipeline mostly run alike.
    std::vector<std::string> places;
    for (std::uint32_t copy = 0; copy < plan.schedule.data_parallel; ++copy)
      places.push_back(runs_on(copy * plan.schedule.ranks() + r));
    const bool alike =
        std::all_of(places.begin(), places.end(), [&](const auto& p) { return p == places[0]; });
    const std::string place = alike ? places[0] : fmt::format("{}", fmt::join(places, "; "));
    table.rows.push_back({fmt::format("{}", r), place, stages, fmt::format("{}", parameters), to_text(held),
                          to_text(program.peak_activations), to_text(program.arena)});
    lists += fmt::format("\n  rank {}: {}", r, list);
    json += fmt::format(
        "{}{{\"rank\":{},\"stages\":[{}],\"parameters\":{},\"held_bytes\":{},\"peak_activation_bytes\":{},"
        "\"arena_bytes\":{},\"schedule\":\"{}\",\"runs_on\":[\"{}\"]}}",
        r ? "," : "", r, stages, parameters, held.count, program.peak_activations.count, program.arena.count,
        list, fmt::join(places, "\",\""));
  }
  if (json_wanted) {
    console.out << "{\"schema\":\"plumb.run.dry/1\",\"copies\":" << plan.schedule.data_parallel
                << ",\"ranks\":[" << json << "]}\n";
  } else {
    console.out << fmt::format("{} on {} ranks x {} copies\n\n", plan.schedule.name, plan.schedule.ranks(),
                               plan.schedule.data_parallel)
                << to_text(table) << lists << "\n";
  }
}

}  // namespace plumb::tools
