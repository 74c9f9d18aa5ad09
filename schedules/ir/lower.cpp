#include "schedules/ir/lower.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

namespace plumb {
namespace {

// Which activations and input gradients exist so far: bits of one byte for a (stage, microbatch).
class DoneSet {
 public:
  DoneSet(std::uint32_t stages, std::uint32_t microbatches)
      : microbatches_(microbatches), done_(std::size_t{stages} * microbatches) {}
  bool has(const Need& need) const { return (done_[cell(need)] & bit(need)) != 0; }
  void add(const Need& need) { done_[cell(need)] |= bit(need); }

 private:
  static std::uint8_t bit(const Need& need) { return need.product == Product::activation ? 1 : 2; }
  std::size_t cell(const Need& need) const {
    return static_cast<std::size_t>(need.stage.value) * microbatches_ + need.microbatch.value;
  }
  std::uint32_t microbatches_;
  std::vector<std::uint8_t> done_;
};

void add_products(DoneSet& done, const Op& op) {
  if (op.kind == OpKind::forward) done.add({Product::activation, op.stage, op.microbatch});
  if (gives_input_gradient(op.kind)) done.add({Product::input_gradient, op.stage, op.microbatch});
}

bool ready(const Action& action, const DoneSet& done, std::uint32_t stages) {
  for (const Op& op : action) {
    for (const Need& need : needs_of(op, stages)) {
      if (!done.has(need)) return false;
    }
  }
  return true;
}

// What `op` on `rank` makes for another rank, if anything, and which rank waits for it.
struct Outgoing {
  Need need;
  Rank to;
};
std::optional<Outgoing> outgoing(const Op& op, Rank rank, std::uint32_t stages, const Homes& homes) {
  if (op.kind == OpKind::forward && op.stage.value + 1 < stages) {
    const Rank to = homes.of(Stage{op.stage.value + 1}, op.microbatch);
    if (to != rank) return Outgoing{{Product::activation, op.stage, op.microbatch}, to};
  } else if (gives_input_gradient(op.kind) && op.stage.value > 0) {
    const Rank to = homes.of(Stage{op.stage.value - 1}, op.microbatch);
    if (to != rank) return Outgoing{{Product::input_gradient, op.stage, op.microbatch}, to};
  }
  return std::nullopt;
}

void push_single(LoweredRank& rank, const Message& message) {
  rank.steps.emplace_back(CommBatch{static_cast<std::uint32_t>(rank.messages.size()), 1, false});
  rank.messages.push_back(message);
}

// Every rank in turn runs its next action if it is ready; its messages go into both lists at that moment. So
// all lists are pieces of one linear order in which a send and its receive are neighbours.
class PerOp {
 public:
  PerOp(const Schedule& schedule, const Homes& homes, LoweredSchedule& lowered)
      : schedule_(schedule), homes_(homes), lowered_(lowered), made_(schedule.stages, schedule.microbatches) {
    for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
      const auto& actions = schedule.actions[r];
      ahead_.emplace_back(actions);
      lowered.per_rank[r].steps.reserve(actions.size() * 3);
      lowered.per_rank[r].messages.reserve(actions.size() * 2);
    }
  }

  void run() {
    const std::uint32_t ranks = schedule_.ranks();
    for (bool progress = true; progress;) {
      progress = false;
      for (std::uint32_t r = 0; r < ranks; ++r) {
        // By the time that a rank comes round again, the others have pushed its lists out of the caches.
        if (r + 8 < ranks) prefetch(r + 8);
        if (ahead_[r].empty() || !ready(ahead_[r].front())) continue;
        progress = true;
        compute(Rank{r}, ahead_[r].front());
        ahead_[r] = ahead_[r].subspan(1);
      }
    }
    for (const auto& actions : ahead_) PLUMB_CHECK(actions.empty());
  }

 private:
  // Of a valid schedule: what the rank makes itself stands earlier in its list.
  bool ready(const Action& action) const {
    for (const Op& op : action) {
      bool has_all = true;
      visit_needs(op, schedule_.stages, [&](const Need& need) {
        if (need.stage != op.stage) has_all &= made_.has(need);
      });
      if (!has_all) return false;
    }
    return true;
  }

