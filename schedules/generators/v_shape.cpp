#include "schedules/generators/v_shape.hpp"

#include "schedules/ir/error.hpp"

#include <limits>
#include <optional>

namespace plumb::emit {
namespace {

// What one rank has run, and where in its list the oldest backward_input without its other half stands.
struct RankState {
  std::array<std::uint32_t, 4> next{};  // by stream: the microbatch that is next
  std::uint32_t weights = 0;            // backward_weights run
  std::size_t oldest = 0;
};

class Run {
 public:
  Run(std::string_view name, const Shape& shape, const std::vector<VSlots>& slots, std::uint32_t most_live,
      Passing passing)
      : ranks_(shape.ranks),
        microbatches_(shape.microbatches),
        slots_(slots),
        most_live_(most_live),
        passing_(passing),
        schedule_(empty_schedule(name, shape, 2 * shape.ranks, std::size_t{6} * shape.microbatches)),
        states_(shape.ranks),
        forwards_(2 * std::size_t{shape.ranks}),
        gradients_(2 * std::size_t{shape.ranks}) {}

  Schedule schedule() && {
    // Ranks that may have something to run: those that ended an op or received something. A rank that finds
    // nothing sleeps until something arrives, so the work does not grow with the bubble.
    std::vector<std::uint32_t> awake{0}, next;
    std::vector<std::uint64_t> woken(ranks_, 0);  // the tick for which the rank is already on the list
    std::vector<Op> ended;
    for (std::uint64_t tick = 1; !awake.empty(); ++tick) {
      ended.clear();
      next.clear();
      for (const std::uint32_t rank : awake) {
        if (const auto op = choose(rank)) {
          schedule_.actions[rank].push_back(Action(*op));
          ended.push_back(*op);
        }
      }
      // What the ops of this tick made is there from the next tick on, for everybody.
      const auto wake = [&](std::uint32_t stage) {
        const std::uint32_t rank = v_rank(stage, ranks_);
        if (woken[rank] == tick) return;
        woken[rank] = tick;
        next.push_back(rank);
      };
      for (const Op& op : ended) {
        wake(op.stage.value);
        if (op.kind == OpKind::forward) {
          ++forwards_[op.stage.value];
          if (op.stage.value + 1 < 2 * ranks_) wake(op.stage.value + 1);
        } else if (op.kind == OpKind::backward_input) {
          ++gradients_[op.stage.value];
          if (op.stage.value > 0) wake(op.stage.value - 1);
        }
      }
      awake.swap(next);
    }
    for (const RankState& state : states_) PLUMB_CHECK(state.weights == 2 * microbatches_);
    return std::move(schedule_);
  }

 private:
  bool ready(std::uint32_t rank, VStream stream, std::uint32_t microbatch) const {
    const std::uint32_t stage = v_stage(rank, stream, ranks_);
    if (stream == forward_down || stream == forward_up) {
      return stage == 0 || forwards_[stage - 1] > microbatch;
    }
    return forwards_[stage] > microbatch && (stage + 1 == 2 * ranks_ || gradients_[stage + 1] > microbatch);
  }

  static constexpr std::uint64_t none = std::numeric_limits<std::uint64_t>::max();
  using Heads = std::array<std::uint64_t, 4>;  // by stream: the slot of the next op, or none

  // Whether a forward standing at `slot` can run now and the rest of the pattern after it still fits.
  bool fits_early(const RankState& state, Heads heads, std::uint64_t slot) const {
    std::uint32_t open = state.next[forward_down] + state.next[forward_up] - state.next[backward_up] -
                         state.next[backward_down] + 1;
    if (open > most_live_) return false;
    std::array<std::uint32_t, 4> next = state.next;
    while (true) {
      std::size_t first = 0;
      for (std::size_t i = 1; i < 4; ++i) first = heads[i] < heads[first] ? i : first;
      if (heads[first] >= slot) return true;
      heads[first] = ++next[first] < microbatches_ ? heads[first] + v_period : none;
      if (first == backward_up || first == backward_down) {
        --open;
      } else if (++open > most_live_) {
        return false;
      }
    }
  }

  std::optional<Op> choose(std::uint32_t rank) {
    RankState& state = states_[rank];
    Heads slot{};
    for (std::size_t i = 0; i < 4; ++i) {
      slot[i] =
          state.next[i] < microbatches_ ? slots_[rank][i] + std::uint64_t{v_period} * state.next[i] : none;
    }
    const std::uint64_t first_forward = std::min(slot[forward_down], slot[forward_up]);
    const std::uint64_t first_backward = std::min(slot[backward_up], slot[backward_down]);
    const auto may_pass = [&](VStream stream) {
      if (stream == forward_down || stream == forward_up) {
        return slot[stream] < first_backward ||
               (passing_ == Passing::forwards_pass_backwards && fits_early(state, slot, slot[stream]));
      }
      return slot[stream] < first_forward || passing_ == Passing::backwards_pass_forwards;
    };
    std::optional<VStream> best;
    for (const VStream stream : {forward_down, forward_up, backward_up, backward_down}) {
      if (slot[stream] == none || (best && slot[*best] < slot[stream])) continue;
      if (ready(rank, stream, state.next[stream]) && may_pass(stream)) best = stream;
    }
    const std::uint32_t live = state.next[forward_down] + state.next[forward_up] - state.weights;
    if (best && *best <= forward_up && live >= most_live_) best.reset();
    if (best) {
      return Op{Stage{v_stage(rank, *best, ranks_)}, Microbatch{state.next[*best]++},
                *best <= forward_up ? OpKind::forward : OpKind::backward_input};
    }
    if (state.weights == state.next[backward_up] + state.next[backward_down]) return std::nullopt;
    const auto& actions = schedule_.actions[rank];
    while (actions[state.oldest].first().kind != OpKind::backward_input) ++state.oldest;
    Op weight = actions[state.oldest++].first();
    weight.kind = OpKind::backward_weight;
    ++state.weights;
    return weight;
  }

  std::uint32_t ranks_;
  std::uint32_t microbatches_;
  const std::vector<VSlots>& slots_;
  std::uint32_t most_live_;
  Passing passing_;
  Schedule schedule_;
  std::vector<RankState> states_;
  std::vector<std::uint32_t> forwards_;   // [stage] microbatches whose activation is there
  std::vector<std::uint32_t> gradients_;  // [stage] microbatches whose input gradient is there
};

}  // namespace

Schedule run_v_pattern(std::string_view name, const Shape& shape, const std::vector<VSlots>& slots,
                       std::uint32_t most_live, Passing passing) {
  return Run(name, shape, slots, most_live, passing).schedule();
}

}  // namespace plumb::emit
