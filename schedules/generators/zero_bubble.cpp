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
    .picture = R"(p=4 m=6, 4 stages; F = I = W = 1, B = 2, a pair 3
rank 0 |F0 F1 F2 F3          I0 W0 F4 I1 W1 F5 I2 W2 I3 W3 I4 W4 I5 W5
rank 1 |   F0 F1 F2       I0 F3 I1 W0 F4 I2 W1 F5 I3 W2 I4 W3 I5 W4 W5
rank 2 |      F0 F1    I0 F2 I1 F3 I2 W0 F4 I3 W1 F5 I4 W2 I5 W3 W4 W5
rank 3 |         F0 I0 F1 I1 F2 I2 F3 I3 W0 F4 I4 W1 F5 I5 W2 W3 W4 W5
)",
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
    .picture = R"(p=4 m=7, 4 stages; F = I = W = 1, B = 2, a pair 3
rank 0 |F0 F1 F2 F3 F4 F5 F6 I0 W0 I1 W1 I2 W2 I3 W3 I4 W4 I5 W5 I6 W6
rank 1 |   F0 F1 F2 F3 F4 I0 F5 I1 F6 I2 W0 I3 W1 I4 W2 I5 W3 I6 W4 W5 W6
rank 2 |      F0 F1 F2 I0 F3 I1 F4 I2 F5 I3 F6 I4 W0 I5 W1 I6 W2 W3 W4 W5 W6
rank 3 |         F0 I0 F1 I1 F2 I2 F3 I3 F4 I4 F5 I5 F6 I6 W0 W1 W2 W3 W4 W5 W6
)",
    .refuse = emit::every_shape,
    .make = make_h2,
};

}  // namespace plumb::families
