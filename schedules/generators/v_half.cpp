// V-Half: half of 1F1B's activations. Qi et al. 2024, arXiv 2405.15362.
//
//   bubble  at F = I = W, m >= p: 3p-7 chunk forwards for even p >= 4, 3p-4 for odd p >= 3, 1 for p = 2; no
//           more than that from m > p/2 on
//   memory  2 floor((p+2)/2) chunks on every rank at most, about half of 1F1B's 2p
//
// The paper gives a pattern of slots with period 6, d = 3 for even p and 0 for odd p: on rank i the forwards
// stand at 2i and 3p-2-i, the backward_inputs at 3p-1+d+2i and 6p-2+d-i, down and up in steps that keep the
// sum of the two chunks' lifetimes the same on all ranks. Run as it stands it would begin and end slowly;
// `run_v_pattern` packs both ends within the pattern's memory. Forwards that pass backwards fill the warm-up,
// and leave backward_weight right behind its backward_input in the steady part, where unequal costs need it.
#include "schedules/generators/families.hpp"
#include "schedules/generators/v_shape.hpp"

namespace plumb::families {
namespace {

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks;
  const std::uint32_t d = p % 2 == 0 ? 3 : 0;
  std::vector<emit::VSlots> slots(p);
  for (std::uint32_t i = 0; i < p; ++i) {
    slots[i] = {2 * i, 3 * p - 2 - i, 3 * p - 1 + d + 2 * i, 6 * p - 2 + d - i};
  }
  return emit::run_v_pattern(v_half.name, shape, slots, 2 * ((p + 2) / 2),
                             emit::Passing::forwards_pass_backwards);
}

}  // namespace

constinit const Generator v_half{
    .name = "v-half",
    .alias = "",
    .title = "V-Half",
    .paper = "Qi et al. 2024, arXiv 2405.15362",
    .limits = "2 chunks a rank in a V",
    .bubble = "3p-7 for even p >= 4, 3p-4 for odd p >= 3 chunk forwards, if F = I = W and m >= p",
    .memory = "2 floor((p+2)/2) chunks",
    .picture = R"(p=3 m=4, 6 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2       f0 i0 w0       f1 i1 I0 w1 F3 W0 f2 i2 I1 w2 W1 f3 i3 I2 w3 W2    I3 W3
rank 1 |   F0 F1 F2 f0       i0 w0 f1 I0 W0 i1 w1 f2 F3 I1 W1 i2 w2 f3    I2 i3 W2 w3 I3 W3
rank 2 |      F0 f0 F1 f1       i0 I0 w0 F2 W0 f2 i1 I1 w1 F3 W1 f3 i2 I2 w2 W2 i3 I3 w3 W3
)",
    .default_chunks = 2,
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
