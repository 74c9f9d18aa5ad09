// Lowering places every send, receive and collective among the computation.
#pragma once
#include "schedules/ir/schedule.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace plumb {

/// The peer of a message whose text names none.
inline constexpr Rank unknown_peer{0xffffffff};

/// One send or receive; `op.stage` is the stage of this rank that sends or receives.
struct Message {
  Op op;
  Rank peer;
  bool operator==(const Message&) const = default;
};

/// Messages launched together. `waited_together`: the rank goes on when all of them are done (one NCCL group,
/// as DualPipe's runtime does). Otherwise each is launched where it stands, waits for nobody, and is waited
/// for where its data is used (per-op streams, as PyTorch does); such a batch holds exactly one message.
struct CommBatch {
  std::uint32_t first_message = 0;  // into LoweredRank::messages
  std::uint32_t count = 0;
  bool waited_together = false;
  bool operator==(const CommBatch&) const = default;
};

/// The weight gradients of `stage` are summed over its owners and their data-parallel copies. The rank takes
/// part once nothing adds to them any more; it does not wait for the end before it goes on.
struct Collective {
  Op op;  // kind reduce_grad, and unshard or reshard in imported schedules
  bool operator==(const Collective&) const = default;
};

using Step = std::variant<Action, CommBatch, Collective>;

struct LoweredRank {
  std::vector<Step> steps;
  std::vector<Message> messages;  // of all batches, in the order of the steps
  std::span<const Message> messages_of(const CommBatch& batch) const {
    return std::span(messages).subspan(batch.first_message, batch.count);
  }
  bool operator==(const LoweredRank&) const = default;
};

enum class CommPlacement : std::uint8_t { per_op, batched };

/// A schedule with every message in its place: what the simulator replays and the runtime executes.
struct LoweredSchedule {
  std::string name;
  std::uint32_t stages = 0;
  std::uint32_t microbatches = 0;
  std::uint32_t data_parallel = 1;  // copies of the whole pipeline that sum their gradients
  CommPlacement placement = CommPlacement::per_op;
  std::vector<LoweredRank> per_rank;

  std::uint32_t ranks() const { return static_cast<std::uint32_t>(per_rank.size()); }
  bool operator==(const LoweredSchedule&) const = default;
};

struct LowerOptions {
  CommPlacement placement = CommPlacement::per_op;
  /// Copies of the pipeline. With more than one, every stage gets a Collective on every owner; with one, only
  /// stages that live on two ranks do.
  std::uint32_t data_parallel = 1;
};

/// Places messages and gradient reductions. The schedule must be valid (`check`).
///
/// per_op: a send stands right behind its producer and the matching receive at the end of what the receiver
/// has so far, in one global linear order; so the lists run even where every message blocks until its peer
/// arrives: the rule of PyTorch's own lowering, without the idle slots that it also counts.
///
/// batched: before an action the rank launches, as one group, the sends left over from the actions before it
/// and the receives that this action needs, and waits for all of them. Where that alone would wait in a ring
/// under rendezvous, the receive of the oldest blocked send is taken into the peer's current group.
///
/// Both keep the sends and receives between two ranks in one order, which NCCL's unnamed channels need.
LoweredSchedule lower(const Schedule& schedule, const LowerOptions& options = {});

/// The computation alone.
Schedule without_messages(const LoweredSchedule& lowered);

/// Adds the gradient reductions to a lowered schedule that has none: on every owner of a stage with more than
/// one copy (two owners, or data_parallel > 1), behind the rank's last weight gradient of that stage.
void place_reductions(LoweredSchedule& lowered);

/// The ranks that hold a copy of each stage, ascending: [stage] -> ranks.
std::vector<std::vector<Rank>> owners(const Schedule& schedule);

}  // namespace plumb
