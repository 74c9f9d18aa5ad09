#include "sim/replay.hpp"

#include "schedules/ir/error.hpp"
#include "sim/dag.hpp"

#include <algorithm>

namespace plumb {

void replay(const Dag& dag, std::span<std::int64_t> ends) {
  PLUMB_CHECK(ends.size() == dag.nodes.size());
  // An end that is not known yet is negative: -1, or -2 - r where rank r waits for it (and next_waiter[r]
  // leads to the next rank that does).
  constexpr std::int64_t unknown = -1;
  std::fill(ends.begin(), ends.end(), unknown);
  struct Cursor {
    std::uint32_t next;
    std::uint32_t end;
    std::int64_t time;
  };
  const std::uint32_t ranks = dag.ranks();
  std::vector<Cursor> cursors(ranks);
  std::vector<std::int64_t> next_waiter(ranks, unknown);
  std::vector<std::uint32_t> runnable(ranks);
  for (std::uint32_t r = 0; r < ranks; ++r) {
    cursors[r] = {dag.rank_begin[r], dag.rank_begin[r + 1], 0};
    runnable[r] = ranks - 1 - r;
  }
  const Dag::Node* const nodes = dag.nodes.data();
  const std::int64_t* const lags = dag.lags.data();
  std::size_t done = 0;
  while (!runnable.empty()) {
    const std::uint32_t r = runnable.back();
    runnable.pop_back();
    Cursor& cursor = cursors[r];
    std::uint32_t n = cursor.next;
    std::int64_t time = cursor.time;
    for (; n < cursor.end; ++n) {
      const Dag::Node& node = nodes[n];
      bool waits = false;
      for (std::size_t k = 0; k < 2; ++k) {
        const std::uint32_t input = node.input[k];
        if (input == Dag::none) continue;
        const std::int64_t end = ends[input];
        if (end < 0) {
          next_waiter[r] = end;
          ends[input] = -2 - static_cast<std::int64_t>(r);
          waits = true;
          break;
        }
        time = std::max(time, end + lags[node.lag[k]]);
      }
      if (waits) break;
      time += node.duration;
      std::int64_t waiter = ends[n];
      ends[n] = time;
      while (waiter != unknown) {
        const auto woken = static_cast<std::uint32_t>(-2 - waiter);
        runnable.push_back(woken);
        waiter = next_waiter[woken];
      }
    }
    done += n - cursor.next;
    cursor.next = n;
    cursor.time = time;
  }
  PLUMB_CHECK(done == dag.nodes.size());
}

}  // namespace plumb