  void compute(Rank rank, const Action& action) {
    LoweredRank& list = lowered_.per_rank[rank.value];
    list.steps.emplace_back(action);
    for (const Op& op : action) {
      add_products(made_, op);
      if (const auto out = outgoing(op, rank, schedule_.stages, homes_)) {
        push_single(list, {send_of(out->need), out->to});
        push_single(lowered_.per_rank[out->to.value], {recv_of(out->need), rank});
      }
    }
  }

  void prefetch(std::uint32_t r) const {
    const LoweredRank& list = lowered_.per_rank[r];
    __builtin_prefetch(ahead_[r].data());
    __builtin_prefetch(list.steps.data() + list.steps.size(), 1);
    __builtin_prefetch(list.messages.data() + list.messages.size(), 1);
  }

  const Schedule& schedule_;
  const Homes& homes_;
  LoweredSchedule& lowered_;
  DoneSet made_;
  std::vector<std::span<const Action>> ahead_;  // [rank] what it has not run
};

// Runs all ranks under rendezvous: a rank launches its group, stands until every message in it has met its
// other side, computes, and goes on. When nobody can move, a receive is posted early (see unblock).
class Batcher {
 public:
  Batcher(const Schedule& schedule, const Homes& homes, LoweredSchedule& lowered)
      : schedule_(schedule),
        homes_(homes),
        lowered_(lowered),
        computed_(schedule.stages, schedule.microbatches),
        received_(schedule.stages, schedule.microbatches),
        ranks_(schedule.ranks()) {}

  void run() {
    while (true) {
      bool progress = false;
      bool finished = true;
      for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
        progress |= advance(Rank{r});
        finished &= ranks_[r].finished;
      }
      if (finished) return;
      if (!progress) unblock();
    }
  }

 private:
  struct Posted {
    Need need;
    Rank peer;
    bool met = false;
  };
  struct State {
    std::size_t next = 0;        // the action to run
    std::vector<Posted> unsent;  // made by earlier actions, not launched
    std::vector<Posted> sends;   // of the group that the rank stands in
    std::vector<Posted> receives;
    bool in_group = false;
    bool finished = false;
  };

  // One group or one action. True if the rank moved.
  bool advance(Rank rank) {
    State& state = ranks_[rank.value];
    if (state.finished) return false;
    const auto& actions = schedule_.actions[rank.value];
    if (!state.in_group) {
      launch(rank);
      if (state.sends.empty() && state.receives.empty()) return compute(rank), true;
      return true;
    }
    if (!meet_all(rank)) return false;
    emit_group(rank);
    state.in_group = false;
    if (state.next == actions.size()) {
      state.finished = true;
    } else {
      compute(rank);
    }
    return true;
  }

  void launch(Rank rank) {
    State& state = ranks_[rank.value];
    state.sends.swap(state.unsent);
    state.unsent.clear();
    state.receives.clear();
    if (state.next < schedule_.actions[rank.value].size()) {
      for (const Op& op : schedule_.actions[rank.value][state.next]) {
        for (const Need& need : needs_of(op, schedule_.stages)) {
          const Rank producer = homes_.of(need.stage, need.microbatch);
          if (producer != rank && !received_.has(need)) state.receives.push_back({need, producer});
        }
      }
    }
    state.in_group = true;
  }

  // Marks what has met its other side; true if that is everything. Per directed pair of ranks only the first
  // send that has not met and the first receive that has not met can meet: NCCL's channels have no names.
  bool meet_all(Rank rank) {
    State& state = ranks_[rank.value];
    bool all = true;
    for (Posted& receive : state.receives) {
      if (!receive.met) meet(receive.peer, rank);
      all &= receive.met;
    }
    for (Posted& send : state.sends) {
      if (!send.met) meet(rank, send.peer);
      all &= send.met;
    }
    return all;
  }

  void meet(Rank from, Rank to) {
    State& sender = ranks_[from.value];
    State& receiver = ranks_[to.value];
    if (!sender.in_group || !receiver.in_group) return;
    while (true) {
      Posted* send = first_unmet(sender.sends, to);
      Posted* receive = first_unmet(receiver.receives, from);
      if (!send || !receive || send->need != receive->need) return;
      send->met = receive->met = true;
      received_.add(receive->need);
    }
  }

