// DualPipeV: DualPipe of 2p ranks cut in half. Rank r holds the stages r and 2p-1-r, so the one stream of
// microbatches comes down the ranks, turns round on the last one without a message, and goes up again; the
// far stream of two_way.hpp is the near one on its way back. One copy of the model. Sea AI Lab 2025
// (hackmd.io/@ufotalent/r1lVXsa9Jg); deepseek-ai/DualPipe.
//
//   bubble  (p-1)(FB+Bf-3W) on the last two ranks in costs of one chunk, exact where I = F and W <= I; each
//           rank before them runs one microbatch more unpaired and has F+Bf-FB less
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
    .bubble =
        "(p-1)(FB+Bf-3W) on the last two ranks, F+Bf-FB less for each rank before them, where I = F and W <= "
        "I",
    .memory = "2p+1",
    .picture = R"(p=2 m=4, 4 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2 f0 i0 w0 f1 F3+b1---    f2+B0--- b2---    f3+B1--- b3--- I2 W2 I3 W3
rank 1 |   F0 f0 F1 f1 F2 b0--- f2+B0--- F3+b1--- f3+B1--- b2--- B2---    i3 I3 w3 W3
)",
    .default_chunks = 2,
    .refuse = refuse,
    .make = make,
    .make_batched = make_batched,
};

}  // namespace plumb::families
