// How a rank gets through its list while messages and computation disturb each other. Private to sim.
#pragma once
#include "schedules/ir/error.hpp"
#include "sim/program.hpp"

#include <array>
#include <cstdint>
#include <vector>

namespace plumb {

/// Walks the ranks' lists and lets messages meet, the same whatever a transfer disturbs. `Derived` has
///   void request(m, now)       the transfer may begin
///   void action_ready(r, now)  rank r stands before an action whose inputs are all there
///   bool has_ended(m)          the data of message m is there
///   void awaited(r, m)         rank r stands before an action and waits for message m
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

  static std::array<std::uint32_t, 2> ends_of(const Program::Message& message) {
    return {static_cast<std::uint32_t>(message.from), static_cast<std::uint32_t>(message.to)};
  }

  void check_finished() const {
    for (const RankState& rank : ranks_) PLUMB_CHECK(rank.item == rank.item_end);
  }

  void advance(std::uint32_t r, std::int64_t now) {
    RankState& rank = ranks_[r];
    for (; rank.item < rank.item_end; ++rank.item) {
      const Program::Item item = program_.items[rank.item];
      const std::uint32_t m = item.message();
      // Most items are actions and sends of their own; these two are told apart by a branch that can be
      // foreseen.
      if (item.kind() == Program::Kind::action) return look_at_inputs(r, now);
      if (item.kind() == Program::Kind::send) {
        if (program_.messages[m].send_ready == Program::unknown) post_send(m, now);
        continue;
      }
      switch (item.kind()) {
        default:
          break;
        case Program::Kind::receive:
          post_receive(m, now);
          break;
        case Program::Kind::group_send:
          ++rank.group_open;
          post_send(m, now);
          break;
        case Program::Kind::group_receive:
          ++rank.group_open;
          post_receive(m, now);
          break;
        case Program::Kind::wait:
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
    return next.kind() == Program::Kind::send && program_.messages[next.message()].early ? next.message()
                                                                                         : Dag::none;
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
      if (m == Dag::none || self().has_ended(m)) continue;
      rank.waiting_for = m;
      self().awaited(r, m);
      return;
    }
    self().action_ready(r, now);
  }
};

}  // namespace plumb
