// What a rank holds, from where in its list to where. Program order alone decides it; no clock is involved.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/memory_profile.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

enum class Moment : std::uint8_t { begin, end };

/// At the begin or the end of a step of a rank's list, this much more (or, negative, less) is held for `use`.
struct LivenessChange {
  std::uint32_t step = 0;  // into LoweredRank::steps
  Moment moment = Moment::begin;
  MemoryUse use = MemoryUse::activations;
  Op op;  // the compute op that allocates or frees, or the receive
  Bytes bytes;
  bool operator==(const LivenessChange&) const = default;
};

/// The changes of one rank after another, in list order; at one moment those of the forward of a pair first.
///
/// A forward's bytes are activations of its (stage, microbatch) until backward or backward_input ends; what
/// is left then is what backward_weight still needs. Workspace lives from its op's begin to its end. A
/// receive buffer lives from its receive's position (with its group, where messages are waited for together)
/// to the end of the op that uses it. Weights, gradients and optimizer state are held throughout: see
/// `held_throughout`.
class Liveness {
 public:
  /// The costs must fit the schedule. Both must outlive this object.
  Liveness(const LoweredSchedule& schedule, const CostModel& cost);

  /// The next call's changes replace the last's. Each rank at most once.
  const std::vector<LivenessChange>& of(Rank rank);

 private:
  std::size_t slot(const Op& op) const {
    return static_cast<std::size_t>(op.stage.value) * schedule_.microbatches + op.microbatch.value;
  }
  void begin(std::uint32_t step, const Op& op);
  void end(std::uint32_t step, const Op& op);

  const LoweredSchedule& schedule_;
  const CostModel& cost_;
  // [stage and microbatch]: each belongs to one rank.
  std::vector<Bytes> held_;         // between its forward and its last backward
  std::vector<Bytes> received_[2];  // buffers of the activation and of the gradient it waits for
  std::vector<LivenessChange> changes_;
};

/// The most bytes of activations, and of what backward_input left for backward_weight, that changes of one
/// rank add up to: without receive buffers and workspace.
Bytes peak_activations(const std::vector<LivenessChange>& changes);

/// What the rank's copies of stages hold all the step long (weights, gradients and optimizer state), and the
/// reserve.
MemoryBreakdown held_throughout(const LoweredSchedule& schedule, Rank rank, const CostModel& cost);

}  // namespace plumb
