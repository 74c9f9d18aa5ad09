// Messages that wait for each other, beside computation that nothing disturbs.
#include "schedules/ir/error.hpp"
#include "sim/event_queue.hpp"
#include "sim/program.hpp"

#include <algorithm>

namespace plumb {
namespace {

using Kind = Program::Kind;

class LinkRun {
 public:
  LinkRun(Program& program, const Dag& dag, const ExecutionOptions& options)
      : program_(program),
        dag_(dag),
        shared_(options.links_are_shared || options.duplex == Duplex::half),
        free_(program.links, 0),
        ranks_(dag.ranks()),
        order_(dag.ranks()),
        queue_(dag.ranks()) {}

  void run() {
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].item = program_.item_begin[r];
      ranks_[r].item_end = program_.item_begin[r + 1];
      ranks_[r].action = dag_.rank_begin[r];
    }
    for (std::uint32_t r = 0; r < ranks_.size(); ++r) advance(r, 0);
    while (queue_.next() != EventOrder::never) {
      handle(order_.actor(queue_.next()), order_.time(queue_.next()));
    }
    for (const RankState& rank : ranks_) PLUMB_CHECK(rank.item == rank.item_end);
  }

 private:
  enum class Phase : std::uint8_t { stands, until_early_send, until_end, until_group };
  struct RankState {
    std::uint32_t item = 0;
    std::uint32_t item_end = 0;
    std::uint32_t action = 0;
    std::uint32_t waiting_for = Dag::none;  // a message, while it stands before an action
    std::int64_t at = 0;                    // since when it has been ready for its next action
    std::int64_t group_end = 0;             // of the messages of the group at hand that are known
    std::uint32_t group_open = 0;           // messages of the group whose end is not known
    Phase phase = Phase::stands;
  };

  void handle(std::uint32_t r, std::int64_t now) {
    RankState& rank = ranks_[r];
    const Phase phase = rank.phase;
    rank.phase = Phase::stands;
    switch (phase) {
      case Phase::until_early_send:
        post_send(program_.items[rank.item + 1].message(), now);
        rank.phase = Phase::until_end;
        set_event(r, program_.actions[rank.action].end);
        return;
      case Phase::until_end:
        ++rank.action;
        ++rank.item;
        break;
      default:
        break;
    }
    advance(r, now);
    if (rank.phase == Phase::stands) queue_.clear(r);
  }

  // Runs through the rank's list up to where it has to wait or to compute.
  void advance(std::uint32_t r, std::int64_t now) {
    RankState& rank = ranks_[r];
    for (; rank.item < rank.item_end; ++rank.item) {
      const Program::Item item = program_.items[rank.item];
      switch (item.kind()) {
        case Kind::action:
          rank.at = now;
          start(r);
          return;
        case Kind::send:
          if (program_.messages[item.message()].send_ready == Program::unknown)
            post_send(item.message(), now);
          break;
        case Kind::receive:
          post_receive(item.message(), now);
          break;
        case Kind::group_send:
          post_send(item.message(), now);
          join_group(rank, item.message(), now);
          break;
        case Kind::group_receive:
          post_receive(item.message(), now);
          join_group(rank, item.message(), now);
          break;
        case Kind::wait:
          if (rank.group_open > 0) return;
          if (rank.group_end > now) {
            leave_group(r);
            return;
          }
          rank.group_end = 0;
          break;
      }
    }
  }

  void join_group(RankState& rank, std::uint32_t m, std::int64_t now) {
    rank.group_end = std::max(rank.group_end, now);
    const std::int64_t end = program_.messages[m].end;
    if (end == Program::unknown) {
      ++rank.group_open;
    } else {
      rank.group_end = std::max(rank.group_end, end);
    }
  }

  // The end of the group is known and lies ahead. Where an action is next, nothing needs an event before it.
  void leave_group(std::uint32_t r) {
    RankState& rank = ranks_[r];
    ++rank.item;
    const std::int64_t end = rank.group_end;
    rank.group_end = 0;
    if (rank.item < rank.item_end && program_.items[rank.item].kind() == Kind::action) {
      rank.at = end;
      start(r);
    } else {
      rank.phase = Phase::until_group;
      set_event(r, end);
    }
  }

  // Begins the action that the rank stands before, if the ends of its inputs are known.
  void start(std::uint32_t r) {
    RankState& rank = ranks_[r];
    Program::Action& action = program_.actions[rank.action];
    std::int64_t begin = rank.at;
    for (const std::uint32_t m : action.input) {
      if (m == Dag::none) continue;
      const std::int64_t end = program_.messages[m].end;
      if (end == Program::unknown) {
        rank.waiting_for = m;
        return;
      }
      begin = std::max(begin, end);
    }
    rank.waiting_for = Dag::none;
    action.begin = begin;
    action.end = begin + action.duration;
    rank.phase = Phase::until_end;
    std::int64_t event = action.end;
    if (rank.item + 1 < rank.item_end) {
      const Program::Item next = program_.items[rank.item + 1];
      if (next.kind() == Kind::send && program_.messages[next.message()].early) {
        rank.phase = Phase::until_early_send;
        event += dag_.lags[dag_.messages[next.message()].early];
      }
    }
    set_event(r, event);
    program_.prefetch(rank.item + 1, rank.action + 1);
  }

  void post_send(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    message.send_ready = now;
    if (message.meets && message.receive_posted == Program::unknown) return;
    transfer(message, now);
    const auto r = static_cast<std::uint32_t>(message.to);
    RankState& receiver = ranks_[r];
    if (message.meets) {
      close_one(r, message.end);
    } else if (receiver.waiting_for == m) {
      start(r);
    }
  }

  void post_receive(std::uint32_t m, std::int64_t now) {
    Program::Message& message = program_.messages[m];
    message.receive_posted = now;
    if (!message.meets || message.send_ready == Program::unknown) return;
    transfer(message, now);
    if (message.group_send) close_one(static_cast<std::uint32_t>(message.from), message.end);
  }

  void transfer(Program::Message& message, std::int64_t now) {
    message.begin = shared_ ? std::max(now, free_[message.link]) : now;
    message.end = message.begin + message.transfer;
    free_[message.link] = message.end;
  }

  // A rank that stands in a group learns the end of one of its messages.
  void close_one(std::uint32_t r, std::int64_t end) {
    RankState& rank = ranks_[r];
    rank.group_end = std::max(rank.group_end, end);
    if (--rank.group_open == 0) leave_group(r);
  }

  void set_event(std::uint32_t r, std::int64_t time) { queue_.set(r, order_.place(time, r)); }

  Program& program_;
  const Dag& dag_;
  bool shared_;
  std::vector<std::int64_t> free_;  // [link] when its last transfer ends
  std::vector<RankState> ranks_;
  EventOrder order_;
  EventQueue queue_;
};

}  // namespace

void run_links(Program& program, const Dag& dag, const ExecutionOptions& options) {
  LinkRun(program, dag, options).run();
}

}  // namespace plumb
