// Messages and computation that slow each other.
//
// Most messages are over before anything else happens at their two ranks. So the end of a message is an event
// only where somebody waits for it: the receiver before its action, a rank in its group, the next message on
// the link. Any other end passes silently: it is known when the message begins, the ends of the two ranks'
// actions are set with it in mind, and whoever next touches one of the ranks settles what it did. Results are
// the same to the last nanosecond, because a pace changes at the same times in the same order.
#include "schedules/ir/error.hpp"
#include "sim/arithmetic.hpp"
#include "sim/contention.hpp"
#include "sim/disturbance.hpp"
#include "sim/event_queue.hpp"
#include "sim/list_walk.hpp"

#include <algorithm>
#include <limits>

namespace plumb {
namespace {

// Whole nanoseconds at full speed and the general case apart: most of the time nothing is slowed.
std::int64_t time_left(std::int64_t work, std::int64_t slowdown) {
  return slowdown == million ? (work + million - 1) / million : time_for_work(work, slowdown);
}
std::int64_t work_done(std::int64_t time, std::int64_t slowdown) {
  return slowdown == million ? time * million : work_in_time(time, slowdown);
}

// Work that goes on at some pace.
struct Progress {
  std::int64_t work = 0;     // left, as of `settled`
  std::int64_t settled = 0;  // when
  std::int64_t slowdown = million;

  std::int64_t end() const { return settled + time_left(work, slowdown); }
  void settle(std::int64_t now) {
    work = std::max<std::int64_t>(0, work - work_done(now - settled, slowdown));
    settled = now;
  }
};

class SlowedRun : ListWalk<SlowedRun> {
 public:
  SlowedRun(Program& program, const Dag& dag, const ExecutionOptions& options, const Disturbance& disturbance,
            PhaseTimes& times)
      : ListWalk(program, dag),
        shared_(options.links_are_shared || options.duplex == Duplex::half),
        disturbance_(disturbance),
        times_(times),
        loads_(dag.ranks()),
        links_(program.links),
        order_(dag.ranks() + program.links),
        rank_events_(dag.ranks()),
        link_events_(program.links) {}

  void run() {
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
      touch(r);
      advance(r, 0);
      begin_requested(0);
    }
    foresee_touched();
    while (true) {
      const std::uint64_t next = std::min(rank_events_.next(), link_events_.next());
      if (next == EventOrder::never) break;
      reached_ = std::max(reached_, next);
      const std::uint32_t actor = order_.actor(next);
      if (actor < ranks_.size()) {
        phase_ended(actor, order_.time(next));
      } else {
        awaited_message_ended(actor - static_cast<std::uint32_t>(ranks_.size()), order_.time(next));
      }
      foresee_touched();
    }
    check_finished();
  }

 private:
  friend ListWalk<SlowedRun>;

  // What runs on a rank.
  struct Load {
    Progress phase;
    std::int64_t undisturbed = 0;         // the phase's end with nothing beside the action, since it began
    std::int64_t slows = million;         // what it does to messages now
    std::uint32_t at_phase = 0;           // into Disturbance::phases
    std::uint32_t phase_end = 0;          // behind the action's last
    std::uint32_t waits_for = Dag::none;  // into transfers_, where the rank stands before an action
    bool computing = false;
    bool touched = false;
    std::vector<std::uint32_t> transfers;  // at this rank, into transfers_; some may be over
  };
  // A message on its way.
  struct Transfer {
    Progress progress;
    std::int64_t end = 0;
    std::uint64_t over = EventOrder::never;  // the place of an end that passes silently
    std::uint32_t message = Dag::none;
    std::uint32_t lists = 0;  // of Load::transfers that name it
  };
  struct Link {
    std::uint32_t active = 0;            // the last that began, into transfers_
    std::uint64_t busy_until = 0;        // Transfer::over of it, 0 after an end that was awaited
    std::vector<std::uint32_t> waiting;  // messages, first come first
    std::size_t first_waiting = 0;
    std::vector<std::uint32_t> awaited;  // into transfers_: those whose ends are events
    bool has_waiting() const { return first_waiting < waiting.size(); }
  };

