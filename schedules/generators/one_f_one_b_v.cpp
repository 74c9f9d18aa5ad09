// 1F1B-V: the V with whole backwards, two thirds of 1F1B's activations. Qi et al. 2024, arXiv 2405.15362,
// appendix.
//
//   bubble  at F = 1, Bf = 2, m >= p, in chunk forwards: 5p-5 where p = 1 modulo 3, 5p-7 where p = 2 (p >=
//   5), at
//           most 5p-8 where 3 divides p (p >= 6)
//   memory  2 (floor(2p/3) + 1) chunks on every rank at most, against 1F1B's 2p
//
// A pattern of slots with period 6, a backward taking two: forwards down the ranks and up again, one slot
// each, then backwards down and up, two each, with the gaps that keep the six slots of every rank apart. The
// pattern is then packed from its start: every op, in order of slots, moves to the earliest free place behind
// its inputs and its own stream where the rank's memory stays within the bound. It can only move forward,
// since the places it looks at are those of earlier slots.
#include "schedules/generators/families.hpp"
#include "schedules/generators/v_shape.hpp"

#include <algorithm>

namespace plumb::families {
namespace {

std::vector<emit::VSlots> pattern(std::uint32_t p) {
  std::vector<emit::VSlots> slots(p);
  for (std::uint32_t i = 0; i < p; ++i) {
    slots[i][emit::forward_down] = i;
    slots[i][emit::forward_up] = 2 * p - 1 - i;
  }
  std::uint32_t slot = 2 * p + (p % 3 == 0 ? 3 : 0);
  // Two slots forth for each backward would meet the forwards of another microbatch on the fourth rank: after
  // three of them, three slots are left out.
  std::uint32_t count = (3 - (p + 2) % 3) % 3;
  const auto take = [&] {
    const std::uint32_t taken = slot;
    slot += 2;
    if (++count % 3 == 0) slot += 3;
    return taken;
  };
  for (std::uint32_t i = 0; i < p; ++i) slots[i][emit::backward_up] = take();
  for (std::uint32_t i = p; i-- > 0;) slots[i][emit::backward_down] = take();
  return slots;
}

// An op in its place. `live` counts the chunks alive behind it.
struct Placed {
  std::uint32_t begin;
  std::uint32_t end;
  std::uint32_t live;
  Action action;
};

// The places of one rank, in order of time.
class Line {
 public:
  /// Puts an op of `length` slots, `latest` being its place in the pattern, at the earliest free place from
  /// `ready` and the stream's op before it on. A forward stays behind every moment at which `most_live`
  /// chunks are alive. Returns its end.
  std::uint32_t put(Action action, emit::VStream stream, std::uint32_t length, std::uint32_t ready,
                    std::uint32_t latest, std::uint32_t most_live) {
    ready = std::max(ready, stream_end_[stream]);
    const bool is_forward = action.first().kind == OpKind::forward;
    // The first gap to look at is the one before placed_[gap].
    std::size_t gap = placed_.size();
    while (gap > 0 && placed_[gap - 1].end > ready && !(is_forward && placed_[gap - 1].live >= most_live))
      --gap;
    std::uint32_t begin = latest;
    if (gap > 0 && is_forward && placed_[gap - 1].live >= most_live) ++gap;
    for (; gap <= placed_.size(); ++gap) {
      const std::uint32_t from = std::max(ready, gap > 0 ? placed_[gap - 1].end : 0);
      const std::uint32_t until = gap < placed_.size() ? placed_[gap].begin : latest + length;
      if (from + length > until) continue;
      begin = from;
      break;
    }
    gap = std::min(gap, placed_.size());
    const std::uint32_t before = gap > 0 ? placed_[gap - 1].live : 0;
    placed_.insert(placed_.begin() + static_cast<std::ptrdiff_t>(gap),
                   {begin, begin + length, before, action});
    for (; gap < placed_.size(); ++gap) is_forward ? ++placed_[gap].live : --placed_[gap].live;
    return stream_end_[stream] = begin + length;
  }

  const std::vector<Placed>& placed() const { return placed_; }
  void reserve(std::size_t size) { placed_.reserve(size); }

