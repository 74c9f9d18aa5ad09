// Which schedule: sweeps schedules x microbatches x chunks at equal resources and ranks them.
#pragma once
#include "schedules/generators/generator.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "sim/report.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

/// The costs of a pipeline of `stages` stages: the same model on the same ranks, whatever its stages.
using CostsForStages = std::function<CostModel(std::uint32_t stages)>;

/// The costs of a rank's share of the layers, cut finer: durations, weights and gradients times
/// ranks / stages. Messages stay. A model with one entry a stage serves only that number of stages: others
/// throw BadInput.
CostModel scaled_to_stages(const CostModel& cost_of_share, std::uint32_t ranks, std::uint32_t stages);

/// legal_shape, but where no group was asked for and the schedule's default leaves an illegal rest (120
/// microbatches of 16 ranks in groups of 17), the smallest legal one; `group` is filled in only then.
Shape nearest_legal_shape(const Generator& generator, const Shape& shape);

struct PlanRequest {
  std::uint32_t ranks = 1;
  std::vector<std::uint32_t> microbatches;
  std::vector<std::uint32_t> chunks;        // for schedules that have a choice
  std::vector<const Generator*> schedules;  // empty: all
  LowerOptions lowering;
  ExecutionOptions execution;
  /// The most activations a rank may hold, in shares of its layers.
  std::optional<double> activation_limit;
};

struct Plan {
  const Generator* generator = nullptr;
  Shape shape;  // legal, chunks filled in; group where it is not the schedule's default
  Report report;
  /// peak_live_activations / chunks of one copy per rank, the largest over ranks.
  double activation_share = 0;
  /// Microbatches that the pipeline finishes in a second of step time: what plans are ranked by.
  double microbatches_per_s = 0;
};

struct RuledOut {
  std::string schedule;
  std::uint32_t microbatches = 0;
  std::optional<std::uint32_t> chunks;
  std::string reason;
};

struct PlanResult {
  std::vector<Plan> plans;  // best first; equals by the table's order of schedules
  std::vector<RuledOut> ruled_out;
};

/// `report_progress(done, of)` is called as plans come in. Uses all cores.
PlanResult plan(const PlanRequest& request, const CostsForStages& costs,
                const std::function<void(std::size_t, std::size_t)>& report_progress = {});

}  // namespace plumb