  // --- the ranks' side

  void action_ready(std::uint32_t r, std::int64_t now) {
    Load& load = loads_[r];
    const std::uint32_t action = ranks_[r].action;
    program_.actions[action].begin = now;
    const std::uint32_t recipe = program_.items[ranks_[r].item].recipe();
    load.computing = true;
    load.waits_for = Dag::none;
    load.at_phase = disturbance_.begin[recipe];
    load.phase_end = disturbance_.begin[recipe + 1];
    load.undisturbed = 0;
    begin_phase(r, now);
    program_.prefetch(ranks_[r].item + 1, action + 1);
  }

  void begin_phase(std::uint32_t r, std::int64_t now) {
    touch(r);
    Load& load = loads_[r];
    const Phase& phase = disturbance_.phases[load.at_phase];
    // The recipe's figures, stretched where the action lasts longer or shorter than its recipe (a slow rank,
    // an override).
    const std::int64_t duration = program_.actions[ranks_[r].action].duration;
    const std::int64_t end = load.at_phase + 1 == load.phase_end
                                 ? duration
                                 : stretch(phase.end, disturbance_.phases[load.phase_end - 1].end, duration);
    load.phase = {to_work(end - load.undisturbed), now, load.transfers.empty() ? million : phase.slowdown};
    load.undisturbed = end;
    change_pace(load, now, phase.slows);
  }

  void phase_ended(std::uint32_t r, std::int64_t now) {
    touch(r);
    Load& load = loads_[r];
    if (!times_.first.empty()) {
      const std::uint32_t action = ranks_[r].action;
      const std::uint32_t at = times_.first[action + 1] - (load.phase_end - load.at_phase);
      times_.undisturbed[at] = load.undisturbed;
      times_.real[at] = now;
    }
    if (disturbance_.phases[load.at_phase].releases) {
      const std::uint32_t m = early_send(ranks_[r]);
      if (m != Dag::none) post_send(m, now);
    }
    if (++load.at_phase < load.phase_end) {
      begin_phase(r, now);
    } else {
      load.computing = false;
      action_ended(r, now);
      if (!load.computing) change_pace(load, now, million);
    }
    begin_requested(now);
  }

  // The rank's computation leaves messages another pace from now on.
  void change_pace(Load& load, std::int64_t now, std::int64_t slows) {
    if (load.slows == slows) return;
    load.slows = slows;
    for (const std::uint32_t t : load.transfers) {
      Transfer& transfer = transfers_[t];
      const Program::Message& message = program_.messages[transfer.message];
      const std::int64_t slowdown = pace(message);
      if (slowdown == transfer.progress.slowdown) continue;
      transfer.progress.settle(now);
      transfer.progress.slowdown = slowdown;
      for (const std::uint32_t r : ends_of(message)) touch(r);
      set_end(t, transfer.over == EventOrder::never);
    }
  }

  std::int64_t pace(const Program::Message& message) const {
    return std::max(loads_[static_cast<std::size_t>(message.from)].slows,
                    loads_[static_cast<std::size_t>(message.to)].slows);
  }

  // What is about to change at a rank has to know what passed silently before; when all is done, its next
  // event is foreseen anew.
  void touch(std::uint32_t r) {
    Load& load = loads_[r];
    if (load.touched) return;
    load.touched = true;
    touched_.push_back(r);
    if (!load.transfers.empty()) forget_what_is_over(load);
  }

  void forget_what_is_over(Load& load) {
    std::int64_t last = 0;
    std::erase_if(load.transfers, [&](std::uint32_t t) {
      if (transfers_[t].over >= reached_) return false;
      last = std::max(last, transfers_[t].end);
      release(t);
      return true;
    });
    if (load.transfers.empty()) at_full_speed(load, last);
  }

