// Ranks that share one GPU share its power limit and its memory: the more of them stand idle, the faster the
// others are.
#pragma once
#include "calibrate/calibration.hpp"
#include "schedules/ir/cost_model.hpp"
#include "tools/planner/predict.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace plumb {

/// How fast ranks compute that share one GPU, by the share of the time that they compute.
struct SharedPower {
  /// Measured with some of the ranks computing all the time and the others idle.
  struct Load {
    double busy = 1;                 // share of the ranks
    std::uint32_t sm_clock_mhz = 0;  // that the power limit left
    /// [forward, backward_input, backward_weight, backward, pair] in millionths of what a layer takes under
    /// full load.
    std::array<std::int64_t, 5> pace_ppm{};
    bool operator==(const Load&) const = default;
  };
  std::vector<Load> loads;     // the full one last; nothing else where only that was measured
  std::uint32_t most_mhz = 0;  // what the chip could
  std::uint32_t full_mhz() const { return loads.back().sm_clock_mhz; }
  bool operator==(const SharedPower&) const = default;

  /// At any busy share: on the straight line between the nearest two loads, and no faster than the least one.
  /// Where only full load was measured: power goes with the cube of the clock (the voltage follows the
  /// clock), so the clock is full / cube root of the share, but never more than `most_mhz`, and all
  /// computation goes with it. An H200 near its highest clock needs more power for more clock than that (at
  /// 1.85 GHz the fifth power), and what waits for memory hardly gains: measured loads know both.
  Load at(double busy) const;
};

/// Of a calibration whose ranks were shares of one GPU, measured while all others computed; nothing for
/// others, or where the clock was not read. A rank with a GPU of its own has its own limit, and is not slowed
/// by what others do.
std::optional<SharedPower> shared_power(const Calibration& calibration);

/// Nothing is fitted. Where partial loads were measured, each op goes at the pace that its kind has with as
/// many ranks busy as are, on average, while it runs; as that depends on the timeline, the step is predicted
/// again until it stays. (Within one step of 12 ms on an H200 the same backward takes 1.42 ms beside a busy
/// neighbour and 1.26 ms beside an idle one.) With full load alone, all ops go at the pace of the step's
/// busy share. Messages and gradient reductions, which move memory, keep their durations.
Prediction predict_at_shared_power(const LoweredSchedule& schedule, const CostModel& cost,
                                   const ExecutionOptions& options, const SharedPower& power, Detail detail);

}  // namespace plumb
