// Transfers that keep both their ranks from computing.
#include "schedules/ir/error.hpp"
#include "sim/contention.hpp"
#include "sim/event_queue.hpp"
#include "sim/list_walk.hpp"

#include <algorithm>
#include <limits>

namespace plumb {
namespace {

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
        order_(dag.ranks() + program.links),
        queue_(dag.ranks() + program.links) {}

  void run() {
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) advance(r, 0);
    begin_what_may(0);
    while (queue_.next() != EventOrder::never) {
      const std::int64_t now = order_.time(queue_.next());
      for (std::uint64_t next = queue_.next(); order_.time(next) == now; next = queue_.next()) {
        const std::uint32_t actor = order_.actor(next);
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
      set_event(r, program_.actions[ranks_[r].action].end);
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
      for (const std::uint32_t r : ends_of(program_.messages[m])) {
        --held_[r];
        touch(r);
      }
    }
    for (const std::uint32_t m : ended_) transfer_ended(m, now);
  }

  void request(std::uint32_t m, std::int64_t) {
    links_[program_.messages[m].link].waiting.push_back(m);
    for (const std::uint32_t r : ends_of(program_.messages[m])) {
      ++held_[r];
      pending_[r].push_back(m);
      touch(r);
    }
  }

  void action_ready(std::uint32_t r, std::int64_t) {
    ready_[r] = true;
    touch(r);
  }

  bool has_ended(std::uint32_t m) const { return program_.messages[m].end != Program::unknown; }
  void awaited(std::uint32_t, std::uint32_t) const {}

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
    for (const std::uint32_t r : ends_of(program_.messages[m])) remove_one(pending_[r], m);
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
    set_event(r, sends_early_[r] ? action.end + dag_.lags[dag_.messages[early].early] : action.end);
  }

  void set_link_event(std::uint32_t l) {
    std::int64_t next = std::numeric_limits<std::int64_t>::max();
    for (const Transfer& transfer : links_[l].active) next = std::min(next, transfer.end);
    const std::uint32_t actor = static_cast<std::uint32_t>(ranks_.size()) + l;
    if (links_[l].active.empty()) {
      queue_.clear(actor);
    } else {
      set_event(actor, next);
    }
  }

  void set_event(std::uint32_t actor, std::int64_t time) { queue_.set(actor, order_.place(time, actor)); }

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
  EventOrder order_;
  EventQueue queue_;
};

}  // namespace

void run_exclusive(Program& program, const Dag& dag, const ExecutionOptions& options) {
  ExclusiveRun(program, dag, options).run();
}

}  // namespace plumb
