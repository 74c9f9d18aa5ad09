// A calibration under way: what is still to be measured, in which order, and what becomes of it when it is
// interrupted.
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/measurer.hpp"

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// What the request needs, the most useful first, so that an interrupted calibration is worth something:
/// stages and layers of every cut, hops, memory, parts, layers while some ranks idle, the mutual slowdown,
/// messages between idle ranks, collectives. Only what the measurer can measure; with
/// `flush` stages and layers alone, in a setting of their own.
std::vector<Target> plan_targets(const CalibrationRequest& request, const Measurer& measurer);

/// Which of the targets the calibration does not hold.
std::vector<Target> missing_targets(const Calibration& calibration, const std::vector<Target>& targets);

struct Progress {
  std::size_t done = 0;
  std::size_t of = 0;
  std::string target;  // that is measured now
  Duration elapsed;
  Duration remaining;  // a guess from the pace so far
};

struct SessionHooks {
  std::function<Duration()> now;  // since any moment, monotonic
  std::function<void(const Progress&)> progress;
  /// Called after each target, or all that were sampled in turns, with the calibration as it stands: what is
  /// to be written, and what was added.
  std::function<void(const Calibration&, const std::vector<Measurement>&)> keep;
  std::function<bool()> interrupted;
  /// Of a target that could not be measured, and why; may be nothing.
  std::function<void(const std::string& target, const std::string& why)> failed = {};
};

/// Measures what is missing, what the measurer samples in turns at once, adds it, and keeps
/// `calibration.missing` and the derived layer true, so that it can be written at any time. Whether
/// everything was measured: not when interrupted. A measurer that goes on after a failure skips what fails,
/// which stays missing (targets in turns are then measured one by one); two failures one after the other, or
/// any other DeviceError, end it and leave the calibration with what there was.
bool measure_missing(Measurer& measurer, const std::vector<Target>& targets, const StoppingRule& rule,
                     Calibration& calibration, const SessionHooks& hooks);

/// Why a calibration begun on one machine must not be continued on another: GPU class, number of
/// multiprocessors, CUDA, NCCL. Empty where nothing stands against it.
std::string why_not_resume(const Provenance& begun, const Provenance& here);

/// A line of the side file: the target's name, each sample's duration and clock.
std::string samples_line(const Measurement& measurement);

}  // namespace plumb
