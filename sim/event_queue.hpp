// What happens next. Private to sim.
#pragma once
#include "schedules/ir/error.hpp"

#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

namespace plumb {

/// The one order in which things happen: by time, and at one time by the number of the actor. A place in it
/// is one word, so that comparing is one instruction. It leaves 13 days for 4,096 ranks and their links.
class EventOrder {
 public:
  static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

  explicit EventOrder(std::uint32_t actors)
      : bits_(static_cast<std::uint32_t>(std::bit_width(actors - 1))),
        latest_(std::numeric_limits<std::int64_t>::max() >> bits_) {}

  /// Throws BadInput for a time so late that it does not fit beside the actor.
  std::uint64_t place(std::int64_t time, std::uint32_t actor) const {
    if (time >= latest_) throw BadInput("the step", "lasts too long for this many ranks to share links");
    return (static_cast<std::uint64_t>(time) << bits_) | actor;
  }
  std::int64_t time(std::uint64_t place) const { return static_cast<std::int64_t>(place >> bits_); }
  std::uint32_t actor(std::uint64_t place) const {
    return static_cast<std::uint32_t>(place) & ((std::uint32_t{1} << bits_) - 1);
  }

 private:
  std::uint32_t bits_;
  std::int64_t latest_;
};

/// The next event of each of a fixed number of entries, and the first of them all. A tournament: a complete
/// binary tree whose nodes hold the earlier of their two children. Changing an entry walks one path and
/// compares with siblings at known places, so it neither searches nor allocates nor branches on which is
/// earlier, which is as good as random.
class EventQueue {
 public:
  explicit EventQueue(std::uint32_t entries)
      : leaves_(std::bit_ceil(entries)), tree_(2 * leaves_, EventOrder::never) {}

  /// Its place in the order; EventOrder::never where there is none.
  std::uint64_t next() const { return tree_[1]; }

  void set(std::uint32_t entry, std::uint64_t place) {
    std::uint64_t* const tree = tree_.data();
    std::size_t i = leaves_ + entry;
    if (tree[i] == place) return;
    tree[i] = place;
    while (i > 1) {
      const std::uint64_t sibling = tree[i ^ 1];
      place = sibling < place ? sibling : place;
      i /= 2;
      tree[i] = place;
    }
  }
  void clear(std::uint32_t entry) { set(entry, EventOrder::never); }

 private:
  std::size_t leaves_;
  std::vector<std::uint64_t> tree_;  // [1] is the root, [leaves_ + entry] an entry's own
};

}  // namespace plumb
