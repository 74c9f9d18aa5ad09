// GPipe: all forwards, then all backwards. Huang et al. 2019, arXiv 1811.06965.
//
//   bubble  (p-1)(F+B) on every rank: p-1 forwards until the last rank starts, p-1 backwards behind its end
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
    .bubble = "(p-1)(F+B)",
    .memory = "m",
    .picture = "",
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
