#include "sim/contention.hpp"

#include "schedules/ir/error.hpp"
#include "sim/arithmetic.hpp"
#include "sim/event_queue.hpp"
#include "sim/overlap.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

namespace plumb {
namespace {

using Kind = Program::Kind;

// Walking the ranks' lists and meeting of messages, the same whatever a transfer disturbs. `Derived` has
//   void request(m, now)      the transfer may begin
//   void action_ready(r, now) rank r stands before an action whose inputs are all there
template <class Derived>
class ListWalk {
 protected:
  struct RankState {
    std::uint32_t item = 0;
    std::uint32_t item_end = 0;
    std::uint32_t action = 0;
    std::uint32_t waiting_for = Dag::none;  // a message, while it stands before an action
    std::uint32_t group_open = 0;           // messages of the group at hand that have not ended
    bool in_group = false;
  };

  ListWalk(Program& program, const Dag& dag) : program_(program), dag_(dag), ranks_(dag.ranks()) {
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].item = program_.item_begin[r];
      ranks_[r].item_end = program_.item_begin[r + 1];
      ranks_[r].action = dag_.rank_begin[r];
    }
  }

  Derived& self() { return static_cast<Derived&>(*this); }

  void check_finished() const {
    for (const RankState& rank : ranks_) PLUMB_CHECK(rank.item == rank.item_end);
  }

  void advance(std::uint32_t r, std::int64_t now) {
    RankState& rank = ranks_[r];
    for (; rank.item < rank.item_end; ++rank.item) {
      const Program::Item item = program_.items[rank.item];
      const std::uint32_t m = item.message();
      switch (item.kind()) {
        case Kind::action:
          look_at_inputs(r, now);
          return;
        case Kind::send:
          if (program_.messages[m].send_ready == Program::unknown) post_send(m, now);
          break;
        case Kind::receive:
          post_receive(m, now);
          break;
        case Kind::group_send:
          ++rank.group_open;
          post_send(m, now);
          break;
        case Kind::group_receive:
          ++rank.group_open;
          post_receive(m, now);
          break;
        case Kind::wait:
          if (rank.group_open > 0) {
            rank.in_group = true;
            return;
          }
          break;
      }
    }
  }

  void action_ended(std::uint32_t r, std::int64_t now) {
    program_.actions[ranks_[r].action].end = now;
    ++ranks_[r].action;
    ++ranks_[r].item;
    advance(r, now);
  }

  // The send that stands right behind the rank's action and leaves before the action's end, if there is one.
  std::uint32_t early_send(const RankState& rank) const {
    if (rank.item + 1 >= rank.item_end) return Dag::none;
    const Program::Item next = program_.items[rank.item + 1];
    return next.kind() == Kind::send && program_.messages[next.message()].early ? next.message() : Dag::none;
  }

  void post_send(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    message.send_ready = now;
    if (!message.meets || message.receive_posted != Program::unknown) self().request(m, now);
  }

  void transfer_ended(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    message.end = now;
    const auto to = static_cast<std::uint32_t>(message.to);
    if (message.group_send) close_one(static_cast<std::uint32_t>(message.from), now);
    if (message.meets) {
      close_one(to, now);
    } else if (ranks_[to].waiting_for == m) {
      look_at_inputs(to, now);
    }
  }

  Program& program_;
  const Dag& dag_;
  std::vector<RankState> ranks_;

 private:
  void post_receive(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    message.receive_posted = now;
    if (message.meets && message.send_ready != Program::unknown) self().request(m, now);
  }

  void close_one(std::uint32_t r, std::int64_t now) {
    RankState& rank = ranks_[r];
    if (--rank.group_open > 0 || !rank.in_group) return;
    rank.in_group = false;
    ++rank.item;
    advance(r, now);
  }

  void look_at_inputs(std::uint32_t r, std::int64_t now) {
    RankState& rank = ranks_[r];
    rank.waiting_for = Dag::none;
    for (const std::uint32_t m : program_.actions[rank.action].input) {
      if (m == Dag::none || program_.messages[m].end != Program::unknown) continue;
      rank.waiting_for = m;
      return;
    }
    self().action_ready(r, now);
  }
};

