// How long a message takes by its size: a few straight pieces through what was measured.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace plumb {

struct SizedDuration {
  Bytes size;
  Duration duration;
  bool operator==(const SizedDuration&) const = default;
};

/// Memory is copied by pages, and a copy of more than this that is no whole number of them in two pieces
/// (measured on an H200: 2 us more, at any such size, at 4 MiB and a byte as at 64).
constexpr Bytes page{4096};
constexpr Bytes copied_in_one_piece{4 << 20};
constexpr bool is_ragged(Bytes size) { return size > copied_in_one_piece && size.count % page.count != 0; }

/// A latency-bandwidth function in pieces: straight from knot to knot. Sizes strictly increase, durations
/// never decrease. What it says outside its knots is a guess and marked as one.
struct LinkFit {
  std::vector<SizedDuration> knots;
  Duration ragged;  // more for a ragged size; models' messages hardly ever are
  /// Of the points it was made of: the largest and the median |fit - measured| / measured, in millionths.
  std::uint32_t worst_residual_ppm = 0;
  std::uint32_t median_residual_ppm = 0;
  /// The same for points between the smallest and the largest size, each predicted by a fit that never saw
  /// it: what to expect of a size that was not measured. 0 where there are fewer than three points.
  std::uint32_t worst_held_out_ppm = 0;
  std::uint32_t median_held_out_ppm = 0;
  bool operator==(const LinkFit&) const = default;
};

struct FitOptions {
  double tolerance = 0.02;     // the worst residual that needs no further piece
  std::uint32_t segments = 5;  // at most
};

/// The fit with the fewest pieces whose worst residual is within the tolerance, or with the most pieces
/// allowed. The knots' places are the best there are (dynamic programming over the measured sizes, squared
/// relative residuals), their heights a least-squares fit to what never falls and is nearest to the points.
/// Ragged sizes only say how much more they take: the median, if there is any other size. Points in any
/// order; several of one size count as their median. At least one point; with one size it is constant. Throws
/// nothing.
LinkFit fit_link(std::span<const SizedDuration> points, const FitOptions& options = {});

/// |predicted - measured| / measured of each size but the smallest and the largest, by a fit that never saw
/// it: what to expect of a size that was not measured. Ascending sizes; none where there are fewer than
/// three.
std::vector<double> held_out_errors(std::span<const SizedDuration> points, const FitOptions& options = {});

/// What a fit says about a size.
struct FittedDuration {
  Duration duration;
  bool extrapolated = false;  // below the smallest or above the largest size that was measured
  bool operator==(const FittedDuration&) const = default;
};

/// Below the smallest knot its duration, above the largest one the last piece goes on (a single knot: its
/// bandwidth). Both are extrapolated.
FittedDuration duration_at(const LinkFit& fit, Bytes size);

/// The piece that `size` falls into as a latency and a bandwidth: exact for that size, right near it. A piece
/// that would start below zero becomes a bandwidth without latency.
Link link_at(const LinkFit& fit, Bytes size);

}  // namespace plumb
