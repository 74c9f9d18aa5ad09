// The clock of a GPU that ranks share, over a step that is repeated again and again.
#pragma once
#include "schedules/ir/timeline.hpp"
#include "schedules/ir/units.hpp"

#include <functional>
#include <vector>

namespace plumb {

/// The control that keeps a GPU's power limit follows its load slowly: the clock at any moment is that of the
/// load over the last `lag`, older load counting exponentially less. Before a step stands its like.
class StepClock {
 public:
  /// `clock_mhz`: at a share of the ranks that compute (the first argument), and of that time the share that
  /// they compute pairs. A lag of 0: the load of the instant.
  StepClock(const Timeline& step, Duration lag, const std::function<double(double, double)>& clock_mhz);

  double mean_mhz(TimePoint begin, TimePoint end) const;
  double mean_mhz() const;

 private:
  double until(TimePoint time) const;

  TimePoint begin_{}, end_{};
  std::vector<double> sums_;  // [k] of the first k pieces of the step
};

}  // namespace plumb
