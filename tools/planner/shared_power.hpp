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
    std::uint32_t sm_clock_mhz = 0;  // that the power limit left them
    /// [forward, backward_input, backward_weight, backward, pair] in millionths of what a layer takes under
    /// full load.
    std::array<std::int64_t, 5> pace_ppm{};
    std::uint32_t pair_clock_mhz = 0;  // while all that are busy compute pairs, which takes more power
    bool operator==(const Load&) const = default;
  };
  std::vector<Load> loads;     // the full one last; nothing else where only that was measured
  std::uint32_t most_mhz = 0;  // what the chip could
  /// [kind] how durations follow the clock (clock_exponents); 0 where that was not measured.
  std::array<double, 5> clock_exponent{};
  /// [kind][what all neighbours compute: forwards, backwards, pairs] what an op takes then, at one clock, of
  /// what it takes beside those of full load; 1 where that was not measured.
  using Company = std::array<double, 3>;
  std::array<Company, 5> beside{{{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}};
  std::uint32_t full_mhz() const { return loads.back().sm_clock_mhz; }
  bool operator==(const SharedPower&) const = default;

  /// At any busy share: between the nearest two loads, and no faster than the least one. The clock goes with
  /// the power of the load that joins the two; what an op takes at one clock lies on the straight line.
  /// Where only full load was measured: power goes with the cube of the clock (the voltage follows the
  /// clock), so the clock is full / cube root of the share, but never more than `most_mhz`, and all
  /// computation goes with it. An H200 near its highest clock needs more power for more clock than that (at
  /// 1.85 GHz the fifth power), and what waits for memory hardly gains: measured loads know both.
  Load at(double busy) const;

  /// With that share of the ranks busy, which compute pairs for that share of their time.
  double clock(double busy, double pairs) const;
  /// Of an op under full load, in millionths: what it takes with that share of the ranks busy while it runs,
  /// at that clock.
  std::int64_t pace_ppm(std::size_t kind, double busy, double clock_mhz) const;

 private:
  static std::uint32_t clock_of_kind(const Load& load, std::size_t kind);
  /// Of what an op takes at the clock of full load.
  double clock_factor(std::size_t kind, double clock_mhz) const;
  /// A load's pace, in millionths, had it had the clock of full load.
  double at_full_clock(const Load& load, std::size_t kind) const;
};

/// Of a calibration whose ranks were shares of one GPU, measured while all others computed; nothing for
/// others, or where the clock was not read. A rank with a GPU of its own has its own limit, and is not slowed
/// by what others do.
std::optional<SharedPower> shared_power(const Calibration& calibration);

/// Nothing is fitted. What idle neighbours give an op has two parts, and both were measured. The power limit
/// leaves all ranks a higher clock: the one measured at the busy share of the last 50 ms (step_clock),
/// between that of forwards and backwards and that of pairs by the time spent with each. Durations follow it
/// as they did while they were calibrated (clock_exponent). What they gain beyond that is the neighbours'
/// part of caches and memory: that goes by the ranks that are busy while the op runs, and by what those
/// compute (beside). As both depend on the
/// timeline, the step is predicted again until it stays. Without clock exponents everything goes by the ranks
/// that are busy meanwhile; with full load alone, all ops go at the pace of the step's busy share. Messages
/// and gradient reductions, which move memory, keep their durations.
Prediction predict_at_shared_power(const LoweredSchedule& schedule, const CostModel& cost,
                                   const ExecutionOptions& options, const SharedPower& power, Detail detail);

}  // namespace plumb
