// The contention-free replay: nothing is shared, so every start is a maximum and no event queue is needed.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace plumb {

struct Dag;

/// When every node ends: its start is the later of its rank's previous end and its inputs' arrivals. `ends`
/// has one entry a node. Each rank runs as far as it can and is woken by the node it waits for: O(nodes), in
/// any order of the ranks. The graph must be free of cycles.
void replay(const Dag& dag, std::span<std::int64_t> ends);

/// One schedule replayed again and again with other durations: what a search, a sensitivity or a Monte Carlo
/// run needs. The order is found once; actions are renumbered so that a run streams through memory. The same
/// model as simulate() with nothing shared. A pair's early release stays as far ahead of its end as it was
/// when this was built.
class Replay {
 public:
  /// Throws what simulate() throws.
  Replay(const LoweredSchedule& schedule, const CostModel& cost, const ExecutionOptions& options = {});

  /// The durations of all actions in replay order, to read and to change. Not negative.
  std::span<std::int64_t> durations_ns() { return durations_; }
  /// Where the action at `position` of the rank's compute actions stands in replay order.
  std::uint32_t index(Rank rank, std::uint32_t position) const { return index_[rank.value][position]; }

  /// Replays with the durations as they are now. From the step's begin to its last end.
  Duration run();
  /// Of the last run.
  TimePoint end(std::uint32_t index) const { return TimePoint{ends_[sentinels + index]}; }

 private:
  // In front of the ends stand two that never change: of an action that is its rank's first, and of an input
  // that is not there.
  static constexpr std::uint32_t sentinels = 2;
  static constexpr std::uint32_t origin = 0;
  static constexpr std::uint32_t nothing = 1;

  struct SecondInput {
    std::uint32_t index;
    std::uint32_t input;  // into ends_
    std::int64_t lag;
  };

  template <bool one_lag>
  void run_range(std::uint32_t first, std::uint32_t last);

  std::vector<std::uint32_t> previous_;  // into ends_
  std::vector<std::uint32_t> input_;     // into ends_
  std::vector<std::uint32_t> lag_;       // into lags_; empty where all messages take equally long
  std::vector<std::int64_t> lags_;
  std::vector<SecondInput> second_inputs_;  // by index
  std::vector<std::int64_t> durations_;
  std::vector<std::int64_t> ends_;
  std::vector<std::vector<std::uint32_t>> index_;  // [rank][position]
  std::vector<std::uint32_t> last_of_rank_;
};

}  // namespace plumb
