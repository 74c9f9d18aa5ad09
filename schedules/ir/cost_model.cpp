#include "schedules/ir/cost_model.hpp"

#include "schedules/ir/error.hpp"

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

CostModel unit_costs(const UnitCosts& costs) {
  CostModel model;
  model.name = "unit costs";
  model.classes = {"compute"};
  const auto op = [](Duration duration, const char* name) {
    return OpCost{{Segment{Lane::compute, duration, WorkClass{0}, name}}, {}};
  };
  StageCost stage;
  stage.forward = op(costs.forward, "forward");
  stage.backward_input = op(costs.backward_input, "backward_input");
  stage.backward_weight = op(costs.backward_weight, "backward_weight");
  const Duration backward = costs.backward.value_or(costs.backward_input + costs.backward_weight);
  stage.backward = op(backward, "backward");
  model.stages = {stage};
  model.any_pair = costs.overlapped.value_or(costs.forward + backward);
  model.link.latency = costs.p2p;
  return model;
}

}  // namespace plumb
