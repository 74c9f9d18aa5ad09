// DualPipe: two streams of microbatches enter at the two ends and meet in the middle; every rank holds two
// stages, one of each stream's copy of the model, and overlaps the forward of one stream with the backward
// of the other. DeepSeek-AI 2024 (DeepSeek-V3), arXiv 2412.19437; deepseek-ai/DualPipe. The order on a rank
// is in two_way.hpp.
//
//   bubble  (p/2-1)(FB+Bf-3W) on the four ranks in the middle, exact where I = F and W <= I; each rank
//           further out runs one microbatch more unpaired and has F+Bf-FB less
//   memory  p+1, on every rank, the forward of a pair counted before its backward
//   copies  2 of the parameters
#include "schedules/generators/families.hpp"
#include "schedules/generators/two_way.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace plumb::families {
namespace {

std::optional<std::string> refuse(const Shape& shape) {
  if (shape.ranks % 2 != 0) return fmt::format("needs an even number of ranks, not {}", shape.ranks);
  if (shape.microbatches % 2 != 0) {
    return fmt::format("needs an even number of microbatches, not {}", shape.microbatches);
  }
  if (shape.microbatches < std::uint64_t{2} * shape.ranks) {
    return fmt::format("needs at least 2 microbatches a rank: {} on {} ranks, not {}",
                       std::uint64_t{2} * shape.ranks, shape.ranks, shape.microbatches);
  }
  return std::nullopt;
}

auto plan_of(const Shape& shape) {
  return [p = shape.ranks, m = shape.microbatches](std::uint32_t r) {
    const auto rank_if = [](bool there, std::uint32_t rank) {
      return there ? std::optional(Rank{rank}) : std::nullopt;
    };
    const auto below = rank_if(r > 0, r - 1);
    const auto above = rank_if(r + 1 < p, r + 1);
    const two_way::Stream down{r, 0, below, above};
    const two_way::Stream up{p - 1 - r, m / 2, above, below};
    const bool first_half = r < p / 2;
    return two_way::RankPlan{.half = p / 2,
                             .depth = std::min(r, p - 1 - r),
                             .microbatches = m / 2,
                             .near = first_half ? down : up,
                             .far = first_half ? up : down};
  };
}

Schedule make(const Shape& shape) {
  return two_way::make_schedule(dualpipe, shape, shape.ranks, plan_of(shape));
}

LoweredSchedule make_batched(const Shape& shape) {
  return two_way::make_batched(dualpipe, shape, shape.ranks, plan_of(shape));
}

}  // namespace

constinit const Generator dualpipe{
    .name = "dualpipe",
    .alias = "",
    .title = "DualPipe",
    .paper = "DeepSeek-AI 2024 (DeepSeek-V3), arXiv 2412.19437",
    .limits = "p even, m even, m >= 2p",
    .bubble =
        "(p/2-1)(FB+Bf-3W) on the middle ranks, F+Bf-FB less for each rank further out, where I = F and W <= "
        "I",
    .memory = "p+1",
    .picture = R"(p=4 m=8, 4 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2 f4 i4 w4 f5 F3+b5---    f6+B0--- b6---    f7+B1--- b7--- I2 W2 I3 W3
rank 1 |   F0 f4 F1 f5 F2 b4--- f6+B0--- F3+b5--- f7+B1--- b6--- B2---    i7 I3 w7 W3
rank 2 |   F4 f0 F5 f1 F6 b0--- f2+B4--- F7+b1--- f3+B5--- b2--- B6---    i3 I7 w3 W7
rank 3 |F4 F5 F6 f0 i0 w0 f1 F7+b1---    f2+B4--- b2---    f3+B5--- b3--- I6 W6 I7 W7
)",
    .copies = 2,
    .refuse = refuse,
    .make = make,
    .make_batched = make_batched,
};

}  // namespace plumb::families