  static Posted* first_unmet(std::vector<Posted>& posted, Rank peer) {
    for (Posted& message : posted) {
      if (!message.met && message.peer == peer) return &message;
    }
    return nullptr;
  }

  void compute(Rank rank) {
    State& state = ranks_[rank.value];
    state.in_group = false;
    const auto& actions = schedule_.actions[rank.value];
    if (state.next == actions.size()) {
      state.finished = true;
      return;
    }
    const Action& action = actions[state.next++];
    lowered_.per_rank[rank.value].steps.emplace_back(action);
    for (const Op& op : action) {
      add_products(computed_, op);
      if (const auto out = outgoing(op, rank, schedule_.stages, homes_))
        state.unsent.push_back({out->need, out->to});
    }
  }

  void emit_group(Rank rank) {
    State& state = ranks_[rank.value];
    LoweredRank& out = lowered_.per_rank[rank.value];
    const auto first = static_cast<std::uint32_t>(out.messages.size());
    for (const Posted& send : state.sends) out.messages.push_back({send_of(send.need), send.peer});
    for (const Posted& receive : state.receives)
      out.messages.push_back({recv_of(receive.need), receive.peer});
    out.steps.emplace_back(CommBatch{first, static_cast<std::uint32_t>(out.messages.size()) - first, true});
    state.sends.clear();
    state.receives.clear();
  }

  // Everybody stands in a group. Some rank's next action has all its inputs made (the computation has no
  // cycle), so their sends are launched and what keeps that rank is only a send of its own that nobody
  // receives yet, or one ahead of its input on the same channel. Taking those receives into the groups that
  // their ranks stand in frees it, and by the same argument always frees somebody.
  void unblock() {
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
      if (ranks_[r].finished) continue;
      const auto& actions = schedule_.actions[r];
      if (ranks_[r].next < actions.size() && !ready(actions[ranks_[r].next], computed_, schedule_.stages)) {
        continue;
      }
      std::vector<std::pair<Rank, Rank>> channels;
      for (const Posted& receive : ranks_[r].receives) channels.emplace_back(receive.peer, Rank{r});
      for (const Posted& send : ranks_[r].sends) channels.emplace_back(Rank{r}, send.peer);
      bool changed = false;
      for (const auto& [from, to] : channels) changed |= receive_in_order(from, to);
      if (changed) return;
    }
    PLUMB_CHECK(!"a valid schedule always moves");
  }

  // Makes the receiver's group take what the sender's group sends it, first and in that order.
  bool receive_in_order(Rank from, Rank to) {
    std::vector<Posted>& receives = ranks_[to.value].receives;
    std::vector<Posted> wanted;
    for (const Posted& send : ranks_[from.value].sends) {
      if (!send.met && send.peer == to) wanted.push_back({send.need, from});
    }
    std::size_t at = receives.size();  // where the channel's first unmet receive stands
    std::vector<Posted> others;
    for (std::size_t i = receives.size(); i-- > 0;) {
      if (receives[i].met || receives[i].peer != from) continue;
      const bool is_wanted = std::any_of(wanted.begin(), wanted.end(), [&](const Posted& posted) {
        return posted.need == receives[i].need;
      });
      if (!is_wanted) others.insert(others.begin(), receives[i]);
      at = i;
    }
    std::vector<Posted> rebuilt;
    for (std::size_t i = 0; i < receives.size(); ++i) {
      if (i == at) {
        rebuilt.insert(rebuilt.end(), wanted.begin(), wanted.end());
        rebuilt.insert(rebuilt.end(), others.begin(), others.end());
      }
      if (receives[i].met || receives[i].peer != from) rebuilt.push_back(receives[i]);
    }
    if (at == receives.size()) rebuilt.insert(rebuilt.end(), wanted.begin(), wanted.end());
    const bool changed =
        !std::equal(rebuilt.begin(), rebuilt.end(), receives.begin(), receives.end(),
                    [](const Posted& a, const Posted& b) { return a.need == b.need && a.peer == b.peer; });
    receives = std::move(rebuilt);
    return changed;
  }

  const Schedule& schedule_;
  const Homes& homes_;
  LoweredSchedule& lowered_;
  DoneSet computed_;
  DoneSet received_;
  std::vector<State> ranks_;
};

}  // namespace

