// Choices that change time but not order. The simulator and the fake backend take the same value.
#pragma once
#include "schedules/ir/ids.hpp"

#include <cstdint>
#include <map>
#include <utility>

namespace plumb {

/// When the outputs of an overlapped pair leave: both at its end, or the forward's when the forward is done.
enum class PairRelease : std::uint8_t { atomic, forward_first };
/// Whether the two directions of a link carry at full speed at once or take turns.
enum class Duplex : std::uint8_t { full, half };

struct ExecutionOptions {
  PairRelease pair_release = PairRelease::atomic;
  Duplex duplex = Duplex::full;
  /// Messages on one link wait for each other (bandwidth is shared out in turn). Off: every message has the
  /// link to itself, the zero-bubble papers' model.
  bool links_are_shared = false;
  /// A transfer keeps both of its ranks from computing.
  bool transfers_occupy_compute = false;
  /// Work on a rank's two lanes, and messages, slow each other by CostModel::slowdown_ppm. Pairs are always
  /// derived with it; this extends it to messages beside computation.
  bool messages_slow_compute = false;
  /// What if: a rank that computes 1.1 times as long, in millionths (1,100,000).
  std::map<Rank, std::uint32_t> slow_ranks_ppm;
  /// What if: a directed link whose messages take that much longer, in millionths.
  std::map<std::pair<Rank, Rank>, std::uint32_t> slow_links_ppm;

  bool operator==(const ExecutionOptions&) const = default;
};

}  // namespace plumb
