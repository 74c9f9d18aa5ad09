#include "tools/planner/plan.hpp"

#include "schedules/ir/error.hpp"
#include "tools/planner/parallel.hpp"
#include "tools/planner/predict.hpp"

#include <algorithm>
#include <mutex>

#include <fmt/format.h>

namespace plumb {
namespace {

struct Candidate {
  const Generator* generator;
  Shape shape;
};

std::vector<Candidate> candidates(const PlanRequest& request) {
  std::vector<const Generator*> schedules = request.schedules;
  if (schedules.empty()) schedules.assign(generators().begin(), generators().end());
  std::vector<Candidate> out;
  for (const Generator* generator : schedules) {
    for (const std::uint32_t microbatches : request.microbatches) {
      Shape shape{request.ranks, microbatches, std::nullopt, std::nullopt};
      if (!generator->takes_chunks) {
        out.push_back({generator, shape});
        continue;
      }
      for (const std::uint32_t chunks : request.chunks) {
        shape.chunks = chunks;
        out.push_back({generator, shape});
      }
    }
  }
  return out;
}

Duration scaled(Duration duration, std::uint32_t ranks, std::uint32_t stages) {
  return {(2 * duration.ns * ranks + stages) / (2 * std::int64_t{stages})};
}
Bytes scaled(Bytes bytes, std::uint32_t ranks, std::uint32_t stages) {
  return {bytes.count * ranks / stages};
}

}  // namespace

CostModel scaled_to_stages(const CostModel& cost_of_share, std::uint32_t ranks, std::uint32_t stages) {
  CostModel cost = cost_of_share;
  if (cost.stages.size() > 1) {
    if (cost.stages.size() == stages) return cost;
    throw BadInput(
        fmt::format("the costs are of {} stages, the schedule has {}", cost.stages.size(), stages));
  }
  for (StageCost& stage : cost.stages) {
    for (OpCost* op : {&stage.forward, &stage.backward_input, &stage.backward_weight, &stage.backward}) {
      for (Segment& segment : op->recipe) segment.duration = scaled(segment.duration, ranks, stages);
      for (Bytes* bytes : {&op->memory.at_begin, &op->memory.workspace, &op->memory.at_end})
        *bytes = scaled(*bytes, ranks, stages);
    }
    for (Bytes* bytes : {&stage.weights, &stage.gradients, &stage.optimizer_state})
      *bytes = scaled(*bytes, ranks, stages);
    stage.gradient_reduction = scaled(stage.gradient_reduction, ranks, stages);
    stage.owner_exchange = scaled(stage.owner_exchange, ranks, stages);
    if (stage.overlapped) stage.overlapped = scaled(*stage.overlapped, ranks, stages);
  }
  for (auto& [pair, duration] : cost.measured_pairs) duration = scaled(duration, ranks, stages);
  if (cost.any_pair) cost.any_pair = scaled(*cost.any_pair, ranks, stages);
  return cost;
}

Shape nearest_legal_shape(const Generator& generator, const Shape& shape) {
  try {
    return legal_shape(generator, shape);
  } catch (const BadInput&) {
    if (!generator.takes_group || shape.group) throw;
    Shape with_group = shape;
    if (!with_group.chunks) with_group.chunks = generator.default_chunks;
    for (std::uint32_t group = 1; group <= shape.microbatches; ++group) {
      with_group.group = group;
      if (!generator.refuse(with_group)) return legal_shape(generator, with_group);
    }
    throw;
  }
}

PlanResult plan(const PlanRequest& request, const CostsForStages& costs,
                const std::function<void(std::size_t, std::size_t)>& report_progress) {
  const std::vector<Candidate> all = candidates(request);
  struct Outcome {
    std::optional<Plan> plan;
    std::string reason;
  };
  std::vector<Outcome> outcomes(all.size());
  std::size_t done = 0;
  std::mutex progress;
  for_each_in_parallel(all.size(), [&](std::size_t i) {
    Outcome& outcome = outcomes[i];
    try {
      Plan plan;
      plan.generator = all[i].generator;
      plan.shape = nearest_legal_shape(*plan.generator, all[i].shape);
      const LoweredSchedule schedule = make_lowered(*plan.generator, plan.shape, request.lowering);
      plan.report = predict(schedule, costs(schedule.stages), request.execution, Detail::actions).report;
      std::uint32_t peak = 0;
      for (const RankReport& rank : plan.report.ranks) peak = std::max(peak, rank.peak_live_activations);
      plan.activation_share = static_cast<double>(peak) / *plan.shape.chunks;
      plan.microbatches_per_s = plan.shape.microbatches * 1e9 /
                                static_cast<double>(std::max<std::int64_t>(1, plan.report.step_time.ns));
      if (request.activation_limit && plan.activation_share > *request.activation_limit) {
        outcome.reason = fmt::format("holds {:g} shares of a rank's activations, the limit is {:g}",
                                     plan.activation_share, *request.activation_limit);
      } else {
        outcome.plan = std::move(plan);
      }
    } catch (const BadInput& refused) {
      outcome.reason = refused.what();
    }
    if (report_progress) {
      const std::lock_guard lock(progress);
      report_progress(++done, all.size());
    }
  });

  PlanResult result;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (outcomes[i].plan) {
      result.plans.push_back(std::move(*outcomes[i].plan));
    } else {
      result.ruled_out.push_back({std::string(all[i].generator->name), all[i].shape.microbatches,
                                  all[i].shape.chunks, outcomes[i].reason});
    }
  }
  std::stable_sort(result.plans.begin(), result.plans.end(),
                   [](const Plan& a, const Plan& b) { return a.microbatches_per_s > b.microbatches_per_s; });
  return result;
}

}  // namespace plumb
