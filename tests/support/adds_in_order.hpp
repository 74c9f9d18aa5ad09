// Where a pipeline's gradients are a model's in one piece to the bit.
#pragma once
#include "schedules/ir/lower.hpp"
#include "schedules/ir/op.hpp"

#include <cstdint>
#include <variant>
#include <vector>

namespace plumb::test {

/// Whether each weight's gradients are added microbatch after microbatch, as the model in one piece adds
/// them: the stage has one owner, and that runs backward_weight (for norms: backward_input) in the
/// microbatches' order. Everything else that is summed is summed inside one op, the same wherever the op
/// runs.
inline bool adds_in_order(const LoweredSchedule& schedule) {
  std::vector<std::uint32_t> weight(schedule.stages), input(schedule.stages);  // that comes next
  for (const LoweredRank& rank : schedule.per_rank) {
    for (const Step& step : rank.steps) {
      if (std::holds_alternative<Collective>(step)) return false;
      const auto* action = std::get_if<Action>(&step);
      if (!action) continue;
      for (const Op& op : *action) {
        if (gives_weight_gradient(op.kind) && weight[op.stage.value]++ != op.microbatch.value) return false;
        if (gives_input_gradient(op.kind) && input[op.stage.value]++ != op.microbatch.value) return false;
      }
    }
  }
  return true;
}

}  // namespace plumb::test