void remove_one(std::vector<std::uint32_t>& from, std::uint32_t value) {
  if (from.size() == 1 && from.front() == value) return from.clear();
  const auto at = std::find(from.begin(), from.end(), value);
  PLUMB_CHECK(at != from.end());
  from.erase(at);
}

class ExclusiveRun : ListWalk<ExclusiveRun> {
 public:
  ExclusiveRun(Program& program, const Dag& dag, const ExecutionOptions& options)
      : ListWalk(program, dag),
        shared_(options.links_are_shared || options.duplex == Duplex::half),
        computing_(dag.ranks()),
        sends_early_(dag.ranks()),
        ready_(dag.ranks()),
        held_(dag.ranks()),
        touched_(dag.ranks()),
        pending_(dag.ranks()),
        links_(program.links),
        queue_(dag.ranks() + program.links) {}

  void run() {
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) advance(r, 0);
    begin_what_may(0);
    while (queue_.next().time < EventQueue::never) {
      const std::int64_t now = queue_.next().time;
      while (queue_.next().time == now) {
        const std::uint32_t actor = queue_.next().actor;
        if (actor < ranks_.size()) {
          rank_event(actor, now);
        } else {
          link_event(actor - static_cast<std::uint32_t>(ranks_.size()), now);
        }
      }
      begin_what_may(now);
    }
    check_finished();
  }

 private:
  friend ListWalk<ExclusiveRun>;
  struct Transfer {
    std::uint32_t message;
    std::int64_t end;
  };
  struct Link {
    std::vector<std::uint32_t> waiting;  // messages, first come first
    std::vector<Transfer> active;
  };

  void rank_event(std::uint32_t r, std::int64_t now) {
    if (sends_early_[r]) {
      sends_early_[r] = false;
      queue_.set(r, program_.actions[ranks_[r].action].end);
      post_send(early_send(ranks_[r]), now);
      return;
    }
    queue_.clear(r);
    computing_[r] = false;
    touch(r);
    action_ended(r, now);
  }

  void link_event(std::uint32_t l, std::int64_t now) {
    Link& link = links_[l];
    ended_.clear();
    for (const Transfer& transfer : link.active) {
      if (transfer.end == now) ended_.push_back(transfer.message);
    }
    std::erase_if(link.active, [now](const Transfer& transfer) { return transfer.end == now; });
    set_link_event(l);
    for (const std::uint32_t m : ended_) {
      for (const std::uint32_t r : ends_of(m)) {
        --held_[r];
        touch(r);
      }
    }
    for (const std::uint32_t m : ended_) transfer_ended(m, now);
  }

  void request(std::uint32_t m, std::int64_t) {
    links_[program_.messages[m].link].waiting.push_back(m);
    for (const std::uint32_t r : ends_of(m)) {
      ++held_[r];
      pending_[r].push_back(m);
      touch(r);
    }
  }

  void action_ready(std::uint32_t r, std::int64_t) {
    ready_[r] = true;
    touch(r);
  }

  void begin_what_may(std::int64_t now) {
    std::sort(list_.begin(), list_.end());
    for (const std::uint32_t r : list_) {
      for (std::size_t i = 0; i < pending_[r].size();) {
        if (!begin_transfer(pending_[r][i], now)) ++i;
      }
    }
    for (const std::uint32_t r : list_) {
      touched_[r] = false;
      if (ready_[r] && held_[r] == 0) begin_action(r, now);
    }
    list_.clear();
  }

  bool begin_transfer(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    Link& link = links_[message.link];
    if (computing_[static_cast<std::size_t>(message.from)] ||
        computing_[static_cast<std::size_t>(message.to)]) {
      return false;
    }
    if (shared_ && (!link.active.empty() || link.waiting.front() != m)) return false;
    remove_one(link.waiting, m);
    for (const std::uint32_t r : ends_of(m)) remove_one(pending_[r], m);
    message.begin = now;
    link.active.push_back({m, now + message.transfer});
    set_link_event(message.link);
    return true;
  }

  void begin_action(std::uint32_t r, std::int64_t now) {
    ready_[r] = false;
    computing_[r] = true;
    Program::Action& action = program_.actions[ranks_[r].action];
    action.begin = now;
    action.end = now + action.duration;
    const std::uint32_t early = early_send(ranks_[r]);
    sends_early_[r] = early != Dag::none;
    queue_.set(r, sends_early_[r] ? action.end + dag_.lags[dag_.messages[early].early] : action.end);
  }

  void set_link_event(std::uint32_t l) {
    std::int64_t next = EventQueue::never;
    for (const Transfer& transfer : links_[l].active) next = std::min(next, transfer.end);
    const std::uint32_t actor = static_cast<std::uint32_t>(ranks_.size()) + l;
    if (next == EventQueue::never) {
      queue_.clear(actor);
    } else {
      queue_.set(actor, next);
    }
  }

  std::array<std::uint32_t, 2> ends_of(std::uint32_t m) const {
    return {static_cast<std::uint32_t>(program_.messages[m].from),
            static_cast<std::uint32_t>(program_.messages[m].to)};
  }

  void touch(std::uint32_t r) {
    if (touched_[r]) return;
    touched_[r] = true;
    list_.push_back(r);
  }

  bool shared_;
  std::vector<char> computing_;
  std::vector<char> sends_early_;
  std::vector<char> ready_;          // stands before an action with all inputs there
  std::vector<std::uint32_t> held_;  // transfers at the rank that may begin and have not ended
  std::vector<char> touched_;
  std::vector<std::uint32_t> list_;                  // of touched ranks
  std::vector<std::vector<std::uint32_t>> pending_;  // [rank] transfers that have not begun
  std::vector<Link> links_;
  std::vector<std::uint32_t> ended_;
  EventQueue queue_;
};

