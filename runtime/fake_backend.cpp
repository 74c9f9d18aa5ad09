#include "runtime/fake_backend.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>

namespace plumb {
namespace {

using Launched = std::variant<const ComputeStep*, const CommStep*, const ReduceStep*>;

Duration alone(const OpCost& cost, const Op& op) {
  if (cost.recipe.empty()) throw BadInput("the costs", "the cost of " + to_string(op) + " is not given");
  for (const Segment& segment : cost.recipe) {
    if (segment.deferred) throw BadInput("the costs", "deferred segments are not contention-free");
  }
  return total(cost);
}

}  // namespace

// What has been launched on every rank, and when it happens.
class FakeWorld::Clock {
 public:
  Clock(const LoweredSchedule& schedule, const CostModel& cost, PairRelease pair_release)
      : schedule_(schedule), cost_(cost), pair_release_(pair_release), ranks_(schedule.ranks()) {}

  void begin(std::uint32_t r) {
    ranks_[r] = {};
    resolved_ = false;
  }
  void launch(std::uint32_t r, Launched step) { ranks_[r].launched.push_back(step); }
  void finish(std::uint32_t r) { ranks_[r].finished = true; }

  StepTimes times(std::uint32_t r) {
    if (!resolved_) resolve();
    return ranks_[r].times;
  }

 private:
  struct State {
    std::vector<Launched> launched;
    bool finished = false;
    std::size_t next = 0;
    TimePoint now;
    bool in_group = false;  // it has posted the group it stands in
    StepTimes times;
  };
  struct Transfer {
    std::optional<TimePoint> ready;
    std::optional<TimePoint> posted;
    std::optional<TimePoint> end;
    TimePoint begin;
    bool meets = false;  // its receiver stands until it is done, so it begins when both sides are there
  };

  Transfer& transfer(const Op& message) {
    return transfers_[message_slot(carried_by(message), schedule_.microbatches)];
  }

