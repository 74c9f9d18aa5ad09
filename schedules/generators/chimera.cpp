// Chimera: two pipelines through the same ranks, one down and one up. Li and Hoefler 2021, SC'21.
//
//   bubble  m = kp: (p-2)Bf + (k-1)(p-2)(Bf-F); with Bf = F that is p-2, whatever k
//   memory  p/2+1 stages on the outer ranks up to p on the two in the middle
//   copies  2: stage s lives on rank s (down) and on rank p-1-s (up)
//
// Microbatches run in units of p, half of them down and half up. In a grid where forward and backward take
// one slot, pair i of unit u runs down through stage s at slot 2pu+s+2i and back at 2pu+2p-1-s+2i; up is the
// mirror image. The two grids interlock: no slot of a rank is taken twice, and the next unit begins in the
// slots that the last one's end leaves free.
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

#include <array>

namespace plumb::families {
namespace {

// One of the four streams of a rank: the forwards or the backwards of one direction, in order of slots.
struct Stream {
  std::uint32_t stage;
  bool up;
  bool is_backward;

  std::uint64_t slot(std::uint32_t n, std::uint32_t p) const {
    const std::uint64_t unit = n / (p / 2), pair = n % (p / 2);
    return 2 * p * unit + 2 * pair + (is_backward ? 2 * p - 1 - stage : stage);
  }
  Action action(std::uint32_t n, std::uint32_t p) const {
    const std::uint32_t half = p / 2;
    const std::uint32_t microbatch = n / half * p + (up ? half : 0) + n % half;
    return is_backward ? emit::backward(stage, microbatch) : emit::forward(stage, microbatch);
  }
};

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks;
  const std::uint32_t each = shape.microbatches / 2;
  Schedule schedule = emit::empty_schedule(chimera.name, shape, p, std::size_t{2} * shape.microbatches);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    const std::array<Stream, 4> streams{
        {{rank, false, false}, {rank, false, true}, {p - 1 - rank, true, false}, {p - 1 - rank, true, true}}};
    std::array<std::uint32_t, 4> next{};
    auto& actions = schedule.actions[rank];
    while (actions.size() < std::size_t{4} * each) {
      std::size_t first = 4;
      for (std::size_t i = 0; i < 4; ++i) {
        if (next[i] == each) continue;
        if (first == 4 || streams[i].slot(next[i], p) < streams[first].slot(next[first], p)) first = i;
      }
      actions.push_back(streams[first].action(next[first]++, p));
    }
  }
  return schedule;
}

std::optional<std::string> refuse(const Shape& shape) {
  if (shape.ranks % 2 != 0) return "needs an even number of ranks: each direction mirrors the other";
  if (shape.microbatches % shape.ranks != 0) {
    return "needs microbatches in multiples of the ranks: a unit is ranks/2 each way";
  }
  return std::nullopt;
}

}  // namespace

constinit const Generator chimera{
    .name = "chimera",
    .alias = "",
    .title = "Chimera",
    .paper = "Li and Hoefler 2021, arXiv 2107.06925",
    .limits = "p even, m a multiple of p",
    .bubble = "(p-2)Bf + (m/p-1)(p-2)(Bf-F)",
    .memory = "p/2+1 stages on the outer ranks, p in the middle",
    .picture = R"(p=4 m=4, 4 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1    f2 b2--- f3 b3---    B0---       B1---
rank 1 |   F0 f2 F1 f3    b2--- B0--- b3--- B1---
rank 2 |   F2 f0 F3 f1    b0--- B2--- b1--- B3---
rank 3 |F2 F3    f0 b0--- f1 b1---    B2---       B3---
)",
    .copies = 2,
    .refuse = refuse,
    .make = make,
};

}  // namespace plumb::families
