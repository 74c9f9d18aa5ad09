// 1F1B: after a short warm-up, one forward and one backward in turn, so that a rank holds no more
// microbatches than there are ranks from itself to the end. Narayanan et al. 2021, arXiv 2104.04473; Fan et
// al. 2021 (DAPPLE), arXiv 2007.01045. Rank r warms up with p-1-r forwards.
//
//   bubble  (p-1)(F+B) on every rank, GPipe's
//   memory  min(p-r, m) on rank r
//
// 1F1B with overlap runs the forward and the backward of the steady part at once, so that each hides the
// other's communication (Megatron-LM's expert-parallel overlap). A pair releases its outputs at its end, so a
// microbatch needs two pairs to pass a rank and come back: the warm-up is 2(p-1-r)+1 forwards.
//
//   total   p(F+B) + (m-1)FB, of which every rank but the ones it warms up longer on spends the same busy
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
    .bubble = "(p-1)(F+B)",
    .memory = "min(p-r, m) on rank r",
    .picture = "",
    .refuse = emit::every_shape,
    .make = make,
};

constinit const Generator one_f_one_b_overlap{
    .name = "1f1b-overlap",
    .alias = "",
    .title = "1F1B with overlap",
    .paper = "Megatron-LM, overlap of expert-parallel communication; zhihu p/28463368206",
    .limits = "any",
    .bubble = "",
    .memory = "min(2(p-r), m) on rank r",
    .picture = "",
    .refuse = emit::every_shape,
    .make = make_overlap,
};

}  // namespace plumb::families
