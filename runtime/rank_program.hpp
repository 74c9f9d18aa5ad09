// What one rank of a lowered schedule launches, step by step, with all that a backend needs to launch it:
// what it waits for, behind what it is launched, and which bytes of the rank's arena it reads and writes.
// Made once, before the first step; nothing is worked out, and nothing allocated, while ranks run.
#pragma once
#include "schedules/ir/liveness.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/units.hpp"

#include <array>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

namespace plumb {

/// A piece of the rank's arena. `bytes` is what was asked for; offsets are multiples of
/// ArenaOptions::alignment.
struct Buffer {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool empty() const { return bytes == 0; }
  bool operator==(const Buffer&) const = default;
};

/// What the ops of one stage need of the arena, a microbatch. Whoever computes the stage says it, so the
/// bytes are those of the tensors that it really keeps.
struct StageMemory {
  Bytes activation_message;          // the stage's output
  Bytes gradient_message;            // the gradient of the stage's input
  Bytes kept_for_input;              // by forward, until backward_input (or backward) ends
  Bytes kept_for_weight;             // by forward, until backward_weight (or backward) ends
  Bytes gradients_kept;              // by backward_input, until backward_weight ends
  std::array<Bytes, 4> workspace{};  // [forward, backward_input, backward_weight, backward] while the op runs
  bool operator==(const StageMemory&) const = default;
};

/// The bytes that one op reads and writes; empty where there is nothing.
struct OpBuffers {
  /// forward: the stage's input, received or handed over by the stage before it on this rank; empty on the
  /// first stage (its input is the step's data). backward_input, backward: the gradient of the stage's
  /// output; empty on the last stage (its forward holds the loss).
  Buffer input;
  /// forward: the stage's output; empty on the last stage. backward_input, backward: the gradient of the
  /// stage's input; empty on the first stage.
  Buffer output;
  Buffer kept_for_input;
  Buffer kept_for_weight;
  Buffer gradients_kept;
  Buffer workspace;
  bool operator==(const OpBuffers&) const = default;
};

/// No action, message or wait.
inline constexpr std::uint32_t no_index = 0xffffffff;

/// An action: one op, or a forward and a backward that are to run beside each other. It is launched behind
/// the rank's action before it, and may use nothing of what an earlier action of the rank still uses: that
/// actions (the two halves of a pair apart) run in program order is what the arena rests on.
struct ComputeStep {
  Action action;
  std::uint32_t position = 0;  // among the rank's actions
  /// The receive that brings each op its input (into LoweredRank::messages): no_index where the input is the
  /// step's data, was handed over on this rank, or belongs to the op itself. [op of the action]
  std::array<std::uint32_t, 2> received{no_index, no_index};
  /// The send that last used each op's output buffer; it must be done before the op writes. Mostly it is,
  /// long since.
  std::array<std::uint32_t, 2> reused{no_index, no_index};
  std::array<OpBuffers, 2> buffers;  // [op of the action]
};

/// One send or receive. `op.stage` is the stage of this rank that sends or receives.
struct MessageStep {
  Op op;
  Rank peer;
  std::uint32_t index = 0;           // into LoweredRank::messages: by which it is waited for and timed
  std::uint32_t made_by = no_index;  // sends: the position of the action that makes what is sent …
  std::uint8_t made_by_op = 0;       // … and which op of it
  Buffer buffer;
};

/// Messages launched together, behind the action before them: a send when that action is done (or, of a pair,
/// when the half that makes it is), a receive when the memory that it writes is free, which that action's end
/// ensures. `waited_together`: nothing after it runs before all of them are done. Otherwise it is one
/// message.
struct CommStep {
  std::vector<MessageStep> messages;
  bool waited_together = false;
  std::uint32_t behind = no_index;  // position of the action before it; none: the step's begin
};

/// The weight gradients of `stage` are summed over its owners in this pipeline and over the pipeline's
/// data-parallel copies: nothing on this rank adds to them any more. Nothing but the end of the step waits
/// for it. The two owners of two stages may reach them in opposite orders, so a backend that launches what
/// blocks until its peers arrive takes them in one order, by stage.
struct ReduceStep {
  Stage stage;
  std::uint32_t index = 0;          // among the rank's collectives
  std::uint32_t behind = no_index;  // position of the action before it
  std::vector<Rank> owners;         // ascending, this rank among them
};

using ProgramStep = std::variant<ComputeStep, CommStep, ReduceStep>;

/// A piece of the arena in use from the begin of one step of the program to the end of another.
struct ArenaBlock {
  MemoryUse use = MemoryUse::activations;
  Op op;  // that allocates it, or the receive
  Buffer buffer;
  std::uint32_t from = 0;  // into RankProgram::steps
  std::uint32_t to = 0;    // the last step that uses it
  bool operator==(const ArenaBlock&) const = default;
};

struct RankProgram {
  Rank rank;
  std::uint32_t ranks = 0;
  std::uint32_t stages = 0;
  std::uint32_t microbatches = 0;
  std::uint32_t data_parallel = 1;
  std::vector<ProgramStep> steps;  // one for one the steps of the LoweredRank
  std::uint32_t actions = 0;
  std::uint32_t messages = 0;
  std::uint32_t collectives = 0;
  std::vector<Stage> held;         // the stages that the rank holds a copy of, ascending
  Bytes arena;                     // of all buffers together, padding included
  std::vector<ArenaBlock> blocks;  // by `from`; send buffers, which are reserved all along, apart
  /// The most activation bytes at once in program order: kept_for_input, kept_for_weight and gradients_kept,
  /// without padding.
  Bytes peak_activations;
};

struct ArenaOptions {
  std::uint64_t alignment = 256;
  /// How many messages of one stage in one direction may be on their way before the next output waits for a
  /// buffer.
  std::uint32_t send_buffers = 4;
};

/// The program of one rank. `memory` has an entry a stage; empty: nothing has bytes, and sends have a buffer
/// each, so that nothing but the schedule itself makes anything wait. The schedule must be valid (`check`).
RankProgram make_rank_program(const LoweredSchedule& schedule, Rank rank,
                              std::span<const StageMemory> memory = {}, const ArenaOptions& options = {});

/// `rank 3, step 17, 2SEND_F5`: how messages name a step.
std::string describe(const RankProgram& program, std::uint32_t step);

}  // namespace plumb
