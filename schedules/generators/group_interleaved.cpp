// Group-interleaved (PipeOffload's GIS): interleaving in groups of g microbatches with split backwards. A
// small g trades bubble for memory. Wan et al. 2025, arXiv 2503.01328.
//
//   bubble  at F = I = W, m a multiple of g: 2(p-1) + (v-1)(p-g) chunk forwards
//   memory  p + (v-1)g - r chunks on rank r, where m >= 2g
//
// In a grid of unit slots, the k-th microbatch of group u runs its forward in chunk c on rank r at
// 3gvu + 3gc + 3k + r, its backward_input at 3gvu + 3g(2v-2-c) + 3k + 3p-2-2r and its backward_weight one
// slot later. Modulo 3 those are r, r+1 and r+2, so no slot is taken twice. What the schedule keeps of the
// grid is the order: with small g some messages arrive later than their slot, and below g = p/2 the ranks of
// a deep pipeline would wait in a circle. A last group that is short leaves its slots empty.
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace plumb::families {
namespace {

std::uint32_t group_of(const Shape& shape) { return shape.group.value_or(shape.ranks); }

// Walks the table [for each group: for each turn 0..v-1: for each microbatch of the group], with the slot
// that its entries have on a rank when the first has slot `begin`.
class Table {
 public:
  Table(std::uint32_t group, const Shape& shape, std::uint64_t begin)
      : group_(group), chunks_(*shape.chunks), microbatches_(shape.microbatches), begin_(begin) {}

  bool done() const { return first_ >= microbatches_; }
  std::uint32_t turn() const { return turn_; }
  std::uint32_t microbatch() const { return first_ + index_; }
  std::uint64_t slot() const {
    return begin_ + 3 * (std::uint64_t{first_} * chunks_ + std::uint64_t{turn_} * group_ + index_);
  }
  void advance() {
    if (++index_ < std::min(group_, microbatches_ - first_)) return;
    index_ = 0;
    if (++turn_ < chunks_) return;
    turn_ = 0;
    first_ += group_;
  }

 private:
  std::uint32_t group_;
  std::uint32_t chunks_;
  std::uint32_t microbatches_;
  std::uint64_t begin_;
  std::uint32_t first_ = 0;  // the group's first microbatch
  std::uint32_t turn_ = 0;
  std::uint32_t index_ = 0;
};

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks, v = *shape.chunks, g = group_of(shape);
  Schedule schedule =
      emit::empty_schedule(group_interleaved.name, shape, p * v, std::size_t{3} * v * shape.microbatches);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    Table forwards(g, shape, rank);
    Table backwards(g, shape, std::uint64_t{3} * g * (v - 1) + 3 * p - 2 - 2 * rank);
    while (!backwards.done()) {
      if (!forwards.done() && forwards.slot() < backwards.slot()) {
        actions.push_back(emit::forward(forwards.turn() * p + rank, forwards.microbatch()));
        forwards.advance();
      } else {
        const std::uint32_t stage = (v - 1 - backwards.turn()) * p + rank;
        actions.push_back(emit::backward_input(stage, backwards.microbatch()));
        actions.push_back(emit::backward_weight(stage, backwards.microbatch()));
        backwards.advance();
      }
    }
  }
  return schedule;
}

std::optional<std::string> refuse(const Shape& shape) {
  const std::uint32_t g = group_of(shape), least = shape.ranks - shape.ranks / 2;
  if (g < least || g > shape.ranks) {
    return fmt::format("needs a group of {} to {} microbatches (ranks/2 to ranks), not {}", least,
                       shape.ranks, g);
  }
  return std::nullopt;
}

}  // namespace

constinit const Generator group_interleaved{
    .name = "group-interleaved",
    .alias = "",
    .title = "Group-interleaved",
    .paper = "Wan et al. 2025, arXiv 2503.01328",
    .limits = "group from ceil(p/2) to p (default p); any m, the last group may be short",
    .bubble = "2(p-1) + (v-1)(p-g) chunk forwards, if F = I = W and m is a multiple of g",
    .memory = "p + (v-1)g chunks on rank 0, one less on each next rank",
    .picture = R"(p=3 m=3, 6 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2 f0 f1 f2       i0 w0    i1 w1    i2 w2 I0 W0 I1 W1 I2 W2
rank 1 |   F0 F1 F2 f0 f1    i0 w0 f2 i1 w1    i2 w2 I0 W0 I1 W1 I2 W2
rank 2 |      F0 F1 F2 f0 i0 w0 f1 i1 w1 f2 i2 w2 I0 W0 I1 W1 I2 W2
)",
    .default_chunks = 2,
    .takes_chunks = true,
    .takes_group = true,
    .refuse = refuse,
    .make = make,
};

}  // namespace plumb::families