LoweredSchedule lower(const Schedule& schedule, const LowerOptions& options) {
  LoweredSchedule lowered;
  lowered.name = schedule.name;
  lowered.stages = schedule.stages;
  lowered.microbatches = schedule.microbatches;
  lowered.data_parallel = options.data_parallel;
  lowered.placement = options.placement;
  lowered.per_rank.resize(schedule.ranks());
  const Homes homes(schedule);
  if (options.placement == CommPlacement::per_op) {
    PerOp(schedule, homes, lowered).run();
  } else {
    Batcher(schedule, homes, lowered).run();
  }
  if (options.data_parallel > 1 || homes.some_stage_lives_on_two()) place_reductions(lowered);
  return lowered;
}

Schedule without_messages(const LoweredSchedule& lowered) {
  Schedule schedule{lowered.name, lowered.stages, lowered.microbatches, {}};
  schedule.actions.resize(lowered.ranks());
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    for (const Step& step : lowered.per_rank[r].steps) {
      if (const auto* action = std::get_if<Action>(&step)) schedule.actions[r].push_back(*action);
    }
  }
  return schedule;
}

void place_reductions(LoweredSchedule& lowered) {
  // holders[stage]: on how many ranks a copy of the stage lives.
  std::vector<std::uint32_t> holders(lowered.stages, 0);
  struct Last {
    Stage stage;
    std::size_t step;
  };
  std::vector<std::vector<Last>> lasts(lowered.ranks());
  std::vector<std::size_t> last_of(lowered.stages);
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const auto& steps = lowered.per_rank[r].steps;
    std::vector<Stage> held;
    for (Stage s{0}; s.value < lowered.stages; ++s.value) last_of[s.value] = none;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto* action = std::get_if<Action>(&steps[i]);
      if (!action) continue;
      for (const Op& op : *action) {
        if (!gives_weight_gradient(op.kind)) continue;
        if (last_of[op.stage.value] == none) held.push_back(op.stage);
        last_of[op.stage.value] = i;
      }
    }
    for (const Stage stage : held) {
      ++holders[stage.value];
      lasts[r].push_back({stage, last_of[stage.value]});
    }
  }
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    std::erase_if(lasts[r],
                  [&](const Last& last) { return holders[last.stage.value] * lowered.data_parallel < 2; });
    if (lasts[r].empty()) continue;
    std::stable_sort(lasts[r].begin(), lasts[r].end(),
                     [](const Last& a, const Last& b) { return a.step < b.step; });
    auto& steps = lowered.per_rank[r].steps;
    std::vector<Step> placed;
    placed.reserve(steps.size() + lasts[r].size());
    std::size_t next = 0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      placed.push_back(steps[i]);
      // Others wait for the action's own sends, so those stay ahead of the reduction.
      const auto* following = i + 1 < steps.size() ? std::get_if<CommBatch>(&steps[i + 1]) : nullptr;
      const bool send_follows = following && !following->waited_together &&
                                is_send(lowered.per_rank[r].messages[following->first_message].op.kind);
      if (send_follows) continue;
      for (; next < lasts[r].size() && lasts[r][next].step <= i; ++next) {
        placed.emplace_back(Collective{{lasts[r][next].stage, Microbatch{0}, OpKind::reduce_grad}});
      }
    }
    steps = std::move(placed);
  }
}

std::vector<std::vector<Rank>> owners(const Schedule& schedule) {
  std::vector<std::vector<Rank>> ranks_of(schedule.stages);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    for (const Action& action : schedule.actions[r]) {
      for (const Op& op : action) {
        auto& ranks = ranks_of[op.stage.value];
        if (ranks.empty() || ranks.back() != Rank{r}) ranks.push_back(Rank{r});
      }
    }
  }
  return ranks_of;
}

}  // namespace plumb
