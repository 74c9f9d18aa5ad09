// Hanayo: waves through one copy of the model. Liu et al. 2023, arXiv 2308.15762.
//
//   bubble  no closed form; at Bf = 2F, m = p, in chunk forwards: 12, 13, 13 at p = 4 and 28, 30, 30 at p = 8
//           for 2, 4 and 8 chunks, that is 6, 3.25, 1.6 and 14, 7.5, 3.75 forwards of a whole rank's layers
//   memory  2Wp chunks at m = p: every chunk of every microbatch is alive at the turn
//
// W waves take v = 2W chunks: stages 0..p-1 go down the ranks, p..2p-1 come up, and so on. Each rank,
// whenever it is free, runs the backward of the oldest microbatch that is ready, else the forward of its
// deepest chunk that is ready; the list is the order in which that happens with F = 1 and Bf = 2. Nothing
// bounds what is alive but that rule: forwards of new microbatches enter last. It is made for m = p and legal
// for any m.
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

#include <array>
#include <queue>

namespace plumb::families {
namespace {

constexpr std::uint32_t rank_of(std::uint32_t stage, std::uint32_t ranks) {
  const std::uint32_t across = stage % ranks;
  return stage / ranks % 2 == 0 ? across : ranks - 1 - across;
}

struct OldestFirst {
  bool operator()(const Op& a, const Op& b) const { return a.microbatch > b.microbatch; }
};
struct DeepestFirst {
  bool operator()(const Op& a, const Op& b) const {
    return a.stage != b.stage ? a.stage < b.stage : a.microbatch > b.microbatch;
  }
};

struct RankState {
  std::priority_queue<Op, std::vector<Op>, DeepestFirst> forwards;
  std::priority_queue<Op, std::vector<Op>, OldestFirst> backwards;
  std::uint64_t free_at = 0;
};

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks, m = shape.microbatches, stages = p * *shape.chunks;
  Schedule schedule =
      emit::empty_schedule(hanayo.name, shape, stages, std::size_t{2} * *shape.chunks * shape.microbatches);
  std::vector<RankState> ranks(p);
  std::array<std::vector<Op>, 3> ending;  // by time modulo 3: an op takes one unit or two
  std::vector<std::uint32_t> awake{0};    // the ranks to look at in this unit, some perhaps twice
  ranks[0].forwards.push(emit::forward_op(0, 0));
  std::size_t left = std::size_t{2} * stages * m;
  const auto enable = [&](Op op) {
    const std::uint32_t rank = rank_of(op.stage.value, p);
    if (op.kind == OpKind::forward) {
      ranks[rank].forwards.push(op);
    } else {
      ranks[rank].backwards.push(op);
    }
    awake.push_back(rank);
  };
  for (std::uint64_t now = 0; left > 0; ++now) {
    for (const Op& op : ending[now % 3]) {
      const std::uint32_t stage = op.stage.value, microbatch = op.microbatch.value;
      awake.push_back(rank_of(stage, p));
      if (op.kind == OpKind::forward) {
        enable(stage + 1 < stages ? emit::forward_op(stage + 1, microbatch)
                                  : emit::backward_op(stage, microbatch));
      } else if (stage > 0) {
        enable(emit::backward_op(stage - 1, microbatch));
      }
    }
    ending[now % 3].clear();
    for (const std::uint32_t rank : awake) {
      RankState& state = ranks[rank];
      if (state.free_at > now) continue;
      Op op;
      if (!state.backwards.empty()) {
        op = state.backwards.top();
        state.backwards.pop();
      } else if (!state.forwards.empty()) {
        op = state.forwards.top();
        state.forwards.pop();
        // Microbatches enter one behind the other, so only the first of those outside has to be known.
        if (op.stage.value == 0 && op.microbatch.value + 1 < m) {
          state.forwards.push(emit::forward_op(0, op.microbatch.value + 1));
        }
      } else {
        continue;
      }
      state.free_at = now + (op.kind == OpKind::forward ? 1 : 2);
      ending[state.free_at % 3].push_back(op);
      schedule.actions[rank].push_back(Action(op));
      --left;
    }
    awake.clear();
  }
  return schedule;
}

std::optional<std::string> refuse(const Shape& shape) {
  if (*shape.chunks % 2 != 0) return "needs an even number of chunks a rank: a wave goes down and up";
  return std::nullopt;
}

}  // namespace

constinit const Generator hanayo{
    .name = "hanayo",
    .alias = "",
    .title = "Hanayo",
    .paper = "Liu et al. 2023, arXiv 2308.15762",
    .limits = "an even number of chunks (2 a wave), zig-zag; made for m = p, any m",
    .bubble =
        "no closed form; Bf = 2F, m = p, v = 2, 4, 8: 12, 13, 13 chunk forwards at p = 4, 28, 30, 30 at p = "
        "8",
    .memory = "vp chunks at m = p",
    .picture = R"(p=3 m=3, 6 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2       f0 b0--- f1 b1--- f2 b2---       B0---       B1---       B2---
rank 1 |   F0 F1 F2 f0    f1    b0--- f2 b1---    B0--- b2--- B1---       B2---
rank 2 |      F0 f0 F1 f1 F2 f2       b0--- B0--- b1--- B1--- b2--- B2---
)",
    .default_chunks = 2,
    .takes_chunks = true,
    .refuse = refuse,
    .make = make,
};

}  // namespace plumb::families
