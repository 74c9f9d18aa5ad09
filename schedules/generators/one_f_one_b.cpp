// 1F1B: after a short warm-up, one forward and one backward in turn, so that a rank holds no more
// microbatches than there are ranks behind it. Narayanan et al. 2021, arXiv 2104.04473; Fan et al. 2021
// (DAPPLE).
//
//   bubble  (p-1)(F+B) on every rank, GPipe's
//   memory  min(p-r, m) on rank r
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

}  // namespace plumb::families
