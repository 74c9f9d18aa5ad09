// A lowered schedule as the event-driven engines run it: what every rank launches, waits for and computes, in
// flat arrays with the state of every action and message. Private to sim.
#pragma once
#include "sim/dag.hpp"

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

namespace plumb {

struct Program {
  /// Items of a rank's list: an action, a message launched where it stands, or a group of messages and the
  /// place where the rank waits for all of them. A receive that is launched as its action ends keeps nobody
  /// and begins nothing, so it has no item: Dag::Message says when it was posted.
  enum class Kind : std::uint32_t { action, send, receive, group_send, group_receive, wait };
  struct Item {
    std::uint32_t code;
    Kind kind() const { return static_cast<Kind>(code >> 28); }
    std::uint32_t message() const { return code & 0x0fffffff; }
    /// Of an action: 4 * stage + kind (stage 0 where all cost the same), or behind those the number of a
    /// pair.
    std::uint32_t recipe() const { return code & 0x0fffffff; }
  };

  static constexpr std::int64_t unknown = -1;

  struct Action {
    std::int64_t begin = unknown;
    std::int64_t end = unknown;
    std::int64_t duration = 0;                                 // with nothing beside it
    std::array<std::uint32_t, 2> input{Dag::none, Dag::none};  // messages
  };
  /// One cache line: both sides and the link work on it.
  struct alignas(64) Message {
    std::int64_t send_ready = unknown;
    std::int64_t receive_posted = unknown;
    std::int64_t begin = unknown;
    std::int64_t end = unknown;
    std::int64_t transfer = 0;  // how long it takes with the link to itself
    std::int32_t from = 0;
    std::int32_t to = 0;
    std::uint32_t link = 0;
    bool meets = false;       // the receiver stands until it is done, so it begins when both sides are there
    bool group_send = false;  // the sender stands until it is done
    bool early = false;       // a pair's forward, released ahead of the pair's end
  };

  std::vector<std::uint32_t> item_begin;  // [rank], one more at the end
  std::vector<Item> items;
  std::vector<Action> actions;       // numbered like Dag::nodes
  std::vector<Message> messages;     // numbered like Dag::messages
  std::vector<plumb::Action> pairs;  // one of each two stages that overlap somewhere, as recipes number them
  std::uint32_t links = 0;  // directed pairs of ranks that exchange messages; undirected under half duplex

  /// Fetches what a rank needs when its next action is over: by then the other ranks' events have pushed it
  /// out of the nearest caches.
  void prefetch(std::uint32_t next_item, std::uint32_t next_action) const {
    if (next_item + 4 > items.size() || next_action >= actions.size()) return;
    __builtin_prefetch(&actions[next_action], 1);
    for (std::uint32_t i = next_item; i < next_item + 4; ++i) {
      const std::uint32_t kind = items[i].code >> 28;
      if (kind != static_cast<std::uint32_t>(Kind::action) &&
          kind != static_cast<std::uint32_t>(Kind::wait)) {
        __builtin_prefetch(&messages[items[i].message()], 1);
      }
    }
  }
};

Program compile(const LoweredSchedule& schedule, const Dag& dag, const ExecutionOptions& options);

/// Runs a program in which messages may wait for each other, on a link or in a group, and nothing slows or
/// keeps anything from computing: a transfer's end is known when it begins, so only the ranks have events.
void run_links(Program& program, const Dag& dag, const ExecutionOptions& options);

}  // namespace plumb
