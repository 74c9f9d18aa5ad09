// Zero bubble by hand: the backward is split, the input gradient goes on at once and the weight gradient
// fills what would be idle. Qi et al. 2023, arXiv 2401.10241.
//
// ZB-H1 (ZB1P) is 1F1B with backward_input in place of the backward; rank r runs its backward_weights r
// behind.
//   bubble  (p-1)(F+I-W) on every rank, exact where W <= min(F, I) and m >= p
//   memory  min(p, m) on every rank
//
// ZB-H2 warms up with 2(p-1-r) forwards and runs the backward_weights 2r behind. A rank, from its own first
// op to its last, is idle for (p-1)(F+I-2W), where that is not negative, W <= min(F, I) and m >= 2p-1. The
// step from the first op of all to the last is no shorter than ZB-H1's: the next step's warm-up is to move
// into it.
//   memory  min(2p-1, m) on every rank
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

#include <algorithm>

namespace plumb::families {
namespace {

// `hops`: forwards to warm up for every rank behind this one, and weights to stay behind for every rank
// before.
Schedule zero_bubble(const Generator& family, const Shape& shape, std::uint32_t hops) {
  const std::uint32_t p = shape.ranks, m = shape.microbatches;
  Schedule schedule = emit::empty_schedule(family.name, shape, p, std::size_t{3} * m);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    const std::uint32_t warm_up = std::min(hops * (p - 1 - rank), m);
    const std::uint32_t behind = std::min(hops * rank, m);
    for (std::uint32_t i = 0; i < warm_up; ++i) actions.push_back(emit::forward(rank, i));
    for (std::uint32_t i = 0; i < m; ++i) {
      if (i < m - warm_up) actions.push_back(emit::forward(rank, warm_up + i));
      actions.push_back(emit::backward_input(rank, i));
      if (i >= behind) actions.push_back(emit::backward_weight(rank, i - behind));
    }
    for (std::uint32_t i = m - behind; i < m; ++i) actions.push_back(emit::backward_weight(rank, i));
  }
  return schedule;
}

Schedule make_h1(const Shape& shape) { return zero_bubble(zb_h1, shape, 1); }
Schedule make_h2(const Shape& shape) { return zero_bubble(zb_h2, shape, 2); }

}  // namespace

constinit const Generator zb_h1{
    .name = "zb-h1",
    .alias = "zb1p",
    .title = "ZB-H1 (ZB1P)",
    .paper = "Qi et al. 2023, arXiv 2401.10241",
    .limits = "any",
    .bubble = "(p-1)(F+I-W) where m >= p and W <= min(F, I)",
    .memory = "min(p, m)",
    .picture = "",
    .refuse = emit::every_shape,
    .make = make_h1,
};

constinit const Generator zb_h2{
    .name = "zb-h2",
    .alias = "",
    .title = "ZB-H2",
    .paper = "Qi et al. 2023, arXiv 2401.10241",
    .limits = "any; worth it where m >= 2p-1",
    .bubble = "(p-1)(F+I-2W) within a rank's own span, where that is >= 0, m >= 2p-1 and W <= min(F, I)",
    .memory = "min(2p-1, m)",
    .picture = "",
    .refuse = emit::every_shape,
    .make = make_h2,
};

}  // namespace plumb::families
