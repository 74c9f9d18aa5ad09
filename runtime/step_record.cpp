#include "runtime/step_record.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>

namespace plumb {
namespace {

// The op whose output `op` waits for from another stage, as the schedule makes it: its gradient may come from
// backward_input or from backward.
class Makers {
 public:
  explicit Makers(const LoweredSchedule& schedule)
      : microbatches_(schedule.microbatches),
        gradient_(std::size_t{schedule.stages} * schedule.microbatches, OpKind::backward) {
    for (const LoweredRank& rank : schedule.per_rank) {
      for (const Step& step : rank.steps) {
        const auto* action = std::get_if<Action>(&step);
        if (!action) continue;
        for (const Op& op : *action) {
          if (op.kind == OpKind::backward_input) {
            gradient_[std::size_t{op.stage.value} * microbatches_ + op.microbatch.value] = op.kind;
          }
        }
      }
    }
  }
  Op operator()(const Need& need) const {
    const OpKind kind =
        need.product == Product::activation
            ? OpKind::forward
            : gradient_[std::size_t{need.stage.value} * microbatches_ + need.microbatch.value];
    return {need.stage, need.microbatch, kind};
  }

 private:
  std::uint32_t microbatches_;
  std::vector<OpKind> gradient_;
};

}  // namespace

Timeline assemble_timeline(const LoweredSchedule& schedule, std::span<const StepTimes> records,
                           std::span<const StageMemory> memory) {
  PLUMB_CHECK(records.size() == schedule.ranks());
  Timeline timeline;
  timeline.name = schedule.name;
  timeline.stages = schedule.stages;
  timeline.microbatches = schedule.microbatches;
  timeline.ranks.resize(schedule.ranks());

  // Messages: what the sender saw, then what the receiver did.
  std::vector<std::size_t> message_at(2 * std::size_t{schedule.stages} * schedule.microbatches);
  const auto bytes_of = [&](const Op& send) {
    if (memory.empty()) return Bytes{};
    const StageMemory& stage = memory.size() == 1 ? memory.front() : memory[send.stage.value];
    return send.kind == OpKind::send_forward ? stage.activation_message : stage.gradient_message;
  };
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    const auto& messages = schedule.per_rank[r].messages;
    PLUMB_CHECK(records[r].messages.size() == messages.size());
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if (!is_send(messages[i].op.kind)) continue;
      message_at[message_slot(carried_by(messages[i].op), schedule.microbatches)] = timeline.messages.size();
      const MessageTimes& sent = records[r].messages[i];
      timeline.messages.push_back({messages[i].op, Rank{r}, messages[i].peer, sent.posted, TimePoint{},
                                   sent.begin.value_or(TimePoint{-1}), sent.end.value_or(TimePoint{-1}),
                                   bytes_of(messages[i].op)});
    }
  }
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    const auto& messages = schedule.per_rank[r].messages;
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if (!is_recv(messages[i].op.kind)) continue;
      MessageSpan& span =
          timeline.messages[message_at[message_slot(carried_by(messages[i].op), schedule.microbatches)]];
      const MessageTimes& received = records[r].messages[i];
      span.receive_posted = received.posted;
      if (received.begin) span.begin = *received.begin;
      if (received.end) span.end = *received.end;
      if (span.begin < TimePoint{}) span.begin = std::max(span.send_ready, span.receive_posted);
      if (span.end < span.begin) span.end = span.begin;
    }
  }

  const Makers makers(schedule);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    RankTimeline& rank = timeline.ranks[r];
    const StepTimes& record = records[r];
    rank.segments = record.segments;
    if (record.update) rank.update = UpdateSpan{record.update->begin, record.update->end};
    // Which inputs came as messages: a stage whose neighbour lives here has none.
    std::vector<bool> received(message_at.size());
    for (const Message& message : schedule.per_rank[r].messages) {
      if (is_recv(message.op.kind))
        received[message_slot(carried_by(message.op), schedule.microbatches)] = true;
    }
    std::size_t position = 0;
    std::size_t collective = 0;
    for (const Step& step : schedule.per_rank[r].steps) {
      if (const auto* action = std::get_if<Action>(&step)) {
        const Interval& ran = record.compute.at(position++);
        ComputeSpan& span =
            rank.compute.emplace_back(ComputeSpan{*action, ran.begin, ran.end, ran.begin, std::nullopt});
        TimePoint latest{-1};
        for (const Op& op : *action) {
          visit_needs(op, schedule.stages, [&](const Need& need) {
            if (need.stage == op.stage || !received[message_slot(need, schedule.microbatches)]) return;
            const MessageSpan& in = timeline.messages[message_at[message_slot(need, schedule.microbatches)]];
            if (in.end <= latest) return;
            latest = in.end;
            span.last_input = makers(need);
            span.last_input_sent = in.send_ready;
          });
        }
      } else if (const auto* reduction = std::get_if<Collective>(&step)) {
        const Interval& ran = record.collectives.at(collective++);
        rank.collectives.push_back({reduction->op, ran.begin, ran.end});
      }
    }
    std::stable_sort(rank.collectives.begin(), rank.collectives.end(),
                     [](const CollectiveSpan& a, const CollectiveSpan& b) { return a.begin < b.begin; });
  }
  return timeline;
}

RankMemory recorded_memory(const RankProgram& program, const StepTimes& times,
                           const MemoryBreakdown& always) {
  struct Change {
    std::uint32_t step;
    bool at_end;
    MemoryUse use;
    Bytes bytes;
  };
  std::vector<Change> changes;
  for (const ArenaBlock& block : program.blocks) {
    const Bytes bytes{static_cast<std::int64_t>(block.buffer.bytes)};
    changes.push_back({block.from, false, block.use, bytes});
    changes.push_back({block.to, true, block.use, -bytes});
  }
  std::stable_sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) {
    return a.step != b.step ? a.step < b.step : a.at_end < b.at_end;
  });
  RankMemory memory;
  MemoryBreakdown now = always;
  memory.curve.push_back({TimePoint{}, now.total()});
  memory.peak = now;
  std::uint32_t live = 0;
  std::size_t change = 0;
  const ComputeStep* latest = nullptr;
  // One side of a step: everything that changes there, at one time.
  const auto follow = [&](std::uint32_t step, bool at_end, TimePoint time) {
    for (; change < changes.size() && changes[change].step == step && changes[change].at_end == at_end;
         ++change) {
      now[changes[change].use] += changes[change].bytes;
    }
    const Bytes total = now.total();
    if (memory.curve.back().time == time) {
      memory.curve.back().bytes = total;
    } else if (memory.curve.back().bytes != total) {
      memory.curve.push_back({time, total});
    }
    if (total > memory.peak.total()) {
      memory.peak = now;
      memory.peak_time = time;
      if (latest) memory.peak_action = latest->action;
    }
  };
  for (std::uint32_t i = 0; i < program.steps.size(); ++i) {
    TimePoint begin = latest ? times.compute[latest->position].end : TimePoint{};
    TimePoint end = begin;
    if (const auto* compute = std::get_if<ComputeStep>(&program.steps[i])) {
      latest = compute;
      begin = times.compute[compute->position].begin;
      end = times.compute[compute->position].end;
      for (const Op& op : compute->action) {
        if (op.kind == OpKind::forward)
          memory.peak_live_activations = std::max(memory.peak_live_activations, ++live);
        if (gives_weight_gradient(op.kind)) --live;
      }
    }
    follow(i, false, begin);
    follow(i, true, end);
  }
  return memory;
}

}  // namespace plumb