// How an action and the messages beside it disturb each other, for every distinct recipe once.
struct Phase {
  std::int64_t end = 0;             // since the action began, with nothing beside it
  std::int64_t slowdown = million;  // of the action, while a message is on its way
  std::int64_t slows = million;     // the message
  bool releases = false;            // a pair's forward is done here and leaves
};

struct Profiles {
  std::vector<Phase> phases;
  std::vector<std::uint32_t> begin;      // [profile], one more at the end: into phases
  std::vector<std::uint32_t> of_action;  // numbered like Dag::nodes
};

class ProfileBuilder {
 public:
  ProfileBuilder(const LoweredSchedule& schedule, const Dag& dag, const CostModel& cost,
                 const ExecutionOptions& options)
      : schedule_(schedule), dag_(dag), cost_(cost), options_(options) {}

  Profiles build() {
    profiles_.of_action.reserve(dag_.nodes.size());
    profiles_.begin.push_back(0);
    for (std::uint32_t stage = 0; stage < cost_.stages.size(); ++stage) {
      for (std::uint32_t kind = 0; kind < 4; ++kind) {
        add(plumb::Action(Op{Stage{stage}, Microbatch{0}, static_cast<OpKind>(kind)}));
      }
    }
    for (const LoweredRank& rank : schedule_.per_rank) {
      for (const Step& step : rank.steps) {
        if (const auto* action = std::get_if<plumb::Action>(&step)) {
          profiles_.of_action.push_back(action->is_pair() ? pair(*action) : op(action->first()));
        }
      }
    }
    return std::move(profiles_);
  }

 private:
  std::uint32_t op(const Op& op) const {
    const std::uint32_t stage = cost_.stages.size() == 1 ? 0 : op.stage.value;
    return stage * 4 + static_cast<std::uint32_t>(op.kind);
  }

  std::uint32_t pair(const plumb::Action& action) {
    const auto key = std::pair(action.first().stage, action.second().stage);
    if (last_ && last_->first == key) return last_->second;
    auto found = pairs_.find(key);
    if (found == pairs_.end()) {
      add(action);
      found = pairs_.emplace(key, static_cast<std::uint32_t>(profiles_.begin.size()) - 2).first;
    }
    last_ = *found;
    return found->second;
  }

  // The most slowed and the most slowing of the segments that run at once decide.
  void disturb(Phase& phase, const Segment& segment) const {
    const WorkClass message = *cost_.message_class;
    phase.slowdown = std::max<std::int64_t>(phase.slowdown, slowdown_ppm(cost_, segment.work_class, message));
    phase.slows = std::max<std::int64_t>(phase.slows, slowdown_ppm(cost_, message, segment.work_class));
  }

