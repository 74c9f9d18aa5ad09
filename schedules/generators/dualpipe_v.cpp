// DualPipeV: DualPipe of 2p ranks cut in half. Rank r holds the stages r and 2p-1-r, so the one stream of
// microbatches comes down the ranks, turns round on the last one without a message, and goes up again; the
// far stream of two_way.hpp is the near one on its way back. One copy of the model. Sea AI Lab 2025
// (hackmd.io/@ufotalent/r1lVXsa9Jg); deepseek-ai/DualPipe.
//
//   bubble  (p-1)(FB+B-3W) in costs of one chunk, exact where I = F and W <= I
//   memory  2p+1 chunks on every rank, the forward of a pair counted before its backward
#include "schedules/generators/families.hpp"
#include "schedules/generators/two_way.hpp"

#include <fmt/format.h>

namespace plumb::families {
namespace {

std::optional<std::string> refuse(const Shape& shape) {
  if (shape.microbatches < std::uint64_t{2} * shape.ranks) {
    return fmt::format("needs at least 2 microbatches a rank: {} on {} ranks, not {}",
                       std::uint64_t{2} * shape.ranks, shape.ranks, shape.microbatches);
  }
  return std::nullopt;
}

auto plan_of(const Shape& shape) {
  return [p = shape.ranks, m = shape.microbatches](std::uint32_t r) {
    const auto below = r > 0 ? std::optional(Rank{r - 1}) : std::nullopt;
    const auto above = r + 1 < p ? std::optional(Rank{r + 1}) : std::nullopt;
    return two_way::RankPlan{.half = p,
                             .depth = r,
                             .microbatches = m,
                             .near = {r, 0, below, above},
                             .far = {2 * p - 1 - r, 0, above, below}};
  };
}

Schedule make(const Shape& shape) {
  return two_way::make_schedule(dualpipe_v, shape, 2 * shape.ranks, plan_of(shape));
}

LoweredSchedule make_batched(const Shape& shape) {
  return two_way::make_batched(dualpipe_v, shape, 2 * shape.ranks, plan_of(shape));
}

}  // namespace

constinit const Generator dualpipe_v{
    .name = "dualpipe-v",
    .alias = "",
    .title = "DualPipeV",
    .paper = "Sea AI Lab 2025, hackmd.io/@ufotalent/r1lVXsa9Jg; deepseek-ai/DualPipe",
    .limits = "m >= 2p",
    .bubble = "(p-1)(FB+B-3W) where F = I and W <= I",
    .memory = "2p+1",
    .picture = "",
    .default_chunks = 2,
    .refuse = refuse,
    .make = make,
    .make_batched = make_batched,
};

}  // namespace plumb::families
