// A replay as plain as it can be, written apart from the checker and the simulator, to test them and the
// generators against. Integer costs; a rank runs its list in order, one action at a time; an action starts
// when the rank is free and every input is there; an overlapped pair starts when both of its inputs are there
// and releases both outputs at its end; a message from another rank takes `message` and occupies nothing.
#pragma once
#include "schedules/ir/schedule.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace plumb::test {

struct Costs {
  std::int64_t forward = 1;
  std::int64_t backward_input = 1;
  std::int64_t backward_weight = 1;
  std::int64_t backward = 2;
  std::int64_t overlapped = 3;
  std::int64_t message = 0;
};

struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

struct Replay {
  bool finished = false;                     // otherwise some rank waits for ever, and the rest is partial
  std::vector<std::vector<Interval>> times;  // [rank][position]
  std::int64_t makespan = 0;                 // the last end; the first op begins at 0
  std::int64_t span = 0;                     // the longest rank_span
  std::vector<std::int64_t> busy;            // [rank]
  std::vector<std::int64_t> rank_span;       // [rank] own last end - own first begin
  std::vector<std::int64_t> peak_live;       // [rank] +1 at forward, -1 at backward or backward_weight

  std::int64_t idle(std::size_t rank) const { return makespan - busy[rank]; }
  std::int64_t most_live() const;
};

Replay replay(const Schedule& schedule, const Costs& costs = {});

/// Every (stage, microbatch) exactly once forward, and backward either whole or in both halves, all on one
/// rank and in an order that ends. Empty when so, otherwise what is wrong first.
std::string fault(const Schedule& schedule);

}  // namespace plumb::test
