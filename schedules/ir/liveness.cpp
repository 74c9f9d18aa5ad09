#include "schedules/ir/liveness.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <utility>

namespace plumb {
namespace {

Bytes message_bytes(const Op& receive, const CostModel& cost) {
  return receive.kind == OpKind::recv_forward ? cost.stage(Stage{receive.stage.value - 1}).activation_message
                                              : cost.stage(Stage{receive.stage.value + 1}).gradient_message;
}

}  // namespace

Liveness::Liveness(const LoweredSchedule& schedule, const CostModel& cost)
    : schedule_(schedule),
      cost_(cost),
      held_(std::size_t{schedule.stages} * schedule.microbatches),
      received_{std::vector<Bytes>(held_.size()), std::vector<Bytes>(held_.size())} {
  PLUMB_CHECK(cost.stages.size() == 1 || cost.stages.size() == schedule.stages);
}

const std::vector<LivenessChange>& Liveness::of(Rank rank) {
  changes_.clear();
  const LoweredRank& list = schedule_.per_rank[rank.value];
  for (std::uint32_t i = 0; i < list.steps.size(); ++i) {
    if (const auto* action = std::get_if<Action>(&list.steps[i])) {
      for (const Op& op : *action) begin(i, op);
      for (const Op& op : *action) end(i, op);
    } else if (const auto* batch = std::get_if<CommBatch>(&list.steps[i])) {
      for (const Message& message : list.messages_of(*batch)) {
        if (!is_recv(message.op.kind)) continue;
        const Bytes bytes = message_bytes(message.op, cost_);
        if (bytes == Bytes{}) continue;
        received_[message.op.kind == OpKind::recv_backward][slot(message.op)] = bytes;
        changes_.push_back({i, Moment::begin, MemoryUse::receive_buffers, message.op, bytes});
      }
    }
  }
  return changes_;
}

void Liveness::begin(std::uint32_t step, const Op& op) {
  const MemoryEffect& memory = cost_.stage(op.stage).of(op.kind).memory;
  held_[slot(op)] += memory.at_begin;
  const MemoryUse use =
      op.kind == OpKind::backward_weight ? MemoryUse::weight_gradient_remnants : MemoryUse::activations;
  if (memory.at_begin != Bytes{}) changes_.push_back({step, Moment::begin, use, op, memory.at_begin});
  if (memory.workspace != Bytes{}) {
    changes_.push_back({step, Moment::begin, MemoryUse::workspace, op, memory.workspace});
  }
}

void Liveness::end(std::uint32_t step, const Op& op) {
  const MemoryEffect& memory = cost_.stage(op.stage).of(op.kind).memory;
  const auto add = [&](MemoryUse use, Bytes bytes) {
    if (bytes != Bytes{}) changes_.push_back({step, Moment::end, use, op, bytes});
  };
  add(MemoryUse::workspace, -memory.workspace);
  Bytes& held = held_[slot(op)];
  const MemoryUse use =
      op.kind == OpKind::backward_weight ? MemoryUse::weight_gradient_remnants : MemoryUse::activations;
  add(use, memory.at_end);
  held += memory.at_end;
  if (op.kind == OpKind::backward_input) {
    add(MemoryUse::activations, -held);
    add(MemoryUse::weight_gradient_remnants, held);
  }
  if (op.kind != OpKind::backward_weight) {
    Bytes& buffer = received_[op.kind != OpKind::forward][slot(op)];
    add(MemoryUse::receive_buffers, -buffer);
    buffer = Bytes{};
  }
}

Bytes peak_activations(const std::vector<LivenessChange>& changes) {
  Bytes live, peak;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const LivenessChange& change = changes[i];
    if (change.use == MemoryUse::activations || change.use == MemoryUse::weight_gradient_remnants) {
      live += change.bytes;
    }
    // What changes at one moment of a step changes at once.
    const bool more = i + 1 < changes.size() && changes[i + 1].step == change.step &&
                      changes[i + 1].moment == change.moment;
    if (!more) peak = std::max(peak, live);
  }
  return peak;
}

MemoryBreakdown held_throughout(const LoweredSchedule& schedule, Rank rank, const CostModel& cost) {
  std::vector<bool> held(schedule.stages);
  MemoryBreakdown memory;
  memory[MemoryUse::reserve] = cost.reserve;
  for (const Step& step : schedule.per_rank[rank.value].steps) {
    const auto* action = std::get_if<Action>(&step);
    if (!action) continue;
    for (const Op& op : *action) {
      if (held[op.stage.value]) continue;
      held[op.stage.value] = true;
      const StageCost& stage = cost.stage(op.stage);
      memory[MemoryUse::weights] += stage.weights;
      memory[MemoryUse::gradients] += stage.gradients;
      memory[MemoryUse::optimizer] += stage.optimizer_state;
    }
  }
  return memory;
}

}  // namespace plumb
