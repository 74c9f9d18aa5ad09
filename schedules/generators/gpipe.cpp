// GPipe: all forwards, then all backwards. Huang et al. 2019, arXiv 1811.06965.
//
//   bubble  (p-1)(F+Bf) on every rank: p-1 forwards until the last rank starts, p-1 backwards behind its end
//   memory  m: every microbatch is alive between the two halves
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

namespace plumb::families {
namespace {

Schedule make(const Shape& shape) {
  Schedule schedule =
      emit::empty_schedule(gpipe.name, shape, shape.ranks, std::size_t{2} * shape.microbatches);
  for (std::uint32_t rank = 0; rank < shape.ranks; ++rank) {
    auto& actions = schedule.actions[rank];
    for (std::uint32_t i = 0; i < shape.microbatches; ++i) actions.push_back(emit::forward(rank, i));
    for (std::uint32_t i = 0; i < shape.microbatches; ++i) actions.push_back(emit::backward(rank, i));
  }
  return schedule;
}

}  // namespace

constinit const Generator gpipe{
    .name = "gpipe",
    .alias = "",
    .title = "GPipe",
    .paper = "Huang et al. 2019, arXiv 1811.06965",
    .limits = "any",
    .bubble = "(p-1)(F+Bf)",
    .memory = "m",
    .picture = R"(p=4 m=4, 4 stages; F = I = W = 1, B = 2, a pair 3
rank 0 |F0 F1 F2 F3                            B0--- B1--- B2--- B3---
rank 1 |   F0 F1 F2 F3                   B0--- B1--- B2--- B3---
rank 2 |      F0 F1 F2 F3          B0--- B1--- B2--- B3---
rank 3 |         F0 F1 F2 F3 B0--- B1--- B2--- B3---
)",
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
