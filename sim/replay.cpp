#include "sim/replay.hpp"

#include "schedules/ir/error.hpp"
#include "sim/dag.hpp"

#include <algorithm>
#include <bit>
#include <deque>
#include <limits>

namespace plumb {
namespace {

// The ranks that can go on, taken in turn: the next one above the last one taken, then from the bottom again.
// Going round in one direction lets a rank find both its neighbours' outputs, so that it does several actions
// a visit.
class Runnable {
 public:
  explicit Runnable(std::uint32_t ranks) : words_((ranks + 63) / 64) {}
  void add(std::uint32_t rank) { words_[rank / 64] |= std::uint64_t{1} << (rank % 64); }
  // The rank, or -1 where there is none.
  std::int64_t take() {
    const std::uint64_t above = words_[word_] & mask_;
    if (above != 0) return take_from(above);
    for (std::size_t i = 0; i < words_.size(); ++i) {
      word_ = word_ + 1 == words_.size() ? 0 : word_ + 1;
      if (words_[word_] != 0) return take_from(words_[word_]);
    }
    return -1;
  }

 private:
  std::int64_t take_from(std::uint64_t candidates) {
    const auto bit = static_cast<std::uint32_t>(std::countr_zero(candidates));
    words_[word_] &= ~(std::uint64_t{1} << bit);
    mask_ = ~std::uint64_t{0} << bit;  // its own bit too: a rank may be woken while it is the last one taken
    return static_cast<std::int64_t>(word_ * 64 + bit);
  }
  std::vector<std::uint64_t> words_;
  std::size_t word_ = 0;
  std::uint64_t mask_ = ~std::uint64_t{0};
};

}  // namespace

void replay(const Dag& dag, std::span<std::int64_t> ends) {
  PLUMB_CHECK(ends.size() == dag.nodes.size());
  if (ends.empty()) return;
  // An end that is not known yet is negative: -1, or -2 - r where rank r waits for it (and next_waiter of r
  // leads to the next rank that does).
  constexpr std::int64_t unknown = -1;
  std::fill(ends.begin(), ends.end(), unknown);
  struct Cursor {
    std::uint32_t next;
    std::uint32_t end;
    std::int64_t time;
    std::int64_t next_waiter;
  };
  const std::uint32_t ranks = dag.ranks();
  std::vector<Cursor> cursors(ranks);
  Runnable runnable(ranks);
  for (std::uint32_t r = 0; r < ranks; ++r) {
    cursors[r] = {dag.rank_begin[r], dag.rank_begin[r + 1], 0, unknown};
    runnable.add(r);
  }
  const Dag::Node* const nodes = dag.nodes.data();
  const std::int64_t* const lags = dag.lags.data();
  std::int64_t* const end_of = ends.data();
  std::size_t done = 0;
  for (std::int64_t taken = runnable.take(); taken >= 0; taken = runnable.take()) {
    Cursor& cursor = cursors[static_cast<std::size_t>(taken)];
    std::uint32_t n = cursor.next;
    std::int64_t time = cursor.time;
    const std::uint32_t last = cursor.end;
    for (; n < last; ++n) {
      const Dag::Node& node = nodes[n];
      if (node.input[0] != Dag::none) {
        const std::int64_t end = end_of[node.input[0]];
        if (end < 0) {
          cursor.next_waiter = end;
          end_of[node.input[0]] = -2 - taken;
          break;
        }
        time = std::max(time, end + lags[node.lag[0]]);
      }
      if (node.input[1] != Dag::none) {
        const std::int64_t end = end_of[node.input[1]];
        if (end < 0) {
          cursor.next_waiter = end;
          end_of[node.input[1]] = -2 - taken;
          break;
        }
        time = std::max(time, end + lags[node.lag[1]]);
      }
      time += node.duration;
      std::int64_t waiter = end_of[n];
      end_of[n] = time;
      while (waiter != unknown) {
        const auto woken = static_cast<std::uint32_t>(-2 - waiter);
        runnable.add(woken);
        waiter = cursors[woken].next_waiter;
      }
    }
    // The rank comes round again after all the others; by then these lines have left the nearest caches.
    __builtin_prefetch(nodes + n + 2);
    __builtin_prefetch(nodes + n + 5);
    __builtin_prefetch(end_of + n + 4, 1);
    done += n - cursor.next;
    cursor.next = n;
    cursor.time = time;
  }
  PLUMB_CHECK(done == dag.nodes.size());
}

namespace {

// All nodes, each behind what it waits for.
struct Order {
  std::vector<std::uint32_t> nodes;    // in order
  std::vector<std::uint32_t> place;    // [node] in the order
  std::vector<std::uint32_t> rank_of;  // [node]
};

// Rank by rank in turn, one action a turn: an action's predecessors stand about as many places before it as
// there are ranks, so they are still in the nearest cache.
Order round_robin(const Dag& dag) {
  const std::size_t size = dag.nodes.size();
  constexpr std::uint32_t unplaced = Dag::none;
  Order order{{}, std::vector<std::uint32_t>(size, unplaced), std::vector<std::uint32_t>(size)};
  order.nodes.reserve(size);
  std::vector<std::uint32_t> next(dag.rank_begin.begin(), dag.rank_begin.end() - 1);
  std::vector<std::vector<std::uint32_t>> waiters(dag.ranks());  // [rank that is waited for]
  std::deque<std::uint32_t> turn;
  for (std::uint32_t r = 0; r < dag.ranks(); ++r) {
    std::fill(order.rank_of.begin() + dag.rank_begin[r], order.rank_of.begin() + dag.rank_begin[r + 1], r);
    turn.push_back(r);
  }
  while (!turn.empty()) {
    const std::uint32_t r = turn.front();
    turn.pop_front();
    const std::uint32_t n = next[r];
    if (n == dag.rank_begin[r + 1]) continue;
    std::uint32_t missing = Dag::none;
    for (const std::uint32_t input : dag.nodes[n].input) {
      if (input != Dag::none && order.place[input] == unplaced) missing = input;
    }
    if (missing != Dag::none) {
      waiters[order.rank_of[missing]].push_back(r);
      continue;
    }
    order.place[n] = static_cast<std::uint32_t>(order.nodes.size());
    order.nodes.push_back(n);
    ++next[r];
    turn.push_back(r);
    turn.insert(turn.end(), waiters[r].begin(), waiters[r].end());
    waiters[r].clear();
  }
  PLUMB_CHECK(order.nodes.size() == size);
  return order;
}

}  // namespace

Replay::Replay(const LoweredSchedule& schedule, const CostModel& cost, const ExecutionOptions& options) {
  const Dag dag = build_dag(schedule, cost, options);
  const std::size_t size = dag.nodes.size();
  index_.resize(dag.ranks());
  for (std::uint32_t r = 0; r < dag.ranks(); ++r) index_[r].resize(dag.rank_begin[r + 1] - dag.rank_begin[r]);
  const auto [order, place, rank_of] = round_robin(dag);

  previous_.reserve(size);
  input_.reserve(size);
  durations_.reserve(size);
  lags_ = dag.lags;
  std::vector<std::uint32_t> lag;
  bool one_lag = true;
  std::uint32_t only_lag = Dag::none;
  for (std::uint32_t i = 0; i < size; ++i) {
    const std::uint32_t n = order[i];
    const Dag::Node& node = dag.nodes[n];
    const std::uint32_t r = rank_of[n];
    index_[r][n - dag.rank_begin[r]] = i;
    previous_.push_back(n == dag.rank_begin[r] ? origin : sentinels + place[n - 1]);
    durations_.push_back(node.duration);
    // The first slot is the forward's, empty where only the backward of a pair has an input.
    const std::size_t first = node.input[0] != Dag::none ? 0 : 1;
    const bool any = node.input[first] != Dag::none;
    input_.push_back(any ? sentinels + place[node.input[first]] : nothing);
    lag.push_back(any ? node.lag[first] : only_lag);
    if (any) {
      if (only_lag == Dag::none) only_lag = node.lag[first];
      one_lag &= node.lag[first] == only_lag;
    }
    if (first == 0 && node.input[1] != Dag::none) {
      second_inputs_.push_back({i, sentinels + place[node.input[1]], dag.lags[node.lag[1]]});
    }
  }
  if (one_lag) {
    lags_ = {only_lag == Dag::none ? 0 : dag.lags[only_lag]};
  } else {
    for (std::uint32_t& l : lag) l = l == Dag::none ? 0 : l;
    lag_ = std::move(lag);
  }
  for (std::uint32_t r = 0; r < dag.ranks(); ++r) {
    if (!index_[r].empty()) last_of_rank_.push_back(index_[r].back());
  }
  ends_.assign(sentinels + size, 0);
  ends_[nothing] = std::numeric_limits<std::int64_t>::min() / 2;
}

template <bool one_lag>
void Replay::run_range(std::uint32_t first, std::uint32_t last) {
  const std::uint32_t* const previous = previous_.data();
  const std::uint32_t* const input = input_.data();
  const std::uint32_t* const lag = lag_.data();
  const std::int64_t* const lags = lags_.data();
  const std::int64_t* const durations = durations_.data();
  std::int64_t* const ends = ends_.data();
  const std::int64_t only = lags[0];
  for (std::uint32_t i = first; i < last; ++i) {
    const std::int64_t arrival = ends[input[i]] + (one_lag ? only : lags[lag[i]]);
    const std::int64_t free = ends[previous[i]];
    ends[sentinels + i] = (free > arrival ? free : arrival) + durations[i];
  }
}

Duration Replay::run() {
  const auto run = [this](std::uint32_t first, std::uint32_t last) {
    lag_.empty() ? run_range<true>(first, last) : run_range<false>(first, last);
  };
  std::uint32_t at = 0;
  for (const SecondInput& second : second_inputs_) {
    run(at, second.index);
    at = second.index + 1;
    const std::int64_t lag = lag_.empty() ? lags_[0] : lags_[lag_[second.index]];
    const std::int64_t begin = std::max({ends_[previous_[second.index]], ends_[input_[second.index]] + lag,
                                         ends_[second.input] + second.lag});
    ends_[sentinels + second.index] = begin + durations_[second.index];
  }
  run(at, static_cast<std::uint32_t>(durations_.size()));
  std::int64_t end = 0;
  for (const std::uint32_t last : last_of_rank_) end = std::max(end, ends_[sentinels + last]);
  return Duration{end};
}

}  // namespace plumb