  void resolve() {
    transfers_.assign(2 * std::size_t{schedule_.stages} * schedule_.microbatches, {});
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
      PLUMB_CHECK(ranks_[r].finished);
      const LoweredRank& list = schedule_.per_rank[r];
      ranks_[r].times.messages.resize(list.messages.size());
      for (const Launched& step : ranks_[r].launched) {
        const auto* comm = std::get_if<const CommStep*>(&step);
        if (!comm) continue;
        for (const MessageStep& message : (*comm)->messages) {
          if (is_recv(message.op.kind)) transfer(message.op).meets = (*comm)->waited_together;
        }
      }
    }
    for (bool progress = true; progress;) {
      progress = false;
      for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
        while (ranks_[r].next < ranks_[r].launched.size() && advance(r)) progress = true;
      }
    }
    for (const State& rank : ranks_) PLUMB_CHECK(rank.next == rank.launched.size());
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) date_messages(r);
    reduce();
    update();
    resolved_ = true;
  }

  // One step further, or as far into it as it goes before something is known of another rank.
  bool advance(std::uint32_t r) {
    State& rank = ranks_[r];
    const Launched& step = rank.launched[rank.next];
    if (const auto* compute = std::get_if<const ComputeStep*>(&step)) return run(rank, **compute);
    if (const auto* comm = std::get_if<const CommStep*>(&step)) return exchange(r, rank, **comm);
    ++rank.next;
    return true;
  }

  bool run(State& rank, const ComputeStep& step) {
    TimePoint begin = rank.now;
    for (const std::uint32_t m : {step.received[0], step.received[1]}) {
      if (m == no_index) continue;
      const std::optional<TimePoint> end = transfer(messages_of(rank)[m].op).end;
      if (!end) return false;
      begin = std::max(begin, *end);
    }
    const auto [duration, forward] = duration_of(step.action);
    rank.now = begin + duration;
    rank.times.compute.push_back({begin, rank.now});
    if (step.action.is_pair() && !stated(step.action)) {
      const auto half = [&](const Op& op, TimePoint from, TimePoint to) {
        const Segment& segment = cost_.stage(op.stage).of(op.kind).recipe.front();
        rank.times.segments.push_back({op, segment.lane, segment.name, from, to});
      };
      half(step.action.first(), begin, begin + forward);
      half(step.action.second(), begin + forward, rank.now);
    } else if (!step.action.is_pair()) {
      const Op& op = step.action.first();
      const OpCost& cost = cost_.stage(op.stage).of(op.kind);
      TimePoint at = begin;
      for (const Segment& segment : cost.recipe) {
        if (cost.recipe.size() > 1) {
          rank.times.segments.push_back({op, segment.lane, segment.name, at, at + segment.duration});
        }
        at = at + segment.duration;
      }
    }
    ++rank.next;
    return true;
  }

  bool exchange(std::uint32_t r, State& rank, const CommStep& step) {
    if (!rank.in_group) {
      for (const MessageStep& message : step.messages) post(Rank{r}, rank, step, message);
      rank.in_group = true;
      if (!step.waited_together) return rank.in_group = false, ++rank.next, true;
      return true;
    }
    TimePoint end = rank.now;
    for (const MessageStep& message : step.messages) {
      const Transfer& moved = transfer(message.op);
      if (!moved.end) return false;
      end = std::max(end, *moved.end);
    }
    rank.now = end;
    rank.in_group = false;
    ++rank.next;
    return true;
  }

  void post(Rank r, State& rank, const CommStep& step, const MessageStep& message) {
    Transfer& moved = transfer(message.op);
    if (is_recv(message.op.kind)) {
      moved.posted = rank.now;
    } else {
      moved.ready = rank.now;
      const bool early = pair_release_ == PairRelease::forward_first && !step.waited_together &&
                         message.made_by == step.behind && message.made_by_op == 0;
      if (early) {
        const Action& action = action_at(r, step.behind);
        if (action.is_pair()) {
          const auto [duration, forward] = duration_of(action);
          moved.ready = rank.now + forward - duration;
        }
      }
    }
    if (!moved.ready || (moved.meets && !moved.posted)) return;
    if (moved.end) return;
    moved.begin = moved.meets ? std::max(*moved.ready, *moved.posted) : *moved.ready;
    const Rank from = is_send(message.op.kind) ? r : message.peer;
    const Rank to = is_send(message.op.kind) ? message.peer : r;
    moved.end = moved.begin + time_of(from, to, carried_by(message.op));
  }

  const Action& action_at(Rank r, std::uint32_t position) const {
    for (const Launched& step : ranks_[r.value].launched) {
      const auto* compute = std::get_if<const ComputeStep*>(&step);
      if (compute && (*compute)->position == position) return (*compute)->action;
    }
    PLUMB_CHECK(!"a message is launched behind an action of its rank");
  }

  std::span<const Message> messages_of(const State& rank) const {
    return schedule_.per_rank[static_cast<std::size_t>(&rank - ranks_.data())].messages;
  }

  bool stated(const Action& pair) const {
    return cost_.stated_pair(pair.first().stage, pair.second().stage).has_value();
  }

  // How long the action lasts, and when the forward of a pair is done.
  std::pair<Duration, Duration> duration_of(const Action& action) const {
    const Op& op = action.first();
    const OpCost& first = cost_.stage(op.stage).of(op.kind);
    const Duration own = alone(first, op);
    if (!action.is_pair()) return {own, own};
    if (const auto whole = cost_.stated_pair(op.stage, action.second().stage)) {
      return {*whole, std::min(own, *whole)};
    }
    const OpCost& second = cost_.stage(action.second().stage).of(action.second().kind);
    for (const OpCost* cost : {&first, &second}) {
      if (cost->recipe.size() != 1 || cost->recipe.front().lane != Lane::compute) {
        throw BadInput("the costs", "a pair of recipes of several segments or lanes is not contention-free");
      }
    }
    return {own + alone(second, action.second()), own};
  }

  Duration time_of(Rank from, Rank to, const Need& carried) const {
    const Link& link = cost_.link_between(from, to);
    const StageCost& stage = cost_.stage(carried.stage);
    const Bytes bytes =
        carried.product == Product::activation ? stage.activation_message : stage.gradient_message;
    if (!link.bandwidth) return link.latency;
    const double ns = std::floor(static_cast<double>(bytes.count) / link.bandwidth->value * 1e9 + 0.5);
    return link.latency + Duration{static_cast<std::int64_t>(ns)};
  }

  void date_messages(std::uint32_t r) {
    const auto messages = messages_of(ranks_[r]);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const Transfer& moved = transfer(messages[i].op);
      MessageTimes& times = ranks_[r].times.messages[i];
      times.posted = is_send(messages[i].op.kind) ? *moved.ready : *moved.posted;
      times.begin = moved.begin;
      times.end = moved.end;
    }
  }

  // A reduction may begin when all its owners have reached it; a rank takes part in one at a time, first come
  // first served, the lower stage first on ties.
  void reduce() {
    struct Reduction {
      Stage stage;
      TimePoint ready;
      std::vector<std::pair<std::uint32_t, std::uint32_t>> parts;  // rank, index
    };
    std::vector<Reduction> reductions(schedule_.stages);
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
      State& rank = ranks_[r];
      for (const Launched& step : rank.launched) {
        const auto* part = std::get_if<const ReduceStep*>(&step);
        if (!part) continue;
        const std::uint32_t behind = (*part)->behind;
        Reduction& reduction = reductions[(*part)->stage.value];
        reduction.stage = (*part)->stage;
        reduction.ready =
            std::max(reduction.ready, behind == no_index ? TimePoint{} : rank.times.compute[behind].end);
        reduction.parts.emplace_back(r, (*part)->index);
        if (rank.times.collectives.size() <= (*part)->index)
          rank.times.collectives.resize((*part)->index + 1);
      }
    }
    std::erase_if(reductions, [](const Reduction& reduction) { return reduction.parts.empty(); });
    std::stable_sort(reductions.begin(), reductions.end(),
                     [](const Reduction& a, const Reduction& b) { return a.ready < b.ready; });
    std::vector<TimePoint> free(ranks_.size());
    for (const Reduction& reduction : reductions) {
      TimePoint begin = reduction.ready;
      for (const auto& [r, index] : reduction.parts) begin = std::max(begin, free[r]);
      const TimePoint end = begin + cost_.stage(reduction.stage).reduction_over(reduction.parts.size());
      for (const auto& [r, index] : reduction.parts) {
        ranks_[r].times.collectives[index] = {begin, end};
        free[r] = end;
      }
    }
  }

  // The optimizer's step begins when the gradients of all ranks are complete, and takes what the stages held
  // here take one after another.
  void update() {
    TimePoint begin;
    for (const State& rank : ranks_) {
      for (const auto* spans : {&rank.times.compute, &rank.times.collectives}) {
        for (const Interval& span : *spans) begin = std::max(begin, span.end);
      }
    }
    std::vector<Duration> durations(ranks_.size());
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
      std::set<Stage> held;
      for (const Launched& step : ranks_[r].launched) {
        const auto* compute = std::get_if<const ComputeStep*>(&step);
        if (!compute) continue;
        for (const Op& op : (*compute)->action) held.insert(op.stage);
      }
      for (const Stage stage : held) durations[r] += cost_.stage(stage).optimizer_step;
    }
    const auto takes_time = [](Duration duration) { return duration != Duration{}; };
    if (std::none_of(durations.begin(), durations.end(), takes_time)) return;
    for (std::uint32_t r = 0; r < ranks_.size(); ++r)
      ranks_[r].times.update = Interval{begin, begin + durations[r]};
  }

  const LoweredSchedule& schedule_;
  const CostModel& cost_;
  PairRelease pair_release_;
  std::vector<State> ranks_;
  std::vector<Transfer> transfers_;  // one a message
  bool resolved_ = false;
};

class FakeWorld::FakeRank : public Backend {
 public:
  FakeRank(Clock& clock, std::uint32_t rank) : clock_(clock), rank_(rank) {}

  void begin_step() override { clock_.begin(rank_); }
  void compute(const ComputeStep& step) override { clock_.launch(rank_, &step); }
  void communicate(const CommStep& step) override { clock_.launch(rank_, &step); }
  void reduce(const ReduceStep& step) override { clock_.launch(rank_, &step); }
  void finish_step() override { clock_.finish(rank_); }
  StepTimes times() override { return clock_.times(rank_); }
  void abort() noexcept override {}

 private:
  Clock& clock_;
  std::uint32_t rank_;
};

FakeWorld::FakeWorld(const LoweredSchedule& schedule, const CostModel& cost, PairRelease pair_release)
    : clock_(std::make_unique<Clock>(schedule, cost, pair_release)) {
  PLUMB_CHECK(cost.stages.size() == 1 || cost.stages.size() == schedule.stages);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r)
    ranks_.push_back(std::make_unique<FakeRank>(*clock_, r));
}

FakeWorld::~FakeWorld() = default;

Backend& FakeWorld::rank(Rank rank) { return *ranks_[rank.value]; }

}  // namespace plumb
