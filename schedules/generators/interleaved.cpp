// Interleaved schedules: rank r holds the stages r, p+r, 2p+r … (v chunks) and works on groups of g
// microbatches, one chunk after the other, so that the pipeline fills with chunks instead of whole ranks'
// shares.
//
// Forwards run in the order [for each group: for each chunk: for each microbatch of the group]; backwards in
// the same order with the chunks reversed. The last group may be short, but no group may be smaller than p
// (unless m is): a chunk would then wait for its own rank's loop to close.
//
// Interleaved 1F1B. Narayanan et al. 2021, arXiv 2104.04473. Warm-up 2(p-1-r)+(v-1)g forwards, then one
// forward and one backward in turn.
//   bubble  (p-1)(F+Bf) in costs of one chunk, where m >= p
//   memory  min(2(p-1-r)+(v-1)g+1, mv) chunks on rank r
//
// With overlap (Megatron-LM's expert-parallel overlap): one forward more to warm up, then pairs.
//   total   (p+(v-1)g)(F+Bf) + (mv-(v-1)g-1)FB in costs of one chunk, where m >= p and FB <= F+Bf
//   bubble  (p-1)(F+Bf) on the last rank; a rank that runs k microbatches more unpaired has k(F+Bf-FB) less
//   memory  min(2(p-1-r)+(v-1)g+2, mv) chunks on rank r
//
// Interleaved zero bubble (PyTorch): the backward is split, so that a rank needs only p-1-r+(v-1)g forwards
// to warm up; rank r runs its backward_weights r behind its backward_inputs.
//   bubble  (p-1)(F+I-W) in costs of one chunk, where m >= p and W <= min(F, I)
//   memory  (v-1)g+p chunks on every rank
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace plumb::families {
namespace {

std::uint32_t group_of(const Shape& shape) {
  const std::uint32_t m = shape.microbatches;
  return shape.group.value_or(m / std::max(1u, m / shape.ranks));
}

std::optional<std::string> refuse(const Shape& shape) {
  const std::uint32_t p = shape.ranks, m = shape.microbatches, group = group_of(shape);
  const std::uint32_t least = std::min(p, m);
  if (group < least || group > m) {
    return fmt::format("a group holds {} to {} microbatches, not {}", least, m, group);
  }
  if (const std::uint32_t rest = m % group; rest != 0 && rest < p) {
    return fmt::format("{} microbatches in groups of {} leave a last group of {}, smaller than the {} ranks",
                       m, group, rest, p);
  }
  return std::nullopt;
}

// One rank's way through its (chunk, microbatch)s.
class Walk {
 public:
  Walk(const Shape& shape, std::uint32_t rank, bool backwards)
      : p_(shape.ranks),
        m_(shape.microbatches),
        v_(*shape.chunks),
        group_(group_of(shape)),
        rank_(rank),
        backwards_(backwards) {}

  struct Stop {
    std::uint32_t stage, microbatch;
  };
  Stop next() {
    const Stop stop{(backwards_ ? v_ - 1 - chunk_ : chunk_) * p_ + rank_, microbatch_};
    if (++microbatch_ == std::min(begin_ + group_, m_)) {
      if (++chunk_ == v_) {
        chunk_ = 0;
        begin_ += group_;
      }
      microbatch_ = begin_;
    }
    return stop;
  }

 private:
  std::uint32_t p_, m_, v_, group_, rank_;
  bool backwards_;
  std::uint32_t begin_ = 0;  // of the group
  std::uint32_t chunk_ = 0;
  std::uint32_t microbatch_ = 0;
};

// What is the same in all three: how many (chunk, microbatch)s there are, and how many forwards come first.
struct Plan {
  std::uint32_t total, warm_up;
  Plan(const Shape& shape, std::uint32_t extra)
      : total(shape.microbatches * *shape.chunks),
        warm_up(std::min(total, (*shape.chunks - 1) * group_of(shape) + extra)) {}
};

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks, v = *shape.chunks;
  Schedule schedule = emit::empty_schedule(interleaved_one_f_one_b.name, shape, p * v,
                                           std::size_t{2} * shape.microbatches * v);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    Walk forwards(shape, rank, false), backwards(shape, rank, true);
    const auto forward = [&] {
      const auto [stage, microbatch] = forwards.next();
      actions.push_back(emit::forward(stage, microbatch));
    };
    const auto backward = [&] {
      const auto [stage, microbatch] = backwards.next();
      actions.push_back(emit::backward(stage, microbatch));
    };
    const Plan plan(shape, 2 * (p - 1 - rank));
    for (std::uint32_t i = 0; i < plan.warm_up; ++i) forward();
    for (std::uint32_t i = plan.warm_up; i < plan.total; ++i) forward(), backward();
    for (std::uint32_t i = 0; i < plan.warm_up; ++i) backward();
  }
  return schedule;
}

