#include "schedules/ir/census.hpp"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

namespace plumb::checking {

std::optional<Spot> Cell::maker(Product product) const {
  switch (product) {
    case Product::activation:
      return forward;
    case Product::input_gradient:
      return input ? input : both;
    default:
      return weight ? weight : both;
  }
}

std::vector<std::pair<Spot, OpKind>> Cell::parts() const {
  std::vector<std::pair<Spot, OpKind>> out;
  if (forward) out.emplace_back(*forward, OpKind::forward);
  if (input) out.emplace_back(*input, OpKind::backward_input);
  if (weight) out.emplace_back(*weight, OpKind::backward_weight);
  if (both) out.emplace_back(*both, OpKind::backward);
  return out;
}

void Findings::report(ViolationKind kind, std::int64_t rank, std::int64_t index, std::string action,
                      std::string message) {
  violations_.push_back({rank, index, std::move(action), kind, std::move(message)});
}

void Findings::report(ViolationKind kind, const Spot& spot, const Op& op, std::string message) {
  report(kind, spot.rank.value, spot.index, to_string(op), std::move(message));
}

std::vector<Violation> Findings::sorted() && {
  std::stable_sort(violations_.begin(), violations_.end(), [](const Violation& a, const Violation& b) {
    return std::tie(a.rank, a.index) < std::tie(b.rank, b.index);
  });
  return std::move(violations_);
}

namespace {

Census::Key key(const Op& op) { return {op.stage.value, op.microbatch.value}; }
Census::Key key(const Need& need) { return {need.stage.value, need.microbatch.value}; }

}  // namespace

Census::Census(const LoweredSchedule& lowered, Findings& findings) : lowered_(lowered) {
  // A stage is at home where most of its ops are; a stray op is the one elsewhere.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> ops_of_stage_on_rank;
  for_each_op([&](const Spot& spot, const Op& op) {
    if (in_range(op)) ++ops_of_stage_on_rank[{op.stage.value, spot.rank.value}];
  });
  for_each_op([&](const Spot& spot, const Op& op) {
    if (!in_range(op)) {
      findings.report(ViolationKind::out_of_range, spot, op, range_text(op));
      return;
    }
    Cell& cell = cells_[key(op)];
    const auto weight = [&](Rank rank) { return ops_of_stage_on_rank[{op.stage.value, rank.value}]; };
    if (!cell.any || weight(spot.rank) > weight(cell.home)) cell.home = spot.rank;
    cell.any = true;
  });
  for_each_op([&](const Spot& spot, const Op& op) {
    if (in_range(op)) place(spot, op, findings);
  });
}

bool Census::has_messages() const {
  return std::any_of(lowered_.per_rank.begin(), lowered_.per_rank.end(),
                     [](const LoweredRank& rank) { return !rank.messages.empty(); });
}

bool Census::in_range(const Op& op) const {
  return op.stage.value < lowered_.stages &&
         (is_collective(op.kind) || op.microbatch.value < lowered_.microbatches);
}

std::string Census::range_text(const Op& op) const {
  if (op.stage.value >= lowered_.stages) {
    return fmt::format("{} names stage {}, the stages are 0 to {}", to_string(op), op.stage.value,
                       static_cast<std::int64_t>(lowered_.stages) - 1);
  }
  return fmt::format("{} names microbatch {}, the microbatches are 0 to {}", to_string(op),
                     op.microbatch.value, static_cast<std::int64_t>(lowered_.microbatches) - 1);
}

void Census::place(const Spot& spot, const Op& op, Findings& findings) {
  Cell& cell = cells_[key(op)];
  const auto put = [&](std::optional<Spot>& slot, std::optional<Spot>& other_half, OpKind other_kind) {
    if (slot) {
      // The copy at the cell's home stays, the stray one is the double.
      Spot doubled = spot;
      if (slot->rank != cell.home && spot.rank == cell.home) std::swap(doubled, *slot);
      findings.report(ViolationKind::doubled, doubled, op,
                      fmt::format("{} stands twice, also on rank {} at element {}", to_string(op),
                                  slot->rank.value, slot->index));
      return;
    }
    if (other_half) {
      findings.report(ViolationKind::doubled, spot, op,
                      fmt::format("{} repeats work of {} on rank {} at element {}", to_string(op),
                                  to_string(Op{op.stage, op.microbatch, other_kind}), other_half->rank.value,
                                  other_half->index));
      return;
    }
    slot = spot;
  };
  std::optional<Spot> none;
  switch (op.kind) {
    case OpKind::forward:
      put(cell.forward, none, op.kind);
      break;
    case OpKind::backward_input:
      put(cell.input, cell.both, OpKind::backward);
      break;
    case OpKind::backward_weight:
      put(cell.weight, cell.both, OpKind::backward);
      break;
    default:
      if (cell.input) {
        put(cell.both, cell.input, OpKind::backward_input);
      } else {
        put(cell.both, cell.weight, OpKind::backward_weight);
      }
  }
}

Op Census::made_by(const Need& need) const {
  OpKind kind = OpKind::forward;
  if (need.product != Product::activation) {
    const auto found = cells_.find(key(need));
    const bool fused = found != cells_.end() && found->second.both;
    kind = fused
               ? OpKind::backward
               : (need.product == Product::input_gradient ? OpKind::backward_input : OpKind::backward_weight);
  }
  return {need.stage, need.microbatch, kind};
}

std::optional<Spot> Census::maker_of(const Need& need) const {
  const auto found = cells_.find(key(need));
  return found == cells_.end() ? std::nullopt : found->second.maker(need.product);
}

std::optional<std::pair<Op, Spot>> Census::remote_user(const Need& need, Rank from) const {
  const bool activation = need.product == Product::activation;
  if (activation ? need.stage.value + 1 >= lowered_.stages : need.stage.value == 0) return std::nullopt;
  const Need used{activation ? Product::activation : Product::input_gradient,
                  Stage{activation ? need.stage.value + 1 : need.stage.value - 1}, need.microbatch};
  const auto spot = maker_of(used);
  if (!spot || spot->rank == from) return std::nullopt;
  return std::pair{made_by(used), *spot};
}

}  // namespace plumb::checking