  static void at_full_speed(Load& load, std::int64_t now) {
    if (!load.computing || load.phase.slowdown == million) return;
    load.phase.settle(now);
    load.phase.slowdown = million;
  }

  void foresee_touched() {
    for (const std::uint32_t r : touched_) {
      Load& load = loads_[r];
      load.touched = false;
      rank_events_.set(r, next_event(load, r));
    }
    touched_.clear();
  }

  // The end of the phase, or of the message that the rank stands and waits for.
  std::uint64_t next_event(const Load& load, std::uint32_t r) const {
    if (load.computing) return order_.place(phase_end(load), r);
    if (load.waits_for == Dag::none) return EventOrder::never;
    const Transfer& transfer = transfers_[load.waits_for];
    return place_of_end(program_.messages[transfer.message].link, transfer.end);
  }

  // As far as one can see: slowed until the last message there is over, and at full speed from then on.
  std::int64_t phase_end(const Load& load) const {
    if (load.phase.slowdown == million) return load.phase.end();
    std::int64_t last = 0;
    for (const std::uint32_t t : load.transfers) last = std::max(last, transfers_[t].end);
    const std::int64_t left = load.phase.work - work_done(last - load.phase.settled, load.phase.slowdown);
    return left > 0 ? last + time_left(left, million) : load.phase.end();
  }

  // --- the messages' side

  // An action that begins at the same time settles a transfer's pace first, so requests are only noted.
  void request(std::uint32_t m, std::int64_t) { requested_.push_back(m); }

  void begin_requested(std::int64_t now) {
    for (std::size_t i = 0; i < requested_.size(); ++i) {
      const std::uint32_t m = requested_[i];
      Link& link = links_[program_.messages[m].link];
      if (shared_ && link.busy_until > reached_) {
        link.waiting.push_back(m);
        await(link.active);
        set_link_event(program_.messages[m].link);
      } else {
        begin_transfer(m, now);
      }
    }
    requested_.clear();
  }

  void begin_transfer(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    message.begin = now;
    const std::uint32_t t = unused_transfer();
    Transfer& transfer = transfers_[t];
    transfer.message = m;
    transfer.lists = 2;
    transfer.progress = {to_work(message.transfer), now, pace(message)};
    for (const std::uint32_t r : ends_of(message)) {
      touch(r);
      Load& load = loads_[r];
      load.transfers.push_back(t);
      if (load.transfers.size() == 1 && load.computing) {
        load.phase.settle(now);
        load.phase.slowdown = disturbance_.phases[load.at_phase].slowdown;
      }
    }
    Link& link = links_[message.link];
    link.active = t;
    transfer.over = 0;
    set_end(t, message.group_send || message.meets || link.has_waiting());
    const auto to = static_cast<std::uint32_t>(message.to);
    if (ranks_[to].waiting_for == m) stand_and_wait(to, t);
  }

  // The end follows from the progress. It is an event if it is awaited, or if the order of things has passed
  // it already (a message of no length).
  void set_end(std::uint32_t t, bool awaited) {
    Transfer& transfer = transfers_[t];
    Program::Message& message = program_.messages[transfer.message];
    Link& link = links_[message.link];
    transfer.end = transfer.progress.end();
    const std::uint64_t place = place_of_end(message.link, transfer.end);
    if (!awaited && place > reached_) {
      message.end = transfer.end;
      transfer.over = place;
    } else {
      await(t);
      set_link_event(message.link);
    }
    if (link.active == t) link.busy_until = transfer.over;
  }

  // Makes the end of a message that is on its way an event.
  void await(std::uint32_t t) {
    Transfer& transfer = transfers_[t];
    if (transfer.over == EventOrder::never) return;
    transfer.over = EventOrder::never;
    Program::Message& message = program_.messages[transfer.message];
    message.end = Program::unknown;
    Link& link = links_[message.link];
    if (link.active == t) link.busy_until = EventOrder::never;
    link.awaited.push_back(t);
  }

