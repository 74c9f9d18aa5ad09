// Ranks on a virtual clock: the real executor, the real program, and costs in place of work. Where nothing is
// shared it has to give the simulator's Timeline to the nanosecond; it is written apart from the simulator
// for that reason.
#pragma once
#include "runtime/backend.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"

#include <memory>
#include <vector>

namespace plumb {

/// All ranks of one pipeline. Their steps may be launched one rank after another, in any order: when things
/// happen is worked out once every rank has finished launching.
class FakeWorld {
 public:
  /// Contention-free costs: segments of an op follow each other, messages have the link to themselves, and an
  /// overlapped pair has a stated cost or ops of one segment on the compute lane, which then take turns.
  /// Throws BadInput for costs that say more. Both must outlive this object.
  FakeWorld(const LoweredSchedule& schedule, const CostModel& cost,
            PairRelease pair_release = PairRelease::atomic);
  ~FakeWorld();

  Backend& rank(Rank rank);

 private:
  class Clock;
  class FakeRank;
  std::unique_ptr<Clock> clock_;
  std::vector<std::unique_ptr<FakeRank>> ranks_;
};

}  // namespace plumb
