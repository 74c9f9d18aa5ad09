// ZB-V: zero bubble within 1F1B's memory. Qi et al. 2023, arXiv 2401.10241, section 6.
//
//   bubble  at F = I = W: no idle time within any rank's own span (m >= 2p-1), p-1 chunk forwards of makespan
//           (m >= floor(3p/2))
//   memory  min(m, p) * 2 chunks on every rank at most: 2p chunks are 1F1B's p stages
//
// The list of rank r, going down through stage r and up through stage 2p-1-r, is written by rule: a warm-up
// of 2(p-r)-1 forwards down, a triangle in which the two chunks alternate, then one of each kind a round,
// then the same triangles backwards. It is the list of max(2p-1, m) microbatches without those beyond m, so
// that every m is legal.
#include "schedules/generators/families.hpp"
#include "schedules/generators/v_shape.hpp"

#include <algorithm>

namespace plumb::families {
namespace {

// The list of one rank, chunk 0 going down and chunk 1 coming up.
class RankList {
 public:
  RankList(std::uint32_t rank, const Shape& shape, std::vector<Action>& actions)
      : stage_{rank, 2 * shape.ranks - 1 - rank}, microbatches_(shape.microbatches), actions_(actions) {}

  void write(std::uint32_t rank, std::uint32_t ranks, std::uint32_t padded) {
    const std::uint32_t r = rank, p = ranks;
    repeat(2 * (p - r) - 1, [&] { forward(0); });
    repeat(r, [&] {
      forward(1);
      forward(0);
    });
    repeat(p - r, [&] {
      forward(1);
      backward(1);
    });
    repeat(padded - p, [&] {
      // The last rounds have no forward left to send down: 2p-1-r were sent before the first round.
      if (forwards_[0] < padded) forward(0);
      backward(0);
      forward(1);
      backward(1);
    });
    repeat(r, [&] {
      backward_input(0);
      backward_input(1);
    });
    repeat(p - r, [&] { backward(0); });
    repeat(microbatches_, [&] { backward_weight(1); });
    repeat(microbatches_, [&] { backward_weight(0); });
  }

 private:
  // A round that wrote nothing is beyond the last microbatch in all its kinds, and so are those after it.
  template <class Round>
  void repeat(std::uint32_t rounds, Round round) {
    for (std::uint32_t i = 0; i < rounds; ++i) {
      const std::size_t before = actions_.size();
      round();
      if (actions_.size() == before) return;
    }
  }
  void forward(int chunk) {
    if (const std::uint32_t i = forwards_[chunk]++; i < microbatches_) {
      actions_.push_back(emit::forward(stage_[chunk], i));
    }
  }
  void backward_input(int chunk) {
    if (const std::uint32_t i = inputs_[chunk]++; i < microbatches_) {
      actions_.push_back(emit::backward_input(stage_[chunk], i));
    }
  }
  void backward_weight(int chunk) {
    if (const std::uint32_t i = weights_[chunk]++; i < microbatches_) {
      actions_.push_back(emit::backward_weight(stage_[chunk], i));
    }
  }
  void backward(int chunk) {
    backward_input(chunk);
    backward_weight(chunk);
  }

  std::uint32_t stage_[2];
  std::uint32_t microbatches_;
  std::vector<Action>& actions_;
  std::uint32_t forwards_[2] = {0, 0};
  std::uint32_t inputs_[2] = {0, 0};
  std::uint32_t weights_[2] = {0, 0};
};

Schedule make(const Shape& shape) {
  Schedule schedule =
      emit::empty_schedule(zb_v.name, shape, 2 * shape.ranks, std::size_t{6} * shape.microbatches);
  const std::uint32_t padded = std::max(2 * shape.ranks - 1, shape.microbatches);
  for (std::uint32_t rank = 0; rank < shape.ranks; ++rank) {
    RankList(rank, shape, schedule.actions[rank]).write(rank, shape.ranks, padded);
  }
  return schedule;
}

}  // namespace

constinit const Generator zb_v{
    .name = "zb-v",
    .alias = "",
    .title = "ZB-V",
    .paper = "Qi et al. 2023, arXiv 2401.10241",
    .limits = "2 chunks a rank in a V",
    .bubble =
        "0 within each rank's span, if F = I = W and m >= 2p-1; (p-1)F of makespan, if m >= floor(3p/2)",
    .memory = "2p chunks",
    .picture = R"(p=3 m=4, 6 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2 F3    f0 i0 w0 f1 i1 w1 f2 i2 w2 I0 W0 f3 i3 w3 I1 W1    I2 W2 I3 W3
rank 1 |   F0 F1 F2 f0 F3 f1 i0 w0 f2 i1 w1 I0 W0 f3 i2 w2 I1 W1 i3 w3 I2    I3 W2 W3
rank 2 |      F0 f0 F1 f1 F2 f2 i0 w0 F3 I0 W0 f3 i1 w1 I1 W1 i2 w2 I2 i3 I3 W2 w3 W3
)",
    .default_chunks = 2,
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
