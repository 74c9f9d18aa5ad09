// The order in which DualPipe and DualPipeV run a rank that works for two streams of microbatches at once,
// with the message groups of DeepSeek's runtime. Both are this one rule; they differ in what the streams are.
//
// Near stream: the one that has come through fewer ranks when it gets here. Far stream: the other one.
// `depth` h is the distance from the end where the near stream enters, `half` n the number of ranks it passes
// before it meets the far one. F0 is a forward of the near stream, B1 a backward of the far one, I and W its
// halves, FB two that overlap:
//
//   1  2(n-h-1) x F0                        5  (n-h-1) x B1 FB(F1,B0)
//   2  (h+1)    x F0 F1                     6  (h+1)   x B1 B0      backwards of the second half are split
//   3  (n-h-1)  x I1 W F1                   7  (n-h-1) x W I0
//   4  (M-2n+h+1) x FB(F0,B1) FB(F1,B0)     8  (h+1)   x W          M microbatches a stream
//
// W takes the oldest split backward. On the ranks where the streams meet (h = n-1) the first pair of part 4
// is run one after the other: F0 could start only after the peer's F1, and B1 need not wait for it.
//
// Messages: a rank posts what it will receive; before it computes, everything posted and everything that
// earlier actions left to send goes out as one group, in that order, and is waited for as a whole.
#pragma once
#include "schedules/generators/emit.hpp"
#include "schedules/ir/error.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace plumb::two_way {

/// One of a rank's two streams. `before` is where forwards come from, `after` where they go; nobody at the
/// ends of the model and where the neighbouring stage is on this rank as well.
struct Stream {
  std::uint32_t stage = 0;
  std::uint32_t first_microbatch = 0;
  std::optional<Rank> before;
  std::optional<Rank> after;
};

struct RankPlan {
  std::uint32_t half = 1;          // n
  std::uint32_t depth = 0;         // h < n
  std::uint32_t microbatches = 0;  // M >= 2n, of one stream
  Stream near, far;
};

/// Keeps the computation alone.
class ComputeRecorder {
 public:
  explicit ComputeRecorder(std::vector<Action>& actions) : actions_(actions) {}
  void post(const Op&, Rank) {}
  void compute(const Action& action) { actions_.push_back(action); }
  void finish() {}

 private:
  std::vector<Action>& actions_;
};

/// Keeps the groups as well.
class GroupRecorder {
 public:
  explicit GroupRecorder(LoweredRank& rank) : rank_(rank) {}
  void post(const Op& message, Rank peer) { rank_.messages.push_back({message, peer}); }
  void compute(const Action& action) {
    finish();
    rank_.steps.push_back(action);
  }
  void finish() {
    const auto posted = static_cast<std::uint32_t>(rank_.messages.size());
    if (posted == launched_) return;
    rank_.steps.push_back(CommBatch{launched_, posted - launched_, true});
    launched_ = posted;
  }

 private:
  LoweredRank& rank_;
  std::uint32_t launched_ = 0;
};

template <class Recorder>
class RankWriter {
 public:
  RankWriter(const RankPlan& plan, Recorder recorder)
      : plan_(plan), streams_{Counted{plan.near}, Counted{plan.far}}, recorder_(recorder) {
    split_.reserve(2 * (std::size_t{plan.half} + 1));
  }

  void write() {
    Counted& near = streams_[0];
    Counted& far = streams_[1];
    const std::uint32_t h = plan_.depth, before_meeting = plan_.half - h - 1;
    const bool meets = before_meeting == 0;

    for (std::uint32_t i = 0; i < 2 * before_meeting; ++i) forward(near);

    // The near forward's input is always asked for one action ahead, so that it comes with the far one's.
    receive_forward(near);
    for (std::uint32_t i = 0; i <= h; ++i) {
      compute_forward(near);
      if (meets) send_forward(near);
      receive_forward(near);
      receive_forward(far);
      compute_forward(far);
      // The last one travels behind the forward that part 4 begins with.
      if (!meets || i < h) send_forward(far);
      if (!meets) send_forward(near);
    }

    for (std::uint32_t i = 0; i < before_meeting; ++i) {
      backward(far, true);
      receive_forward(far);
      weight();
      compute_forward(far);
      send_forward(far);
    }

    for (std::uint32_t i = 0; i < plan_.microbatches - 2 * plan_.half + h + 1; ++i) {
      if (i > 0) {
        receive_forward(near);
        pair(near, far);
      } else if (meets) {
        compute_forward(near);
        send_forward(far);
        receive_backward(far);
        compute_backward(far, false);
        send_forward(near);
        send_backward(far);
      } else {
        pair(near, far);
      }
      receive_forward(far);
      pair(far, near);
    }

    for (std::uint32_t i = 0; i < before_meeting; ++i) {
      backward(far, false);
      receive_forward(far);
      pair(far, near);
    }

    // 2(h+1) backwards, of which the last h+1 are split.
    for (std::uint32_t i = 0; i <= h; ++i) {
      backward(far, 2 * i >= h + 1);
      backward(near, 2 * i + 1 >= h + 1);
    }

    for (std::uint32_t i = 0; i < before_meeting; ++i) {
      weight();
      backward(near, true);
    }
    for (std::uint32_t i = 0; i <= h; ++i) weight();
    recorder_.finish();
    PLUMB_CHECK(next_split_ == split_.size());
  }

