#include "schedules/ir/schedule_elements.hpp"

#include <cstdint>
#include <map>

namespace plumb {

std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 40)) out += c >= ' ' && c < 127 ? c : '?';
  return out + (text.size() > 40 ? "…'" : "'");
}

std::optional<Element> parse_element(std::string_view token) {
  if (const auto action = parse_action(token)) return *action;
  const auto op = parse_op(token);
  if (!op) return std::nullopt;
  if (is_message(op->kind)) return Message{*op, unknown_peer};
  return Collective{*op};
}

void push_batch(LoweredRank& rank, const std::vector<Message>& messages, bool waited_together) {
  rank.steps.emplace_back(CommBatch{static_cast<std::uint32_t>(rank.messages.size()),
                                    static_cast<std::uint32_t>(messages.size()), waited_together});
  rank.messages.insert(rank.messages.end(), messages.begin(), messages.end());
}

void push_element(LoweredRank& rank, const Element& element) {
  if (const auto* message = std::get_if<Message>(&element)) return push_batch(rank, {*message}, false);
  if (const auto* action = std::get_if<Action>(&element)) {
    rank.steps.emplace_back(*action);
  } else {
    rank.steps.emplace_back(std::get<Collective>(element));
  }
}

void fill_in_peers(LoweredSchedule& lowered) {
  std::map<Op, Rank> rank_of;  // of forward and of whatever makes the input gradient, spelled backward
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    for (const Step& step : lowered.per_rank[r].steps) {
      const auto* action = std::get_if<Action>(&step);
      if (!action) continue;
      for (const Op& op : *action) {
        if (op.kind == OpKind::forward) rank_of.emplace(op, Rank{r});
        if (gives_input_gradient(op.kind))
          rank_of.emplace(Op{op.stage, op.microbatch, OpKind::backward}, Rank{r});
      }
    }
  }
  for (LoweredRank& rank : lowered.per_rank) {
    for (Message& message : rank.messages) {
      if (message.peer != unknown_peer) continue;
      const Op& op = message.op;
      const bool forward = op.kind == OpKind::send_forward || op.kind == OpKind::recv_forward;
      const bool to_next = op.kind == OpKind::send_forward || op.kind == OpKind::recv_backward;
      const Op neighbour{Stage{to_next ? op.stage.value + 1 : op.stage.value - 1}, op.microbatch,
                         forward ? OpKind::forward : OpKind::backward};
      if (const auto found = rank_of.find(neighbour); found != rank_of.end()) message.peer = found->second;
    }
  }
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace plumb
