// How much memory, when, and which op made it so.
#pragma once
#include "schedules/ir/op.hpp"
#include "schedules/ir/units.hpp"

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace plumb {

enum class MemoryUse : std::uint8_t {
  weights,
  gradients,
  optimizer,
  activations,
  weight_gradient_remnants,  // what backward_input left for backward_weight
  receive_buffers,
  workspace,
  reserve,
};
inline constexpr std::size_t memory_uses = 8;
std::string_view to_string(MemoryUse use);

/// Bytes by use; they sum to the total.
struct MemoryBreakdown {
  std::array<Bytes, memory_uses> by_use{};
  Bytes& operator[](MemoryUse use) { return by_use[static_cast<std::size_t>(use)]; }
  Bytes operator[](MemoryUse use) const { return by_use[static_cast<std::size_t>(use)]; }
  Bytes total() const;
  bool operator==(const MemoryBreakdown&) const = default;
};

/// The memory of a rank from this time on until the next point.
struct MemoryPoint {
  TimePoint time;
  Bytes bytes;
  bool operator==(const MemoryPoint&) const = default;
};

struct RankMemory {
  std::vector<MemoryPoint> curve;  // by time; one point a time
  MemoryBreakdown peak;
  TimePoint peak_time;
  Action peak_action;  // the action that was running, or had just begun, when the peak was reached
  std::uint32_t peak_live_activations = 0;  // in chunks: +1 at forward, -1 at backward or backward_weight
  bool operator==(const RankMemory&) const = default;
};

struct MemoryProfile {
  std::vector<RankMemory> ranks;
  bool operator==(const MemoryProfile&) const = default;
};

}  // namespace plumb