 private:
  struct Counted {
    Stream stream;
    // The next microbatch of each kind, relative to the stream's first.
    std::uint32_t forward_received = 0, forward_done = 0, forward_sent = 0;
    std::uint32_t backward_received = 0, backward_done = 0, backward_sent = 0;
    Op next(OpKind kind, std::uint32_t& count) const {
      return {Stage{stream.stage}, Microbatch{stream.first_microbatch + count++}, kind};
    }
  };

  void receive_forward(Counted& s) {
    if (s.stream.before) recorder_.post(s.next(OpKind::recv_forward, s.forward_received), *s.stream.before);
  }
  void receive_backward(Counted& s) {
    if (s.stream.after) recorder_.post(s.next(OpKind::recv_backward, s.backward_received), *s.stream.after);
  }
  void send_forward(Counted& s) {
    if (s.stream.after) recorder_.post(s.next(OpKind::send_forward, s.forward_sent), *s.stream.after);
  }
  void send_backward(Counted& s) {
    if (s.stream.before) recorder_.post(s.next(OpKind::send_backward, s.backward_sent), *s.stream.before);
  }

  void compute_forward(Counted& s) { recorder_.compute(Action(s.next(OpKind::forward, s.forward_done))); }
  void compute_backward(Counted& s, bool split) {
    const Op op = s.next(split ? OpKind::backward_input : OpKind::backward, s.backward_done);
    if (split) split_.push_back(op);
    recorder_.compute(Action(op));
  }

  void forward(Counted& s) {
    receive_forward(s);
    compute_forward(s);
    send_forward(s);
  }
  void backward(Counted& s, bool split) {
    receive_backward(s);
    compute_backward(s, split);
    send_backward(s);
  }
  // The forward's receive is already posted, or nothing is to be received.
  void pair(Counted& ahead, Counted& back) {
    receive_backward(back);
    const Op forward_op = ahead.next(OpKind::forward, ahead.forward_done);
    recorder_.compute(Action(forward_op, back.next(OpKind::backward, back.backward_done)));
    send_forward(ahead);
    send_backward(back);
  }
  void weight() {
    const Op& oldest = split_.at(next_split_++);
    recorder_.compute(emit::backward_weight(oldest.stage.value, oldest.microbatch.value));
  }

  RankPlan plan_;
  std::array<Counted, 2> streams_;
  Recorder recorder_;
  std::vector<Op> split_;  // backward_inputs in the order in which they ran
  std::size_t next_split_ = 0;
};

/// The schedule of `plan(rank)` on every rank.
template <class Plan>
Schedule make_schedule(const Generator& family, const Shape& shape, std::uint32_t stages, Plan plan) {
  Schedule schedule{std::string(family.name), stages, shape.microbatches, {}};
  schedule.actions.resize(shape.ranks);
  for (std::uint32_t r = 0; r < shape.ranks; ++r) {
    const RankPlan rank = plan(r);
    // Pairs count once: 2M-4n+2h+2+(n-h-1) of them, and no more than 3 actions for any other microbatch.
    schedule.actions[r].reserve(std::size_t{2} * rank.microbatches + 6 * std::size_t{rank.half});
    RankWriter(rank, ComputeRecorder(schedule.actions[r])).write();
  }
  return schedule;
}

/// The same with its message groups.
template <class Plan>
LoweredSchedule make_batched(const Generator& family, const Shape& shape, std::uint32_t stages, Plan plan) {
  LoweredSchedule lowered;
  lowered.name = family.name;
  lowered.stages = stages;
  lowered.microbatches = shape.microbatches;
  lowered.placement = CommPlacement::batched;
  lowered.per_rank.resize(shape.ranks);
  for (std::uint32_t r = 0; r < shape.ranks; ++r) {
    const RankPlan rank = plan(r);
    auto& list = lowered.per_rank[r];
    list.steps.reserve(std::size_t{4} * rank.microbatches + 12 * std::size_t{rank.half} + 2);
    list.messages.reserve(std::size_t{8} * rank.microbatches);
    RankWriter(rank, GroupRecorder(list)).write();
  }
  return lowered;
}

}  // namespace plumb::two_way
