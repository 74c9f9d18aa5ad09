// The verbs in which the generators write their lists. Private to this folder.
#pragma once
#include "schedules/generators/generator.hpp"
#include "schedules/ir/schedule.hpp"

#include <cstdint>
#include <string_view>

namespace plumb::emit {

constexpr Op forward_op(std::uint32_t stage, std::uint32_t microbatch) {
  return {Stage{stage}, Microbatch{microbatch}, OpKind::forward};
}
constexpr Op backward_op(std::uint32_t stage, std::uint32_t microbatch) {
  return {Stage{stage}, Microbatch{microbatch}, OpKind::backward};
}

constexpr Action forward(std::uint32_t stage, std::uint32_t microbatch) {
  return Action(forward_op(stage, microbatch));
}
constexpr Action backward(std::uint32_t stage, std::uint32_t microbatch) {
  return Action(backward_op(stage, microbatch));
}
constexpr Action backward_input(std::uint32_t stage, std::uint32_t microbatch) {
  return Action(Op{Stage{stage}, Microbatch{microbatch}, OpKind::backward_input});
}
constexpr Action backward_weight(std::uint32_t stage, std::uint32_t microbatch) {
  return Action(Op{Stage{stage}, Microbatch{microbatch}, OpKind::backward_weight});
}

constexpr Action overlapped(std::uint32_t forward_stage, std::uint32_t forward_microbatch,
                            std::uint32_t backward_stage, std::uint32_t backward_microbatch) {
  return Action(forward_op(forward_stage, forward_microbatch),
                backward_op(backward_stage, backward_microbatch));
}

/// A schedule without actions. Every rank has room for `actions_per_rank`, so a generator that knows its
/// length never moves what it has written.
inline Schedule empty_schedule(std::string_view name, const Shape& shape, std::uint32_t stages,
                               std::size_t actions_per_rank) {
  Schedule schedule{std::string(name), stages, shape.microbatches, {}};
  schedule.actions.resize(shape.ranks);
  for (auto& actions : schedule.actions) actions.reserve(actions_per_rank);
  return schedule;
}

/// For generators whose limits are those of `legal_shape` alone.
inline std::optional<std::string> every_shape(const Shape&) { return std::nullopt; }

}  // namespace plumb::emit