Schedule make_overlap(const Shape& shape) {
  const std::uint32_t p = shape.ranks, v = *shape.chunks;
  Schedule schedule =
      emit::empty_schedule(interleaved_one_f_one_b_overlap.name, shape, p * v,
                           Plan(shape, 2 * p - 1).warm_up + std::size_t{shape.microbatches} * v);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    Walk forwards(shape, rank, false), backwards(shape, rank, true);
    const Plan plan(shape, 2 * (p - 1 - rank) + 1);
    for (std::uint32_t i = 0; i < plan.warm_up; ++i) {
      const auto [stage, microbatch] = forwards.next();
      actions.push_back(emit::forward(stage, microbatch));
    }
    for (std::uint32_t i = plan.warm_up; i < plan.total; ++i) {
      const auto f = forwards.next();
      const auto b = backwards.next();
      actions.push_back(emit::overlapped(f.stage, f.microbatch, b.stage, b.microbatch));
    }
    for (std::uint32_t i = 0; i < plan.warm_up; ++i) {
      const auto [stage, microbatch] = backwards.next();
      actions.push_back(emit::backward(stage, microbatch));
    }
  }
  return schedule;
}

Schedule make_zero_bubble(const Shape& shape) {
  const std::uint32_t p = shape.ranks, v = *shape.chunks;
  Schedule schedule =
      emit::empty_schedule(interleaved_zb.name, shape, p * v, std::size_t{3} * shape.microbatches * v);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    Walk forwards(shape, rank, false), inputs(shape, rank, true), weights(shape, rank, true);
    const auto weight = [&] {
      const auto [stage, microbatch] = weights.next();
      actions.push_back(emit::backward_weight(stage, microbatch));
    };
    const Plan plan(shape, p - 1 - rank);
    for (std::uint32_t i = 0; i < plan.warm_up; ++i) {
      const auto [stage, microbatch] = forwards.next();
      actions.push_back(emit::forward(stage, microbatch));
    }
    for (std::uint32_t i = 0; i < plan.total; ++i) {
      if (i < plan.total - plan.warm_up) {
        const auto [stage, microbatch] = forwards.next();
        actions.push_back(emit::forward(stage, microbatch));
      }
      const auto [stage, microbatch] = inputs.next();
      actions.push_back(emit::backward_input(stage, microbatch));
      if (i >= rank) weight();
    }
    for (std::uint32_t i = 0; i < std::min(rank, plan.total); ++i) weight();
  }
  return schedule;
}

constexpr std::string_view limits =
    "group from p to m (m where m < p); the last group may be short but not smaller than p";

}  // namespace

constinit const Generator interleaved_one_f_one_b{
    .name = "interleaved-1f1b",
    .alias = "",
    .title = "Interleaved 1F1B",
    .paper = "Narayanan et al. 2021, arXiv 2104.04473",
    .limits = limits,
    .bubble = "(p-1)(F+Bf) where m >= p",
    .memory = "min(2(p-1-r)+(v-1)g+1, mv) on rank r",
    .picture = R"(p=2 m=4, 4 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 f0 f1 F2    b0--- F3 b1--- f2 B0--- f3 B1---    b2---    b3--- B2--- B3---
rank 1 |   F0 F1 f0 b0--- f1 b1--- F2 B0--- F3 B1--- f2 b2--- f3 b3--- B2--- B3---
)",
    .default_chunks = 2,
    .takes_chunks = true,
    .takes_group = true,
    .refuse = refuse,
    .make = make,
};

constinit const Generator interleaved_one_f_one_b_overlap{
    .name = "interleaved-1f1b-overlap",
    .alias = "",
    .title = "Interleaved 1F1B with overlap",
    .paper = "Megatron-LM, overlap of expert-parallel communication; zhihu p/28463368206",
    .limits = limits,
    .bubble =
        "(p-1)(F+Bf) on the last rank, 2(F+Bf-FB) less for each rank before it, where m >= 2p-1 and FB <= "
        "F+Bf",
    .memory = "min(2(p-1-r)+(v-1)g+2, mv) on rank r",
    .picture = R"(p=2 m=4, 4 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 f0 f1 F2       F3+b0--- f2+b1--- f3+B0--- B1---    b2--- b3--- B2--- B3---
rank 1 |   F0 F1 f0 f1+b0--- F2+b1--- F3+B0--- f2+B1--- f3+b2--- b3--- B2--- B3---
)",
    .default_chunks = 2,
    .takes_chunks = true,
    .takes_group = true,
    .refuse = refuse,
    .make = make_overlap,
};

constinit const Generator interleaved_zb{
    .name = "interleaved-zb",
    .alias = "",
    .title = "Interleaved zero bubble",
    .paper = "Qi et al. 2023, arXiv 2401.10241, as PyTorch interleaves it",
    .limits = limits,
    .bubble = "(p-1)(F+I-W) where m >= p and W <= min(F, I)",
    .memory = "min((v-1)g+p, mv)",
    .picture = R"(p=2 m=4, 4 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 f0 f1    i0 w0 F2 i1 w1 F3 I0 W0 f2 I1 W1 f3 i2 w2 i3 w3 I2 W2 I3 W3
rank 1 |   F0 F1 f0 i0 f1 i1 w0 F2 I0 w1 F3 I1 W0 f2 i2 W1 f3 i3 w2 I2 w3 I3 W2 W3
)",
    .default_chunks = 2,
    .takes_chunks = true,
    .takes_group = true,
    .refuse = refuse,
    .make = make_zero_bubble,
};

}  // namespace plumb::families
