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

/// Which ops may run before others that stand in front of them in the pattern, beside those of their own
/// kind.
enum class Passing {
  backwards_pass_forwards,  // frees memory early; a forward never passes a backward
  forwards_pass_backwards,  // as far as all that the pattern still holds fits into memory; the other way
                            // never
};

/// The order in which unit-time ranks run the pattern eagerly within `most_live` chunks. At every unit of
/// time a rank looks at the next op of each stream and runs, of those whose inputs are there and which may
/// pass what stands before them, the one with the earliest slot; if that is a forward and most_live chunks
/// are alive, or if there is none, it runs its oldest backward_weight instead.
///
/// It never stalls: of all ops left, the one with the earliest slot has its inputs and passes nobody, and
/// memory for it is there or can be freed by backward_weights: no choice ever lets the forwards without
/// backward_input, followed to the end of the pattern, exceed most_live. So most_live has to be no less than
/// what the pattern itself holds. Needs slots that are a valid order: consumers after producers, no slot
/// twice on a rank modulo v_period. Time grows with the ops and, for forwards that pass, with how far.
Schedule run_v_pattern(std::string_view name, const Shape& shape, const std::vector<VSlots>& slots,
                       std::uint32_t most_live, Passing passing);

}  // namespace plumb::emit
