// 1F1B: after a short warm-up, one forward and one backward in turn, so that a rank holds no more
// microbatches than there are ranks from itself to the end. Narayanan et al. 2021, arXiv 2104.04473; Fan et
// al. 2021 (DAPPLE), arXiv 2007.01045. Rank r warms up with p-1-r forwards.
//
//   bubble  (p-1)(F+Bf) on every rank, GPipe's
//   memory  min(p-r, m) on rank r
//
// 1F1B with overlap runs the forward and the backward of the steady part at once, so that each hides the
// other's communication (Megatron-LM's expert-parallel overlap). A pair releases its outputs at its end, so a
// microbatch needs two pairs to pass a rank and come back: the warm-up is 2(p-1-r)+1 forwards.
//
//   total   p(F+Bf) + (m-1)FB
//   bubble  (p-1)(F+Bf) on the last rank; a rank that runs k microbatches more unpaired has k(F+Bf-FB) less
//   memory  min(2(p-r), m) on rank r
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

#include <algorithm>

namespace plumb::families {
namespace {

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks, m = shape.microbatches;
  Schedule schedule = emit::empty_schedule(one_f_one_b.name, shape, p, std::size_t{2} * m);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    const std::uint32_t warm_up = std::min(p - 1 - rank, m);
    for (std::uint32_t i = 0; i < warm_up; ++i) actions.push_back(emit::forward(rank, i));
    for (std::uint32_t i = 0; i < m - warm_up; ++i) {
      actions.push_back(emit::forward(rank, warm_up + i));
      actions.push_back(emit::backward(rank, i));
    }
    for (std::uint32_t i = m - warm_up; i < m; ++i) actions.push_back(emit::backward(rank, i));
  }
  return schedule;
}

Schedule make_overlap(const Shape& shape) {
  const std::uint32_t p = shape.ranks, m = shape.microbatches;
  Schedule schedule =
      emit::empty_schedule(one_f_one_b_overlap.name, shape, p, std::size_t{m} + std::min(2 * p - 1, m));
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    const std::uint32_t warm_up = std::min(2 * (p - 1 - rank) + 1, m);
    for (std::uint32_t i = 0; i < warm_up; ++i) actions.push_back(emit::forward(rank, i));
    for (std::uint32_t i = 0; i < m - warm_up; ++i) {
      actions.push_back(emit::overlapped(rank, warm_up + i, rank, i));
    }
    for (std::uint32_t i = m - warm_up; i < m; ++i) actions.push_back(emit::backward(rank, i));
  }
  return schedule;
}

}  // namespace

constinit const Generator one_f_one_b{
    .name = "1f1b",
    .alias = "",
    .title = "1F1B",
    .paper = "Narayanan et al. 2021, arXiv 2104.04473; Fan et al. 2021 (DAPPLE), arXiv 2007.01045",
    .limits = "any",
    .bubble = "(p-1)(F+Bf)",
    .memory = "min(p-r, m) on rank r",
    .picture = R"(p=4 m=5, 4 stages; F = I = W = 1, B = 2, a pair 3
rank 0 |F0 F1 F2 F3                   B0--- F4 B1---    B2---    B3---    B4---
rank 1 |   F0 F1 F2             B0--- F3 B1--- F4 B2---    B3---    B4---
rank 2 |      F0 F1       B0--- F2 B1--- F3 B2--- F4 B3---    B4---
rank 3 |         F0 B0--- F1 B1--- F2 B2--- F3 B3--- F4 B4---
)",
    .refuse = emit::every_shape,
    .make = make,
};

constinit const Generator one_f_one_b_overlap{
    .name = "1f1b-overlap",
    .alias = "",
    .title = "1F1B with overlap",
    .paper = "Megatron-LM, overlap of expert-parallel communication; zhihu p/28463368206",
    .limits = "any",
    .bubble = "(p-1)(F+Bf) on the last rank, 2(F+Bf-FB) less for each rank before it, where m >= 2p-1",
    .memory = "min(2(p-r), m) on rank r",
    .picture = R"(p=3 m=6, 3 stages; F = I = W = 1, B = 2, a pair 3
rank 0 |F0 F1 F2 F3 F4             F5+B0--- B1---    B2--- B3---    B4--- B5---
rank 1 |   F0 F1 F2       F3+B0--- F4+B1--- F5+B2--- B3---    B4--- B5---
rank 2 |      F0 F1+B0--- F2+B1--- F3+B2--- F4+B3--- F5+B4--- B5---
)",
    .refuse = emit::every_shape,
    .make = make_overlap,
};

}  // namespace plumb::families
