// Work of ranks that share a GPU at its power limit, as if all of it had been measured at one clock.
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/measurement.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace plumb {

/// What a clock, or how durations follow it, is said of: forward, backward_input, backward_weight, backward,
/// pair.
inline constexpr std::size_t clocked_kinds = 5;
constexpr bool is_clocked(WorkKind kind) { return kind != WorkKind::optimizer; }

/// The setting among ranks that all compute, as they do in a step.
Setting under_full_load(Setting setting);

/// Of stages and layers in a setting: the middle one of the clocks that they were measured at. Pairs, which
/// take more power, have one of their own. 0 where none was read.
std::uint32_t clock_in(const Calibration& calibration, const Setting& setting, bool pairs);

/// [kind] how durations follow the clock (Summary::clock_exponent_ppm), from 0 to 1. One stage's samples
/// hardly tell; all stages and layers of a kind together do, each by how well it knows. A kind that still
/// knows worse than to a tenth has what all kinds say together; 0 where they do not know either.
std::array<double, clocked_kinds> clock_exponents(const Calibration& calibration, const Setting& setting);

/// The power limit swings the clock by several per cent while work is sampled, and medians of a few dozen
/// samples each catch another part of that: durations of stages and layers as they were at the clock that
/// their setting has in the middle (clock_in). Of ranks that share a GPU and were measured beside busy ones;
/// anything else stays.
Calibration at_common_clock(Calibration calibration);

}  // namespace plumb
