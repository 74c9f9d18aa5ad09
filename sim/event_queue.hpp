// The next event of a fixed set of actors, each of which has at most one ahead of it. Private to sim.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

namespace plumb {

/// A tournament: a complete binary tree whose nodes hold the earlier of their two children. Changing an
/// actor's time walks one path and compares with siblings at known places, so it neither searches nor
/// allocates. Among equal times the actor with the lowest number comes first.
class EventQueue {
 public:
  static constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max() / 2;

  struct Event {
    std::int64_t time;
    std::uint32_t actor;
    bool operator==(const Event&) const = default;
  };

  explicit EventQueue(std::uint32_t actors) {
    while (leaves_ < actors) leaves_ *= 2;
    tree_.resize(std::size_t{2} * leaves_);
    for (std::uint32_t i = 0; i < leaves_; ++i) tree_[leaves_ + i] = {never, i};
    for (std::uint32_t i = leaves_ - 1; i > 0; --i) tree_[i] = tree_[2 * i];
  }

  const Event& next() const { return tree_[1]; }
  std::int64_t time_of(std::uint32_t actor) const { return tree_[leaves_ + actor].time; }

  void set(std::uint32_t actor, std::int64_t time) {
    std::uint32_t i = leaves_ + actor;
    Event winner{time, actor};
    tree_[i] = winner;
    while (i > 1) {
      const Event& sibling = tree_[i ^ 1];
      // A left sibling (of an odd node) has lower numbers and wins ties.
      if (sibling.time < winner.time + static_cast<std::int64_t>(i & 1)) winner = sibling;
      i /= 2;
      if (tree_[i] == winner) return;
      tree_[i] = winner;
    }
  }

 private:
  std::uint32_t leaves_ = 1;
  std::vector<Event> tree_;  // [1] is the root, [leaves_ + actor] an actor's own
};

}  // namespace plumb
