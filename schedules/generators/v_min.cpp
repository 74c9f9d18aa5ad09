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
  return emit::run_v_pattern(v_min.name, shape, slots, 2 * ((p + 4) / 3));
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
    .picture = R"(rank 0 |0F0 0F1             5F0 5I0 0F2 5W0 5F1 5I1 0I0 5W1 0W0     5F2 5I2 0I1 5W2 0W1     0I2 0W2
rank 1 |    1F0 1F1     4F0         4I0 4F1 4W0 1I0 1F2 4I1 1W0 4F2 4W1 1I1 4I2 1W1 4W2 1I2 1W2
rank 2 |        2F0 3F0 2F1 3F1         3I0 2I0 3W0 2W0 2F2 3F2 3I1 2I1 3W1 2W1 3I2 2I2 3W2 2W2
)",
    .default_chunks = 2,
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
