#include "schedules/ir/cost_model.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>

namespace plumb {

Duration total(const OpCost& cost) {
  Duration sum;
  for (const Segment& segment : cost.recipe) sum += segment.duration;
  return sum;
}

const OpCost& StageCost::of(OpKind kind) const {
  switch (kind) {
    case OpKind::forward:
      return forward;
    case OpKind::backward_input:
      return backward_input;
    case OpKind::backward_weight:
      return backward_weight;
    default:
      PLUMB_CHECK(kind == OpKind::backward);
      return backward;
  }
}

const Link& CostModel::link_between(Rank from, Rank to) const {
  if (links.empty()) return link;
  const auto found = links.find({from, to});
  return found == links.end() ? link : found->second;
}

std::optional<Duration> CostModel::stated_pair(Stage forward, Stage backward) const {
  if (const auto found = measured_pairs.find({forward, backward}); found != measured_pairs.end())
    return found->second;
  if (any_pair) return any_pair;
  const StageCost& f = stage(forward);
  const StageCost& b = stage(backward);
  if (!f.overlapped || !b.overlapped) return std::nullopt;
  const auto saves = [](const StageCost& cost) {
    return total(cost.forward) + total(cost.backward) - *cost.overlapped;
  };
  return total(f.forward) + total(b.backward) - std::min(saves(f), saves(b));
}

CostModel unit_costs(const UnitCosts& costs) {
  const bool halves = costs.backward_input && costs.backward_weight;
  PLUMB_CHECK(costs.backward || halves);
  CostModel model;
  model.name = "flat costs";
  model.classes = {"compute"};
  const auto op = [](std::optional<Duration> duration, const char* name) {
    OpCost cost;
    if (duration) cost.recipe = {Segment{Lane::compute, *duration, WorkClass{0}, name, false}};
    return cost;
  };
  StageCost stage;
  stage.forward = op(costs.forward, "forward");
  stage.backward_input = op(costs.backward_input, "backward_input");
  stage.backward_weight = op(costs.backward_weight, "backward_weight");
  const Duration backward = costs.backward ? *costs.backward : *costs.backward_input + *costs.backward_weight;
  stage.backward = op(backward, "backward");
  model.stages = {stage};
  model.any_pair = costs.overlapped.value_or(costs.forward + backward);
  model.link.latency = costs.p2p;
  return model;
}

}  // namespace plumb
