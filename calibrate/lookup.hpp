// Questions to a calibration: how long does this work take, how long is this message under way?
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/fit.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace plumb {

struct FoundDuration {
  Duration duration;
  bool interpolated = false;  // otherwise measured
  std::string how;            // where it is interpolated: `between sequence 2048 and 4096`
  /// Where the very shape was measured and this with it.
  std::optional<std::uint32_t> tail_ppm = {};
  bool operator==(const FoundDuration&) const = default;
};

/// The setting that most of the calibration's work was measured in, one with busy neighbours first. One with
/// a flushed cache only where there is no other.
Setting main_setting(const Calibration& calibration);

/// The measured median; where the very shape was not measured but smaller and larger ones that differ in one
/// dimension alone, the straight line between the nearest two. Never beyond what was measured: then nothing.
/// Without `rank`, ranks that were measured apart count as their median.
std::optional<FoundDuration> find_duration(const Calibration& calibration, const WorkKey& work,
                                           const Setting& setting, std::optional<std::uint32_t> rank = {});
std::optional<FoundDuration> find_duration(const Calibration& calibration, const WorkKey& work);

const MeasuredMemory* find_memory(const Calibration& calibration, const WorkKey& work);

/// The series to use for pipeline messages from one rank to another: the hop in situ before one-way messages,
/// these ranks before any others, the main setting before others. Nothing where no message was measured.
const TransferSeries* find_messages(const Calibration& calibration, std::optional<std::uint32_t> from = {},
                                    std::optional<std::uint32_t> to = {});
/// A collective over this many ranks.
const TransferSeries* find_collective(const Calibration& calibration, TransferKind kind, std::size_t ranks);

}  // namespace plumb