 private:
  std::vector<Placed> placed_;
  std::array<std::uint32_t, 4> stream_end_{};
};

// One stream of one rank, found by the slot of its microbatch 0.
struct Base {
  std::uint32_t slot;
  std::uint32_t rank;
  emit::VStream stream;
};

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks, m = shape.microbatches;
  const std::uint32_t most_live = 2 * (2 * p / 3 + 1);
  const std::vector<emit::VSlots> slots = pattern(p);

  // By slot modulo the period: the ops of one slot are those bases of its class that began at most m periods
  // before.
  std::array<std::vector<Base>, emit::v_period> bases;
  std::uint32_t last = 0;
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    for (const auto stream : {emit::forward_down, emit::forward_up, emit::backward_up, emit::backward_down}) {
      const std::uint32_t slot = slots[rank][stream];
      bases[slot % emit::v_period].push_back({slot, rank, stream});
      last = std::max(last, slot);
    }
  }
  for (auto& same : bases)
    std::sort(same.begin(), same.end(), [](auto& a, auto& b) { return a.slot < b.slot; });

  std::vector<Line> lines(p);
  for (Line& line : lines) line.reserve(std::size_t{4} * m);
  // When the latest op of (stage, microbatch) ends: first its forward, then its backward.
  std::vector<std::uint32_t> ends(std::size_t{2} * p * m, 0);
  std::array<std::size_t, emit::v_period> first{};
  for (std::uint32_t slot = 0; slot <= last + emit::v_period * (m - 1); ++slot) {
    const auto& same = bases[slot % emit::v_period];
    std::size_t& begin = first[slot % emit::v_period];
    while (begin < same.size() && (slot - std::min(slot, same[begin].slot)) / emit::v_period >= m) ++begin;
    for (std::size_t i = begin; i < same.size() && same[i].slot <= slot; ++i) {
      const std::uint32_t microbatch = (slot - same[i].slot) / emit::v_period;
      const std::uint32_t stage = emit::v_stage(same[i].rank, same[i].stream, p);
      const auto end_of = [&](std::uint32_t s, std::uint32_t mb) -> std::uint32_t& {
        return ends[std::size_t{s} * m + mb];
      };
      const bool is_forward = same[i].stream == emit::forward_down || same[i].stream == emit::forward_up;
      std::uint32_t ready = 0;
      if (is_forward) {
        if (stage > 0) ready = end_of(stage - 1, microbatch);
      } else {
        ready = end_of(stage, microbatch);
        if (stage + 1 < 2 * p) ready = std::max(ready, end_of(stage + 1, microbatch));
      }
      end_of(stage, microbatch) = lines[same[i].rank].put(
          is_forward ? emit::forward(stage, microbatch) : emit::backward(stage, microbatch), same[i].stream,
          is_forward ? 1 : 2, ready, slot, most_live);
    }
  }

  Schedule schedule = emit::empty_schedule(one_f_one_b_v.name, shape, 2 * p, std::size_t{4} * m);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    for (const Placed& placed : lines[rank].placed()) schedule.actions[rank].push_back(placed.action);
  }
  return schedule;
}

}  // namespace

constinit const Generator one_f_one_b_v{
    .name = "1f1b-v",
    .alias = "",
    .title = "1F1B-V",
    .paper = "Qi et al. 2024, arXiv 2405.15362",
    .limits = "2 chunks a rank in a V",
    .bubble =
        "5p-5, 5p-7, at most 5p-8 chunk forwards for p = 1, 2, 0 modulo 3, if p >= 4, Bf = 2F and m >= p",
    .memory = "2 (floor(2p/3) + 1) chunks",
    .picture = R"(p=3 m=4, 6 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2 F3    f0 b0--- f1 b1--- f2 b2---          f3 B0--- b3--- B1---       B2---       B3---
rank 1 |   F0 F1 F2 f0 F3 f1    b0--- f2 b1---    B0--- f3 b2---    B1--- b3--- B2---       B3---
rank 2 |      F0 f0 F1 f1 F2 f2       b0--- B0--- F3 f3 b1--- B1--- b2--- B2--- b3--- B3---
)",
    .default_chunks = 2,
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
