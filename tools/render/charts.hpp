// Charts of reports as SVG: where the time goes, and time against memory.
#pragma once
#include "tools/render/report_tables.hpp"

#include <optional>
#include <string>
#include <vector>

namespace plumb::render {

/// A bar a step on one axis: its makespan, split into a rank's computation and idle time by cause, on average
/// over the ranks. The parts of a bar add up to its length exactly.
std::string cause_bars(const std::vector<ReportInput>& inputs);

/// One plan: how long a step takes and how much the fullest rank needs.
struct TimeAndMemory {
  std::string label;
  Duration step_time;
  std::int64_t activations_milli = 0;         // activation_share_milli of the fullest rank
  std::optional<Bytes> bytes = std::nullopt;  // peak memory of the fullest rank
  bool operator==(const TimeAndMemory&) const = default;
};

TimeAndMemory time_and_memory(const ReportInput& input);

/// For each point, whether no other is better in one of time and memory and as good in the other. Memory is
/// bytes where all points have them, otherwise live activations.
std::vector<bool> pareto_front(const std::vector<TimeAndMemory>& points);

/// A scatter of the points; those on the front are filled and joined.
std::string pareto_plot(const std::vector<TimeAndMemory>& points);

}  // namespace plumb::render