  void stand_and_wait(std::uint32_t r, std::uint32_t t) {
    await(t);
    loads_[r].waits_for = t;
    touch(r);
  }

  bool has_ended(std::uint32_t m) const {
    const Program::Message& message = program_.messages[m];
    return message.end != Program::unknown && place_of_end(message.link, message.end) <= reached_;
  }

  void awaited(std::uint32_t r, std::uint32_t m) {
    loads_[r].waits_for = Dag::none;
    for (const std::uint32_t t : loads_[r].transfers) {
      if (transfers_[t].message == m) return stand_and_wait(r, t);
    }
  }

  void awaited_message_ended(std::uint32_t l, std::int64_t now) {
    // One transfer; where several end now, the queue names the link again.
    Link& link = links_[l];
    const auto ended = std::find_if(link.awaited.begin(), link.awaited.end(),
                                    [&](std::uint32_t t) { return transfers_[t].end == now; });
    PLUMB_CHECK(ended != link.awaited.end());
    const std::uint32_t t = *ended;
    const std::uint32_t m = transfers_[t].message;
    link.awaited.erase(ended);
    if (link.active == t) link.busy_until = 0;
    for (const std::uint32_t r : ends_of(program_.messages[m])) {
      touch(r);
      Load& load = loads_[r];
      std::erase(load.transfers, t);
      release(t);
      if (load.transfers.empty()) at_full_speed(load, now);
    }
    if (link.has_waiting()) {
      requested_.push_back(link.waiting[link.first_waiting++]);
      if (!link.has_waiting()) {
        link.waiting.clear();
        link.first_waiting = 0;
      }
    }
    set_link_event(l);
    transfer_ended(m, now);
    begin_requested(now);
  }

  void set_link_event(std::uint32_t l) {
    std::uint64_t next = EventOrder::never;
    for (const std::uint32_t t : links_[l].awaited) next = std::min(next, place_of_end(l, transfers_[t].end));
    link_events_.set(l, next);
  }

  std::uint64_t place_of_end(std::uint32_t link, std::int64_t time) const {
    return order_.place(time, static_cast<std::uint32_t>(ranks_.size()) + link);
  }

  std::uint32_t unused_transfer() {
    if (unused_.empty()) {
      transfers_.emplace_back();
      return static_cast<std::uint32_t>(transfers_.size()) - 1;
    }
    const std::uint32_t t = unused_.back();
    unused_.pop_back();
    return t;
  }
  void release(std::uint32_t t) {
    if (--transfers_[t].lists == 0) unused_.push_back(t);
  }

  bool shared_;
  const Disturbance& disturbance_;
  PhaseTimes& times_;
  std::vector<Load> loads_;
  std::vector<Link> links_;
  std::vector<Transfer> transfers_;
  std::vector<std::uint32_t> unused_;     // places in transfers_
  std::vector<std::uint32_t> requested_;  // messages that may begin now
  std::vector<std::uint32_t> touched_;    // ranks
  EventOrder order_;
  std::uint64_t reached_ = 0;  // the furthest place in the order that there has been an event at
  EventQueue rank_events_;     // [rank] see next_event()
  EventQueue link_events_;  // [link] the first end of its messages that a group or the next message waits for
};

}  // namespace

PhaseTimes run_slowed(Program& program, const Dag& dag, const CostModel& cost,
                      const ExecutionOptions& options) {
  const Disturbance made = disturbance(program, dag, cost, options);
  PhaseTimes times;
  if (!made.has_single_phases()) {
    times.first.reserve(program.actions.size() + 1);
    std::uint32_t first = 0;
    for (const Program::Item item : program.items) {
      if (item.kind() != Program::Kind::action) continue;
      times.first.push_back(first);
      first += made.begin[item.recipe() + 1] - made.begin[item.recipe()];
    }
    times.first.push_back(first);
    times.undisturbed.resize(first);
    times.real.resize(first);
  }
  SlowedRun(program, dag, options, made, times).run();
  return times;
}

}  // namespace plumb
