// The V: two chunks a rank, stage r going down on rank r and stage 2p-1-r coming back up, so that the last
// rank hands its forward over in place, and rank 0 owns the loss. Private to this folder.
#pragma once
#include "schedules/generators/emit.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace plumb::emit {

/// The four streams of a rank of a V. Within one, microbatches follow each other in order.
enum VStream : std::size_t { forward_down, forward_up, backward_up, backward_down };

/// The slot of microbatch 0 in each stream of one rank; microbatch j runs 6j slots later. Six slots hold one
/// microbatch's forward, backward_input and backward_weight of both chunks.
using VSlots = std::array<std::uint32_t, 4>;
inline constexpr std::uint32_t v_period = 6;

constexpr std::uint32_t v_stage(std::uint32_t rank, VStream stream, std::uint32_t ranks) {
  return stream == forward_down || stream == backward_down ? rank : 2 * ranks - 1 - rank;
}
constexpr std::uint32_t v_rank(std::uint32_t stage, std::uint32_t ranks) {
  return stage < ranks ? stage : 2 * ranks - 1 - stage;
}

/// The order in which unit-time ranks run the pattern eagerly within `most_live` chunks. At every unit of
/// time a rank looks at the next op of each stream and runs, of those whose inputs are there, the one with
/// the earliest slot; a forward may pass other forwards but no backward that stands before it in the
/// pattern, and waits while most_live chunks are alive. In a unit without such an op the rank runs its
/// oldest backward_weight.
///
/// It never stalls: of all ops left, the one with the earliest slot has its inputs, is the head of its
/// stream and is passed over only for another op or to free memory. It never needs more than the pattern:
/// since forwards do not pass backwards, a rank holds at most what the pattern holds at the same forward, so
/// most_live has to be no less than the pattern's own peak. Needs slots that are a valid order: consumers
/// after producers, no slot twice on a rank modulo v_period. O(ops).
Schedule run_v_pattern(std::string_view name, const Shape& shape, const std::vector<VSlots>& slots,
                       std::uint32_t most_live);

}  // namespace plumb::emit
