// What waits for what: the actions of a lowered schedule as a graph in flat arrays. Private to sim.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"
#include "sim/overlap.hpp"

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace plumb {

/// A node is an action (an overlapped pair is one), a number counted through rank 0's list, then rank 1's …
/// Program order is the edge from every node to the next of its rank and is not stored. What comes from
/// another rank is: each op waits for at most one such thing, so a node has a slot for each of its two ops. A
/// hand-over on one rank follows from program order.
struct Dag {
  static constexpr std::uint32_t none = 0xffffffff;

  struct Node {
    std::array<std::uint32_t, 2> input{none, none};  // the node behind which the message leaves
    std::array<std::uint32_t, 2> lag{0, 0};          // into `lags`: from that node's end to the arrival
    std::int64_t duration = 0;
  };
  /// A message, numbered like nodes: through rank 0's sends in its list's order, then rank 1's …
  struct Message {
    std::uint32_t sent_behind = none;      // the node behind which it leaves; none: ahead of the rank's first
    std::uint32_t received_behind = none;  // the node behind which its receive is launched
    std::uint32_t transfer = 0;            // into `lags`: how long it is on its way
    std::uint32_t early = 0;  // into `lags`, <= 0: a pair's forward leaves that much before the pair's end
    OpKind maker = OpKind::forward;  // of what it carries
  };

  std::vector<std::uint32_t> rank_begin;     // [rank], one more at the end: the first node
  std::vector<std::uint32_t> message_begin;  // [rank], one more at the end: the first message it sends
  std::vector<Node> nodes;
  std::vector<std::array<std::uint32_t, 2>> inputs;  // [node][slot]: the message, or none
  std::vector<Message> messages;
  std::vector<std::int64_t> lags;  // distinct; [0] is 0
  /// [2 * (stage * microbatches + microbatch) + (is it an input gradient)]: the message that carries it.
  std::vector<std::uint32_t> message_of;
  /// [stage, or the only one][kind]: each op with the rank to itself, before slow ranks and overrides.
  std::vector<std::array<PairCost, 4>> alone;
  /// Every pair of stages that overlap somewhere, before slow ranks and overrides.
  std::unordered_map<std::uint64_t, PairCost> pairs;
  /// Some group of messages is waited for together.
  bool batched = false;
  bool reduces = false;  // there are gradient reductions

  std::uint32_t ranks() const { return static_cast<std::uint32_t>(rank_begin.size()) - 1; }
  std::uint32_t microbatches = 0;

  /// The message that a send or receive takes part in.
  std::uint32_t message_of_op(const Op& message) const;
  const PairCost& pair(const Action& action) const;
  const PairCost& single(const Op& op) const {
    return alone[alone.size() == 1 ? 0 : op.stage.value][static_cast<std::size_t>(op.kind)];
  }
};

/// Of a valid schedule. Throws BadInput where the costs do not fit it: a number of stages that is neither one
/// nor the schedule's, negative durations, an override that names no action or one twice, a link that carries
/// nothing, a step that would last longer than 100 years. Two passes over the lists, linear.
Dag build_dag(const LoweredSchedule& schedule, const CostModel& cost, const ExecutionOptions& options);

/// The bytes that a send carries.
inline Bytes bytes_of(const Op& send, const CostModel& cost) {
  const StageCost& stage = cost.stage(send.stage);
  return send.kind == OpKind::send_forward ? stage.activation_message : stage.gradient_message;
}

}  // namespace plumb