  void add(const plumb::Action& action) {
    const PairCost& cost = action.is_pair() ? dag_.pair(action) : dag_.single(action.first());
    const auto segment_of = [&](const PairSegment& span) -> const Segment& {
      const Op& op = span.of_backward ? action.second() : action.first();
      return cost_.stage(op.stage).of(op.kind).recipe[span.segment];
    };
    const bool releases = action.is_pair() && options_.pair_release == PairRelease::forward_first;
    std::vector<std::int64_t> ends{cost.duration.ns};
    if (releases) ends.push_back(cost.forward_end.ns);
    for (const PairSegment& span : cost.segments) {
      ends.push_back(span.begin.ns);
      ends.push_back(span.end.ns);
    }
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
    for (const std::int64_t end : ends) {
      if (end == 0) continue;
      Phase phase{end};
      phase.releases = releases && end == cost.forward_end.ns;
      if (cost.segments.empty()) {
        for (const Op& op : action) {
          for (const Segment& segment : cost_.stage(op.stage).of(op.kind).recipe) disturb(phase, segment);
        }
      }
      for (const PairSegment& span : cost.segments) {
        if (span.begin.ns < end && span.end.ns >= end) disturb(phase, segment_of(span));
      }
      profiles_.phases.push_back(phase);
    }
    finish(cost.duration.ns);
  }

  void finish(std::int64_t end) {
    if (profiles_.phases.size() == profiles_.begin.back()) profiles_.phases.push_back(Phase{end});
    profiles_.begin.push_back(static_cast<std::uint32_t>(profiles_.phases.size()));
  }

  const LoweredSchedule& schedule_;
  const Dag& dag_;
  const CostModel& cost_;
  const ExecutionOptions& options_;
  Profiles profiles_;
  std::map<std::pair<Stage, Stage>, std::uint32_t> pairs_;
  std::optional<std::pair<std::pair<Stage, Stage>, std::uint32_t>> last_;
};

// Whole nanoseconds at full speed and the general case apart: most of the time nothing is slowed.
std::int64_t time_left(std::int64_t work, std::int64_t slowdown) {
  return slowdown == million ? (work + million - 1) / million : time_for_work(work, slowdown);
}
std::int64_t work_done(std::int64_t time, std::int64_t slowdown) {
  return slowdown == million ? time * million : work_in_time(time, slowdown);
}

class SlowedRun : ListWalk<SlowedRun> {
 public:
  SlowedRun(Program& program, const Dag& dag, const ExecutionOptions& options, const Profiles& profiles,
            PhaseTimes& times)
      : ListWalk(program, dag),
        shared_(options.links_are_shared || options.duplex == Duplex::half),
        profiles_(profiles),
        times_(times),
        loads_(dag.ranks()),
        links_(program.links),
        queue_(dag.ranks() + program.links) {}

