// How long and how big everything is. A cost is a recipe, not a number.
#pragma once
#include "schedules/ir/op.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace plumb {

/// What a segment occupies on its rank. One thing runs on a lane at a time, first come first served.
enum class Lane : std::uint8_t { compute, communication };

/// Index into CostModel::classes: kinds of work that slow each other down (`gemm`, `attention`,
/// `all_to_all`).
using WorkClass = Id<struct WorkClassTag>;

/// One piece of an op, alone on its lane for `duration` when nothing runs beside it.
struct Segment {
  Lane lane = Lane::compute;
  Duration duration;
  WorkClass work_class;
  std::string name;
  /// Nothing later in the op waits for it, only the op's end does: a weight gradient inside a fused backward
  /// runs when its lane is free, while the input gradient is already on its way.
  bool deferred = false;
  /// So many millionths of its duration it takes its lane less when other work waits for it: multiprocessors
  /// that are done before the last one are free to whoever comes next. At most a million; nothing: not known
  /// of it.
  std::optional<std::uint32_t> tail_ppm = {};
  bool operator==(const Segment&) const = default;
};

/// What an op does to its rank's memory, in bytes relative to before it.
struct MemoryEffect {
  Bytes at_begin;   // allocated when the op begins and kept (a forward's saved activations)
  Bytes workspace;  // more while it runs
  Bytes at_end;     // what stays changed once it has ended, beyond at_begin (negative: freed)
  bool operator==(const MemoryEffect&) const = default;
};

/// Segments that start in this order, each when the one before it has ended (a deferred one keeps nobody). An
/// empty recipe: nothing is known of the op, and a schedule that holds it cannot be simulated.
struct OpCost {
  std::vector<Segment> recipe;
  MemoryEffect memory;
  bool operator==(const OpCost&) const = default;
};
/// All its segments one after the other; with deferred ones or two lanes the op itself may be shorter.
Duration total(const OpCost& cost);

/// The costs of one stage's ops on one of its owners, and what an owner holds for it all the step long.
struct StageCost {
  OpCost forward;
  OpCost backward_input;
  OpCost backward_weight;
  OpCost backward;  // both halves fused
  Bytes weights;
  Bytes gradients;
  Bytes optimizer_state;
  Bytes activation_message;     // sent to the next stage, per microbatch
  Bytes gradient_message;       // sent to the previous stage, per microbatch
  Duration gradient_reduction;  // of the stage's weight gradients over all its copies
  Duration owner_exchange;      // longer by so much where two ranks of one pipeline own the stage
  Duration reduction_over(std::size_t owners) const {
    return owners > 1 ? gradient_reduction + owner_exchange : gradient_reduction;
  }
  /// Of one owner's share of the stage's parameters, once all gradients of the step are there, until the new
  /// weights are on every copy.
  Duration optimizer_step;
  /// The stage's forward beside its own backward, where that was measured and no recipes are known.
  std::optional<Duration> overlapped;
  const OpCost& of(OpKind kind) const;
  bool operator==(const StageCost&) const = default;
};

/// A point-to-point connection from one rank to another.
struct Link {
  Duration latency;
  std::optional<BytesPerSecond> bandwidth;  // nothing: infinite
  bool operator==(const Link&) const = default;
};

struct OpOverride {
  Rank rank;
  Action action;
  Duration duration;
  bool operator==(const OpOverride&) const = default;
};

/// Everything the simulator needs to know about time and bytes. Not virtual, not tied to a GPU.
struct CostModel {
  std::string name;
  std::vector<StageCost> stages;  // [stage]; a model of one entry serves every stage
  /// Measured cost of a forward of the first stage beside a backward of the second, where there is one; it
  /// wins over the derived cost.
  std::map<std::pair<Stage, Stage>, Duration> measured_pairs;
  /// Where no pair was measured, and this is set, every pair takes it (`--costs overlapped=`).
  std::optional<Duration> any_pair;

  std::vector<std::string> classes;  // [WorkClass]
  /// slowdown[a][b]: by how much work of class a lasts longer while class b runs on the rank too, in
  /// millionths (1,000,000: not at all). Of two classes on one lane, which take turns, only what both
  /// together get done counts (sim/overlap). Empty: nothing slows anything.
  std::vector<std::vector<std::uint32_t>> slowdown_ppm;
  /// The class of pipeline messages, for slowdown; nothing: they slow nobody.
  std::optional<WorkClass> message_class;

  Link link;                                    // between any two ranks, unless listed
  std::map<std::pair<Rank, Rank>, Link> links;  // directed

  std::vector<OpOverride> overrides;  // single ops, by rank and action

  /// Of a rank's memory, what no tensor of ours takes: the device's context, libraries, the allocator's rest.
  Bytes reserve;

  /// Where each figure comes from: `forward` -> `measured | interpolated | estimated | assumed`.
  std::map<std::string, std::string> sources;

  const StageCost& stage(Stage stage) const {
    return stages.size() == 1 ? stages.front() : stages[stage.value];
  }
  const Link& link_between(Rank from, Rank to) const;
  /// The pair's cost where it is stated rather than derived: measured for this pair, flat for any pair, or
  /// from both stages' own measured pairs (then the pair saves what the stage that saves less does).
  std::optional<Duration> stated_pair(Stage forward, Stage backward) const;
  bool operator==(const CostModel&) const = default;
};

/// Flat costs: one compute segment an op, the same on every stage (`--costs`).
struct UnitCosts {
  Duration forward;
  std::optional<Duration> backward_input;  // with neither half, only whole backwards can be simulated
  std::optional<Duration> backward_weight;
  std::optional<Duration> backward;    // default: both halves
  std::optional<Duration> overlapped;  // default: forward + backward
  Duration p2p;                        // added on every edge between ranks, occupies nothing
};
CostModel unit_costs(const UnitCosts& costs);

}  // namespace plumb
