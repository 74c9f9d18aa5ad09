#include "runtime/rank_program.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <string>

#include <fmt/format.h>

namespace plumb {
namespace {

// Gives blocks their offsets in program order: a block takes the tightest gap that holds it, as a heap would,
// but before anything runs.
class ArenaPlanner {
 public:
  explicit ArenaPlanner(std::uint64_t alignment) : alignment_(alignment) {}

  std::uint64_t take(std::uint64_t bytes) {
    const std::uint64_t size = padded(bytes);
    auto best = gaps_.end();
    for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
      if (gap->second >= size && (best == gaps_.end() || gap->second < best->second)) best = gap;
    }
    if (best == gaps_.end()) {
      // A gap at the top grows; otherwise the arena does.
      std::uint64_t offset = top_;
      if (!gaps_.empty()) {
        const auto last = std::prev(gaps_.end());
        if (last->first + last->second == top_) {
          offset = last->first;
          gaps_.erase(last);
        }
      }
      top_ = offset + size;
      return offset;
    }
    const auto [offset, room] = *best;
    gaps_.erase(best);
    if (room > size) gaps_.emplace(offset + size, room - size);
    return offset;
  }

  void give_back(const Buffer& buffer) {
    std::uint64_t offset = buffer.offset;
    std::uint64_t size = padded(buffer.bytes);
    auto next = gaps_.lower_bound(offset);
    if (next != gaps_.end() && next->first == offset + size) {
      size += next->second;
      next = gaps_.erase(next);
    }
    if (next != gaps_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == offset) {
        offset = before->first;
        size += before->second;
        gaps_.erase(before);
      }
    }
    gaps_.emplace(offset, size);
  }

  std::uint64_t top() const { return top_; }

 private:
  std::uint64_t padded(std::uint64_t bytes) const {
    return (bytes + alignment_ - 1) / alignment_ * alignment_;
  }
  std::uint64_t alignment_;
  std::map<std::uint64_t, std::uint64_t> gaps_;  // offset -> bytes
  std::uint64_t top_ = 0;
};

class Maker {
 public:
  Maker(const LoweredSchedule& schedule, Rank rank, std::span<const StageMemory> memory,
        const ArenaOptions& options)
      : schedule_(schedule),
        list_(schedule.per_rank[rank.value]),
        memory_(memory),
        options_(options),
        planner_(options.alignment),
        made_(3 * std::size_t{schedule.stages} * schedule.microbatches),
        received_(made_.size(), no_index),
        sent_(made_.size(), no_index) {
    PLUMB_CHECK(memory.size() <= 1 || memory.size() == schedule.stages);
    PLUMB_CHECK(options.alignment > 0 && options.send_buffers > 0);
    program_.rank = rank;
    program_.ranks = schedule.ranks();
    program_.stages = schedule.stages;
    program_.microbatches = schedule.microbatches;
    program_.data_parallel = schedule.data_parallel;
    program_.messages = static_cast<std::uint32_t>(list_.messages.size());
  }

  RankProgram make() {
    note_messages();
    lay_out_steps();
    if (!memory_.empty()) plan_arena();
    return std::move(program_);
  }

 private:
  struct Made {
    std::uint32_t step = no_index;
    std::uint32_t position = no_index;
    std::uint8_t op = 0;
  };

  std::size_t slot(const Need& need) const {
    return (std::size_t{need.stage.value} * schedule_.microbatches + need.microbatch.value) * 3 +
           static_cast<std::size_t>(need.product);
  }
  StageMemory memory_of(Stage stage) const {
    if (memory_.empty()) return {};
    return memory_.size() == 1 ? memory_.front() : memory_[stage.value];
  }

  void note_messages() {
    for (std::uint32_t i = 0; i < list_.messages.size(); ++i) {
      const Op& op = list_.messages[i].op;
      (is_send(op.kind) ? sent_ : received_)[slot(carried_by(op))] = i;
    }
    for (std::uint32_t r = 0; r < schedule_.ranks(); ++r) {
      for (const Step& step : schedule_.per_rank[r].steps) {
        const auto* collective = std::get_if<Collective>(&step);
        if (collective) owners_[collective->op.stage].push_back(Rank{r});
      }
    }
  }

