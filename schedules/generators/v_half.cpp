// V-Half: half of 1F1B's activations. Qi et al. 2024, arXiv 2405.15362.
//
//   bubble  at F = I = W, m > p/2: 3p-7 chunk forwards for even p >= 4, 3p-4 for odd p >= 3, 1 for p = 2
//   memory  2 floor((p+2)/2) chunks on every rank at most, about half of 1F1B's 2p
//
// The paper gives a pattern of slots with period 6, d = 3 for even p and 0 for odd p: on rank i the forwards
// stand at 2i and 3p-2-i, the backward_inputs at 3p-1+d+2i and 6p-2+d-i, down and up in steps that keep the
// sum of the two chunks' lifetimes the same on all ranks. Run as it stands it would begin and end slowly;
// `run_v_pattern` packs both ends within the pattern's memory.
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
  return emit::run_v_pattern(v_half.name, shape, slots, 2 * ((p + 2) / 2));
}

}  // namespace

constinit const Generator v_half{
    .name = "v-half",
    .alias = "",
    .title = "V-Half",
    .paper = "Qi et al. 2024, arXiv 2405.15362",
    .limits = "2 chunks a rank in a V",
    .bubble = "3p-7 for even p >= 4, 3p-4 for odd p >= 3 chunk forwards, if F = I = W and m > p/2",
    .memory = "2 floor((p+2)/2) chunks",
    .picture = R"(rank 0 |0F0 0F1             5F0 5I0 0F2 5W0 5F1 5I1 5W1 0I0 0W0     5F2 5I2 0I1 5W2 0W1     0I2 0W2
rank 1 |    1F0 1F1     4F0         4I0 4F1 4W0 1F2 1I0 4I1 1W0 4F2 4W1 1I1 4I2 1W1 4W2 1I2 1W2
rank 2 |        2F0 3F0 2F1 3F1         3I0 2I0 3W0 2F2 2W0 3F2 3I1 2I1 3W1 2W1 3I2 2I2 3W2 2W2
)",
    .default_chunks = 2,
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
