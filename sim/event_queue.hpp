// The next event of a fixed set of actors, each of which has at most one ahead of it. Private to sim.
#pragma once
#include "schedules/ir/error.hpp"

#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

namespace plumb {

/// A tournament: a complete binary tree whose nodes hold the earlier of their two children. Changing an
/// actor's time walks one path and compares with siblings at known places, so it neither searches nor
/// allocates nor branches on which is earlier, which is as good as random. Time and actor share one word, so
/// that among equal times the actor with the lowest number comes first; it leaves 13 days for 4,096 ranks and
/// their links.
class EventQueue {
 public:
  static constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();

  struct Event {
    std::int64_t time;
    std::uint32_t actor;
  };

  explicit EventQueue(std::uint32_t actors)
      : leaves_(std::bit_ceil(actors)),
        bits_(static_cast<std::uint32_t>(std::countr_zero(leaves_))),
        latest_(never >> bits_),
        tree_(std::size_t{2} * leaves_, idle) {}

  Event next() const {
    if (tree_[1] == idle) return {never, 0};
    return {static_cast<std::int64_t>(tree_[1] >> bits_),
            static_cast<std::uint32_t>(tree_[1]) & (leaves_ - 1)};
  }

  /// Throws BadInput for a time so late that it does not fit beside the actor.
  void set(std::uint32_t actor, std::int64_t time) {
    if (time >= latest_) throw BadInput("the step", "lasts too long for this many ranks to share links");
    update(actor, (static_cast<std::uint64_t>(time) << bits_) | actor);
  }
  void clear(std::uint32_t actor) { update(actor, idle); }

 private:
  static constexpr std::uint64_t idle = std::numeric_limits<std::uint64_t>::max();

  void update(std::uint32_t actor, std::uint64_t key) {
    std::uint32_t i = leaves_ + actor;
    tree_[i] = key;
    while (i > 1) {
      const std::uint64_t sibling = tree_[i ^ 1];
      key = sibling < key ? sibling : key;
      i /= 2;
      tree_[i] = key;
    }
  }

  std::uint32_t leaves_;
  std::uint32_t bits_;
  std::int64_t latest_;
  std::vector<std::uint64_t> tree_;  // [1] is the root, [leaves_ + actor] an actor's own
};

}  // namespace plumb