  void lay_out_steps() {
    std::uint32_t behind = no_index;
    std::vector<bool> held(schedule_.stages);
    std::vector<bool> waited(list_.messages.size());
    for (const Step& step : list_.steps) {
      const auto index = static_cast<std::uint32_t>(program_.steps.size());
      if (const auto* action = std::get_if<Action>(&step)) {
        ComputeStep compute;
        compute.action = *action;
        compute.position = behind = program_.actions++;
        std::uint8_t k = 0;
        for (const Op& op : *action) {
          held[op.stage.value] = true;
          visit_needs(op, schedule_.stages, [&](const Need& need) {
            const std::uint32_t message = received_[slot(need)];
            if (need.stage != op.stage && message != no_index && !waited[message])
              compute.received[k] = message;
          });
          if (op.kind == OpKind::forward) {
            made_[slot({Product::activation, op.stage, op.microbatch})] = {index, behind, k};
          }
          if (gives_input_gradient(op.kind)) {
            made_[slot({Product::input_gradient, op.stage, op.microbatch})] = {index, behind, k};
          }
          if (gives_weight_gradient(op.kind)) {
            made_[slot({Product::weight_gradient, op.stage, op.microbatch})] = {index, behind, k};
          }
          ++k;
        }
        program_.steps.emplace_back(compute);
      } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
        CommStep comm;
        comm.waited_together = batch->waited_together;
        comm.behind = behind;
        std::uint32_t i = batch->first_message;
        for (const Message& message : list_.messages_of(*batch)) {
          MessageStep& made =
              comm.messages.emplace_back(MessageStep{message.op, message.peer, i, no_index, 0, {}});
          if (is_send(message.op.kind)) {
            const Made& maker = made_[slot(carried_by(message.op))];
            PLUMB_CHECK(maker.step != no_index);
            made.made_by = maker.position;
            made.made_by_op = maker.op;
          }
          waited[i++] = batch->waited_together;
        }
        program_.steps.emplace_back(std::move(comm));
      } else {
        const Stage stage = std::get<Collective>(step).op.stage;
        program_.steps.emplace_back(ReduceStep{stage, program_.collectives++, behind, owners_[stage]});
      }
    }
    for (std::uint32_t s = 0; s < held.size(); ++s) {
      if (held[s]) program_.held.push_back(Stage{s});
    }
  }

  // Walks the program once, giving blocks their place when they come to life and taking it back behind their
  // last step.
  void plan_arena() {
    reserve_send_buffers();
    std::vector<std::vector<Buffer>> ends(program_.steps.size());
    Bytes live;
    std::vector<Bytes> freed(program_.steps.size());
    const auto take = [&](MemoryUse use, const Op& op, Bytes bytes, std::uint32_t from,
                          std::uint32_t to) -> Buffer {
      if (bytes.count == 0) return {};
      PLUMB_CHECK(from <= to && to != no_index);
      const auto size = static_cast<std::uint64_t>(bytes.count);
      const Buffer buffer{planner_.take(size), size};
      ends[to].push_back(buffer);
      program_.blocks.push_back({use, op, buffer, from, to});
      if (use == MemoryUse::activations || use == MemoryUse::weight_gradient_remnants) {
        live += bytes;
        freed[to] += bytes;
        program_.peak_activations = std::max(program_.peak_activations, live);
      }
      return buffer;
    };
    // What ops leave for later ops of their stage and microbatch, or hand over: [slot of the product].
    std::vector<Buffer> inputs(made_.size());  // of the op that waits for the product
    struct Kept {
      Buffer for_input, for_weight, gradients;
    };
    std::vector<Kept> kept(std::size_t{schedule_.stages} * schedule_.microbatches);

    for (std::uint32_t i = 0; i < program_.steps.size(); ++i) {
      if (auto* comm = std::get_if<CommStep>(&program_.steps[i])) {
        for (MessageStep& message : comm->messages) {
          const Need need = carried_by(message.op);
          if (is_send(message.op.kind)) {
            message.buffer = send_buffers_[slot(need)];
          } else {
            inputs[slot(need)] = message.buffer =
                take(MemoryUse::receive_buffers, message.op, bytes_of(need), i, consumer(need));
          }
        }
      } else if (auto* compute = std::get_if<ComputeStep>(&program_.steps[i])) {
        std::size_t k = 0;
        for (const Op& op : compute->action) {
          OpBuffers& buffers = compute->buffers[k];
          const StageMemory memory = memory_of(op.stage);
          Kept& own = kept[std::size_t{op.stage.value} * schedule_.microbatches + op.microbatch.value];
          const Need output{op.kind == OpKind::forward ? Product::activation : Product::input_gradient,
                            op.stage, op.microbatch};
          if (op.kind == OpKind::forward) {
            const std::uint32_t input_done =
                made_[slot({Product::input_gradient, op.stage, op.microbatch})].step;
            const std::uint32_t weight_done =
                made_[slot({Product::weight_gradient, op.stage, op.microbatch})].step;
            own.for_input = take(MemoryUse::activations, op, memory.kept_for_input, i, input_done);
            own.for_weight = take(MemoryUse::activations, op, memory.kept_for_weight, i, weight_done);
          } else if (op.kind == OpKind::backward_input) {
            const std::uint32_t weight_done =
                made_[slot({Product::weight_gradient, op.stage, op.microbatch})].step;
            own.gradients =
                take(MemoryUse::weight_gradient_remnants, op, memory.gradients_kept, i, weight_done);
          }
          visit_needs(op, schedule_.stages, [&](const Need& need) {
            if (need.stage != op.stage) buffers.input = inputs[slot(need)];
          });
          if (op.kind != OpKind::backward_weight && has_consumer(output)) {
            if (sent_[slot(output)] != no_index) {
              buffers.output = send_buffers_[slot(output)];
              compute->reused[k] = reused_[slot(output)];
            } else {
              buffers.output = inputs[slot(output)] =
                  take(MemoryUse::receive_buffers, op, bytes_of(output), i, consumer(output));
            }
          }
          buffers.kept_for_input = op.kind == OpKind::backward_weight ? Buffer{} : own.for_input;
          buffers.kept_for_weight = own.for_weight;
          buffers.gradients_kept = own.gradients;
          buffers.workspace =
              take(MemoryUse::workspace, op, memory.workspace[static_cast<std::size_t>(op.kind)], i, i);
          ++k;
        }
      }
      for (const Buffer& buffer : ends[i]) planner_.give_back(buffer);
      live -= freed[i];
    }
    program_.arena = Bytes{static_cast<std::int64_t>(planner_.top())};
  }

  Bytes bytes_of(const Need& need) const {
    const StageMemory memory = memory_of(need.stage);
    return need.product == Product::activation ? memory.activation_message : memory.gradient_message;
  }
  bool has_consumer(const Need& product) const {
    return product.product == Product::activation ? product.stage.value + 1 < schedule_.stages
                                                  : product.stage.value > 0;
  }
  // The step of this rank whose op waits for the product.
  std::uint32_t consumer(const Need& product) const {
    const Op waits = recv_of(product);
    const Product made = product.product;  // the consumer makes the next of the same kind
    return made_[slot({made, waits.stage, waits.microbatch})].step;
  }

  // Outputs that go to another rank take turns in a few buffers for each stage and direction.
  void reserve_send_buffers() {
    send_buffers_.resize(made_.size());
    reused_.assign(made_.size(), no_index);
    struct Ring {
      std::vector<Buffer> buffers;
      std::vector<std::uint32_t> messages;  // the latest of each buffer
      std::size_t next = 0;
    };
    std::map<std::pair<Stage, Product>, Ring> rings;
    for (const ProgramStep& step : program_.steps) {
      const auto* compute = std::get_if<ComputeStep>(&step);
      if (!compute) continue;
      for (const Op& op : compute->action) {
        if (op.kind == OpKind::backward_weight) continue;
        const Need output{op.kind == OpKind::forward ? Product::activation : Product::input_gradient,
                          op.stage, op.microbatch};
        const std::uint32_t message = sent_[slot(output)];
        const Bytes bytes = bytes_of(output);
        if (message == no_index || bytes.count == 0) continue;
        Ring& ring = rings[{op.stage, output.product}];
        if (ring.buffers.size() < options_.send_buffers) {
          const auto size = static_cast<std::uint64_t>(bytes.count);
          ring.buffers.push_back({planner_.take(size), size});
          ring.messages.push_back(no_index);
        }
        const std::size_t at = ring.next++ % options_.send_buffers;
        send_buffers_[slot(output)] = ring.buffers[at];
        reused_[slot(output)] = ring.messages[at];
        ring.messages[at] = message;
      }
    }
  }

  const LoweredSchedule& schedule_;
  const LoweredRank& list_;
  std::span<const StageMemory> memory_;
  ArenaOptions options_;
  ArenaPlanner planner_;
  RankProgram program_;
  std::vector<Made> made_;               // [slot] on this rank
  std::vector<std::uint32_t> received_;  // [slot] the message that brings it, or no_index
  std::vector<std::uint32_t> sent_;      // [slot] the message that takes it away
  std::vector<Buffer> send_buffers_;     // [slot]
  std::vector<std::uint32_t> reused_;    // [slot]
  std::map<Stage, std::vector<Rank>> owners_;
};

}  // namespace

RankProgram make_rank_program(const LoweredSchedule& schedule, Rank rank, std::span<const StageMemory> memory,
                              const ArenaOptions& options) {
  return Maker(schedule, rank, memory, options).make();
}

std::string describe(const RankProgram& program, std::uint32_t step) {
  if (step >= program.steps.size()) return fmt::format("rank {}, at the end of its step", program.rank.value);
  std::string what;
  const ProgramStep& at = program.steps[step];
  if (const auto* compute = std::get_if<ComputeStep>(&at)) {
    what = to_string(compute->action);
  } else if (const auto* comm = std::get_if<CommStep>(&at)) {
    for (const MessageStep& message : comm->messages) {
      what += fmt::format("{}{} {} rank {}", what.empty() ? "" : ", ", to_string(message.op),
                          is_send(message.op.kind) ? "to" : "from", message.peer.value);
    }
  } else {
    what = to_string(Op{std::get<ReduceStep>(at).stage, Microbatch{0}, OpKind::reduce_grad});
  }
  return fmt::format("rank {}, step {}, {}", program.rank.value, step, what);
}

}  // namespace plumb
