// V-Min: the least activations of the V family, a third of 1F1B's. Qi et al. 2024, arXiv 2405.15362.
//
//   bubble  at F = I = W: 4p-5 chunk forwards where 3 does not divide p, 4p-7 where it does and m >= 2
//   memory  2 floor((p+4)/3) chunks on every rank at most, about a third of 1F1B's 2p
//
// Slots with period 6, d = 2 where 3 divides p and 0 elsewhere: forwards at i and 2p-1-i, backward_inputs at
// 2p+d+i and 4p+d-1-i of rank i: every op follows its producer at once, so the lifetimes are the shortest.
// The price: with F, I and W unequal the pattern no longer interlocks and the bubble grows with m.
#include "schedules/generators/families.hpp"
#include "schedules/generators/v_shape.hpp"

namespace plumb::families {
namespace {

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks;
  const std::uint32_t d = p % 3 == 0 ? 2 : 0;
  std::vector<emit::VSlots> slots(p);
  for (std::uint32_t i = 0; i < p; ++i) {
    slots[i] = {i, 2 * p - 1 - i, 2 * p + d + i, 4 * p + d - 1 - i};
  }
  return emit::run_v_pattern(v_min.name, shape, slots, 2 * ((p + 4) / 3),
                             emit::Passing::backwards_pass_forwards);
}

}  // namespace

constinit const Generator v_min{
    .name = "v-min",
    .alias = "",
    .title = "V-Min",
    .paper = "Qi et al. 2024, arXiv 2405.15362",
    .limits = "2 chunks a rank in a V",
    .bubble =
        "4p-5, or 4p-7 if 3 divides p, chunk forwards, if F = I = W and m, p >= 2; grows with m if F, I, W "
        "differ",
    .memory = "2 floor((p+4)/3) chunks",
    .picture = R"(p=3 m=4, 6 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1          f0 i0 F2 w0 f1 i1 I0 w1 F3 W0 f2 i2 I1 w2 W1    f3 i3 I2 w3 W2    I3 W3
rank 1 |   F0 F1    f0       i0 f1 w0 I0 F2 i1 W0 f2 w1 I1 F3 i2 W1 f3 w2 I2 i3 W2 w3 I3 W3
rank 2 |      F0 f0 F1 f1       i0 I0 w0 W0 F2 f2 i1 I1 w1 W1 F3 f3 i2 I2 w2 W2 i3 I3 w3 W3
)",
    .default_chunks = 2,
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
