// How good: one summary for predicted and measured timelines alike.
#pragma once
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// Why a rank did not compute. The list is closed: compute + all causes = makespan x ranks, exactly.
enum class IdleCause : std::uint8_t {
  warm_up,              // before the rank's first op
  waiting_for_message,  // the op whose output it needs was still running on another rank
  imbalance,  // of that wait: the part by which that op lasts longer than the rank's own op of its kind
  exposed_communication,  // the message had left and was on its way
  drain,                  // after the rank's last op
};
inline constexpr std::size_t idle_causes = 5;
std::string_view to_string(IdleCause cause);  // `warm_up` …: the JSON key without `_ns`

struct RankReport {
  Duration compute_busy;  // a pair is busy once
  Duration idle;          // makespan - compute_busy
  Duration span;          // own last end - own first start
  std::array<Duration, idle_causes> idle_by_cause{};
  std::uint32_t peak_live_activations = 0;  // chunks
  std::optional<Bytes> peak_bytes;          // where the costs say bytes
  MemoryBreakdown peak_memory;
  std::string peak_action;  // the op that makes the peak
  bool operator==(const RankReport&) const = default;
};

struct Report {
  std::string schedule;
  std::uint32_t stages = 0;
  std::uint32_t microbatches = 0;
  Duration makespan;      // last compute end - first compute start
  Duration span;          // the largest rank span: what the zero-bubble papers call cost
  Duration step_time;     // makespan, what of the gradient reductions ends after it, and the optimizer's step
  double idle_share = 0;  // sum of idle / (ranks x makespan): "the bubble"
  std::vector<RankReport> ranks;
  // Where the model is known.
  std::optional<double> tokens_per_s;  // of the whole job
  std::optional<double> mfu;           // model FLOPs over the peak of all devices, no recompute counted
  /// Where the costs are from: `forward` -> `measured | interpolated | estimated | assumed`.
  std::map<std::string, std::string> sources;
  bool operator==(const Report&) const = default;
};

/// Of any timeline. O(ops).
Report summarize(const Timeline& timeline, const MemoryProfile& memory);

}  // namespace plumb
