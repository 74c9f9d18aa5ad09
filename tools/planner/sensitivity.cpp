#include "tools/planner/sensitivity.hpp"

#include "tools/planner/predict.hpp"

#include <algorithm>
#include <functional>

namespace plumb {
namespace {

constexpr std::uint32_t tenth_less = 900'000;
constexpr std::uint32_t tenth_more = 1'100'000;

Duration scaled(Duration duration, std::uint32_t factor_ppm) {
  __extension__ using Wide = __int128;
  return {static_cast<std::int64_t>((Wide{duration.ns} * factor_ppm + 500'000) / 1'000'000)};
}

Link scaled(Link link, std::uint32_t factor_ppm) {
  link.latency = scaled(link.latency, factor_ppm);
  if (link.bandwidth) link.bandwidth->value *= 1e6 / factor_ppm;
  return link;
}

std::vector<OpCost*> ops_of(StageCost& stage) {
  return {&stage.forward, &stage.backward_input, &stage.backward_weight, &stage.backward};
}

}  // namespace

CostModel with_class_scaled(const CostModel& cost, WorkClass work_class, std::uint32_t factor_ppm) {
  CostModel out = cost;
  for (StageCost& stage : out.stages) {
    for (OpCost* op : ops_of(stage)) {
      for (Segment& segment : op->recipe) {
        if (segment.work_class == work_class) segment.duration = scaled(segment.duration, factor_ppm);
      }
    }
  }
  return out;
}

std::vector<Sensitivity> sensitivity(const LoweredSchedule& schedule, const CostModel& cost,
                                     const ExecutionOptions& options) {
  const auto step = [&](const CostModel& changed) {
    return predict(schedule, changed, options, Detail::actions).report.step_time;
  };
  std::vector<Sensitivity> out;
  const auto add = [&](const std::string& name, const std::function<CostModel(std::uint32_t)>& changed) {
    out.push_back({name, step(changed(tenth_less)), step(changed(tenth_more))});
  };
  for (std::uint32_t c = 0; c < cost.classes.size(); ++c) {
    const bool used = std::any_of(cost.stages.begin(), cost.stages.end(), [&](StageCost stage) {
      const std::vector<OpCost*> ops = ops_of(stage);
      return std::any_of(ops.begin(), ops.end(), [&](const OpCost* op) {
        return std::any_of(op->recipe.begin(), op->recipe.end(),
                           [&](const Segment& segment) { return segment.work_class == WorkClass{c}; });
      });
    });
    if (!used) continue;
    add(cost.classes[c], [&](std::uint32_t ppm) { return with_class_scaled(cost, WorkClass{c}, ppm); });
  }
  const auto each_stage = [&](Duration StageCost::*figure) {
    return [&cost, figure](std::uint32_t ppm) {
      CostModel changed = cost;
      for (StageCost& stage : changed.stages) stage.*figure = scaled(stage.*figure, ppm);
      return changed;
    };
  };
  add("pipeline messages", [&](std::uint32_t ppm) {
    CostModel changed = cost;
    changed.link = scaled(changed.link, ppm);
    for (auto& [ranks, link] : changed.links) link = scaled(link, ppm);
    return changed;
  });
  add("gradient reduction", [&](std::uint32_t ppm) {
    CostModel changed = each_stage(&StageCost::gradient_reduction)(ppm);
    for (StageCost& stage : changed.stages) stage.owner_exchange = scaled(stage.owner_exchange, ppm);
    return changed;
  });
  add("optimizer step", each_stage(&StageCost::optimizer_step));
  std::stable_sort(out.begin(), out.end(), [](const Sensitivity& a, const Sensitivity& b) {
    return a.longer - a.shorter > b.longer - b.shorter;
  });
  return out;
}

}  // namespace plumb
