// How far two calibrations of the same things are apart.
#pragma once
#include "calibrate/calibration.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

/// One figure that both hold: a median in nanoseconds, a slowdown in millionths, or bytes.
struct FigureDifference {
  std::string group;  // `work`, `transfers`, `slowdowns`, `memory`, `layer`
  std::string name;
  std::string unit;  // `ns`, `ppm`, `bytes`
  std::int64_t a = 0;
  std::int64_t b = 0;
  std::uint32_t a_clock_mhz = 0;  // the multiprocessors' while it was measured; 0: not known, or it has none
  std::uint32_t b_clock_mhz = 0;
  bool operator==(const FigureDifference&) const = default;
};
/// (b - a) / a; 0 where both are 0, 1 where a alone is.
double relative(const FigureDifference& difference);

/// The same of clock cycles instead of times: what of a difference is not the clock's. Nothing without
/// clocks.
std::optional<double> relative_cycles(const FigureDifference& difference);

struct CalibrationDifference {
  std::vector<FigureDifference> figures;  // the furthest apart first
  std::size_t only_in_a = 0;
  std::size_t only_in_b = 0;
};

/// Measurements with the same target and rank. Where neither has measurements, the layer's segments and the
/// link.
CalibrationDifference difference(const Calibration& a, const Calibration& b);

/// The median of |relative| over the figures of a group, or of all groups of times where it is empty (memory
/// is the same or not, and would hide everything else). At least one figure.
double median_abs_relative(const CalibrationDifference& difference, const std::string& group = "");
/// The same of relative_cycles, over the work that has clocks; nothing where none has.
std::optional<double> median_abs_relative_cycles(const CalibrationDifference& difference);

}  // namespace plumb