  void run() {
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) advance_and_begin(r, 0);
    while (queue_.next().time < EventQueue::never) {
      const EventQueue::Event event = queue_.next();
      if (event.actor < ranks_.size()) {
        rank_event(event.actor, event.time);
      } else {
        link_event(event.actor - static_cast<std::uint32_t>(ranks_.size()), event.time);
      }
    }
    check_finished();
  }

 private:
  friend ListWalk<SlowedRun>;

  // What runs on a rank.
  struct Load {
    bool computing = false;
    std::uint32_t phase = 0;               // into Profiles::phases
    std::uint32_t phase_end = 0;           // behind the action's last
    std::int64_t undisturbed = 0;          // the phase's end with nothing beside the action, since it began
    std::int64_t work = 0;                 // left of the phase
    std::int64_t settled = 0;              // when `work` was right
    std::int64_t slowdown = million;       // now
    std::int64_t slows = million;          // what it does to messages now
    std::vector<std::uint32_t> transfers;  // at this rank, into transfers_
  };
  struct Transfer {
    std::uint32_t message = Dag::none;
    std::int64_t work = 0;
    std::int64_t settled = 0;
    std::int64_t slowdown = million;
    std::int64_t end = 0;
  };
  struct Link {
    std::vector<std::uint32_t> waiting;  // messages, first come first
    std::size_t first_waiting = 0;
    std::vector<std::uint32_t> active;  // into transfers_
  };

  void advance_and_begin(std::uint32_t r, std::int64_t now) {
    advance(r, now);
    begin_requested(now);
  }

  // An action that begins at the same time settles a transfer's pace first, so requests are only noted.
  void request(std::uint32_t m, std::int64_t) { requested_.push_back(m); }

  void begin_requested(std::int64_t now) {
    for (std::size_t i = 0; i < requested_.size(); ++i) {
      const std::uint32_t m = requested_[i];
      Link& link = links_[program_.messages[m].link];
      if (shared_ && !link.active.empty()) {
        link.waiting.push_back(m);
      } else {
        begin_transfer(m, now);
      }
    }
    requested_.clear();
  }

  void action_ready(std::uint32_t r, std::int64_t now) {
    Load& load = loads_[r];
    const std::uint32_t action = ranks_[r].action;
    program_.actions[action].begin = now;
    const std::uint32_t profile = profiles_.of_action[action];
    load.computing = true;
    load.phase = profiles_.begin[profile];
    load.phase_end = profiles_.begin[profile + 1];
    load.undisturbed = 0;
    begin_phase(r, now);
    program_.prefetch(ranks_[r].item + 1, action + 1);
  }

  // When the phase at hand ends with nothing beside the action: the recipe's figure, stretched where the
  // action lasts longer or shorter than its recipe (a slow rank, an override).
  std::int64_t undisturbed_end(std::uint32_t r) const {
    const Load& load = loads_[r];
    const std::int64_t duration = program_.actions[ranks_[r].action].duration;
    return stretch(profiles_.phases[load.phase].end, profiles_.phases[load.phase_end - 1].end, duration);
  }

  void begin_phase(std::uint32_t r, std::int64_t now) {
    Load& load = loads_[r];
    const Phase& phase = profiles_.phases[load.phase];
    const std::int64_t end =
        load.phase + 1 == load.phase_end ? program_.actions[ranks_[r].action].duration : undisturbed_end(r);
    load.work = to_work(end - load.undisturbed);
    load.undisturbed = end;
    load.settled = now;
    load.slowdown = load.transfers.empty() ? million : phase.slowdown;
    change_pace(load, now, phase.slows);
    queue_.set(r, now + time_left(load.work, load.slowdown));
  }

  void rank_event(std::uint32_t r, std::int64_t now) {
    Load& load = loads_[r];
    const std::int64_t end = load.settled + time_left(load.work, load.slowdown);
    if (end > now) {  // slowed since the event was set
      queue_.set(r, end);
      return;
    }
    if (!times_.first.empty()) {
      const std::uint32_t action = ranks_[r].action;
      const std::uint32_t at = times_.first[action + 1] - (load.phase_end - load.phase);
      times_.undisturbed[at] = load.undisturbed;
      times_.real[at] = now;
    }
    if (profiles_.phases[load.phase].releases) {
      const std::uint32_t m = early_send(ranks_[r]);
      if (m != Dag::none) post_send(m, now);
    }
    if (++load.phase < load.phase_end) {
      begin_phase(r, now);
    } else {
      load.computing = false;
      action_ended(r, now);
      if (!load.computing) {
        queue_.clear(r);
        change_pace(load, now, million);
      }
    }
    begin_requested(now);
  }

  void settle(Load& load, std::int64_t now) const {
    load.work = std::max<std::int64_t>(0, load.work - work_done(now - load.settled, load.slowdown));
    load.settled = now;
  }

  // The rank's computation leaves messages another pace from now on.
  void change_pace(Load& load, std::int64_t now, std::int64_t slows) {
    if (load.slows == slows) return;
    load.slows = slows;
    for (const std::uint32_t t : load.transfers) {
      Transfer& transfer = transfers_[t];
      const Program::Message& message = program_.messages[transfer.message];
      const std::int64_t slowdown = pace(message);
      if (slowdown == transfer.slowdown) continue;
      transfer.work =
          std::max<std::int64_t>(0, transfer.work - work_done(now - transfer.settled, transfer.slowdown));
      transfer.settled = now;
      transfer.slowdown = slowdown;
      transfer.end = now + time_left(transfer.work, slowdown);
      set_link_event(message.link);
    }
  }

  std::int64_t pace(const Program::Message& message) const {
    return std::max(loads_[static_cast<std::size_t>(message.from)].slows,
                    loads_[static_cast<std::size_t>(message.to)].slows);
  }

  void begin_transfer(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    message.begin = now;
    std::uint32_t t;
    if (unused_.empty()) {
      t = static_cast<std::uint32_t>(transfers_.size());
      transfers_.emplace_back();
    } else {
      t = unused_.back();
      unused_.pop_back();
    }
    Transfer& transfer = transfers_[t];
    transfer.message = m;
    transfer.work = to_work(message.transfer);
    transfer.settled = now;
    transfer.slowdown = pace(message);
    transfer.end = now + time_left(transfer.work, transfer.slowdown);
    links_[message.link].active.push_back(t);
    set_link_event(message.link);
    for (const std::int32_t r : {message.from, message.to}) {
      Load& load = loads_[static_cast<std::size_t>(r)];
      load.transfers.push_back(t);
      if (load.transfers.size() == 1 && load.computing) {
        slow_down(static_cast<std::uint32_t>(r), now);
      }
    }
  }

  // Where it gets slower the event stays too early: rank_event() sets it anew if nothing else does before.
  void slow_down(std::uint32_t r, std::int64_t now) {
    Load& load = loads_[r];
    settle(load, now);
    load.slowdown = profiles_.phases[load.phase].slowdown;
  }
  void speed_up(std::uint32_t r, std::int64_t now) {
    Load& load = loads_[r];
    if (load.slowdown == million) return;
    settle(load, now);
    load.slowdown = million;
    queue_.set(r, now + time_left(load.work, million));
  }

  void link_event(std::uint32_t l, std::int64_t now) {
    // One transfer; where several end now, the queue names the link again.
    Link& link = links_[l];
    const auto ended = std::find_if(link.active.begin(), link.active.end(),
                                    [&](std::uint32_t active) { return transfers_[active].end == now; });
    PLUMB_CHECK(ended != link.active.end());
    const std::uint32_t t = *ended;
    const std::uint32_t m = transfers_[t].message;
    link.active.erase(ended);
    unused_.push_back(t);
    for (const std::int32_t r : {program_.messages[m].from, program_.messages[m].to}) {
      Load& load = loads_[static_cast<std::size_t>(r)];
      remove_one(load.transfers, t);
      if (load.transfers.empty() && load.computing) speed_up(static_cast<std::uint32_t>(r), now);
    }
    if (link.first_waiting < link.waiting.size() && link.active.empty()) {
      requested_.push_back(link.waiting[link.first_waiting++]);
      if (link.first_waiting == link.waiting.size()) {
        link.waiting.clear();
        link.first_waiting = 0;
      }
    }
    set_link_event(l);
    transfer_ended(m, now);
    begin_requested(now);
  }

  void set_link_event(std::uint32_t l) {
    std::int64_t next = EventQueue::never;
    for (const std::uint32_t t : links_[l].active) next = std::min(next, transfers_[t].end);
    const std::uint32_t actor = static_cast<std::uint32_t>(ranks_.size()) + l;
    if (next == EventQueue::never) {
      queue_.clear(actor);
    } else {
      queue_.set(actor, next);
    }
  }

  bool shared_;
  const Profiles& profiles_;
  PhaseTimes& times_;
  std::vector<Load> loads_;
  std::vector<Transfer> transfers_;
  std::vector<std::uint32_t> unused_;     // places in transfers_
  std::vector<std::uint32_t> requested_;  // messages that may begin now
  std::vector<Link> links_;
  EventQueue queue_;
};

}  // namespace

void run_exclusive(Program& program, const Dag& dag, const ExecutionOptions& options) {
  ExclusiveRun(program, dag, options).run();
}

PhaseTimes run_slowed(Program& program, const Dag& dag, const LoweredSchedule& schedule,
                      const CostModel& cost, const ExecutionOptions& options) {
  const Profiles profiles = ProfileBuilder(schedule, dag, cost, options).build();
  PhaseTimes times;
  if (profiles.phases.size() + 1 > profiles.begin.size()) {
    times.first.reserve(profiles.of_action.size() + 1);
    std::uint32_t first = 0;
    for (const std::uint32_t profile : profiles.of_action) {
      times.first.push_back(first);
      first += profiles.begin[profile + 1] - profiles.begin[profile];
    }
    times.first.push_back(first);
    times.undisturbed.resize(first);
    times.real.resize(first);
  }
  SlowedRun(program, dag, options, profiles, times).run();
  return times;
}

}  // namespace plumb
