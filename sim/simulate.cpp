#include "sim/simulate.hpp"

#include "schedules/ir/error.hpp"
#include "sim/arithmetic.hpp"
#include "sim/collectives.hpp"
#include "sim/contention.hpp"
#include "sim/dag.hpp"
#include "sim/program.hpp"
#include "sim/replay.hpp"

#include <algorithm>

namespace plumb {
namespace {

struct MessageTimes {
  std::int64_t send_ready = 0;
  std::int64_t receive_posted = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// Times of a contention-free replay: everything follows from the ends of the nodes.
class ReplayedTimes {
 public:
  explicit ReplayedTimes(const Dag& dag) : dag_(dag), ends_(dag.nodes.size()) { replay(dag, ends_); }
  std::int64_t begin(std::uint32_t node) const { return ends_[node] - dag_.nodes[node].duration; }
  std::int64_t end(std::uint32_t node) const { return ends_[node]; }
  std::int64_t reached(std::uint32_t node, std::int64_t x) const { return begin(node) + x; }
  MessageTimes message(std::uint32_t m) const {
    const Dag::Message& message = dag_.messages[m];
    const std::int64_t ready = after(message.sent_behind) + dag_.lags[message.early];
    return {ready, after(message.received_behind), ready, ready + dag_.lags[message.transfer]};
  }

 private:
  std::int64_t after(std::uint32_t node) const { return node == Dag::none ? 0 : ends_[node]; }
  const Dag& dag_;
  std::vector<std::int64_t> ends_;
};

// Times of an event-driven run.
class RunTimes {
 public:
  RunTimes(const Dag& dag, const Program& program, const PhaseTimes& phases)
      : dag_(dag), program_(program), phases_(phases) {}
  std::int64_t begin(std::uint32_t node) const { return program_.actions[node].begin; }
  std::int64_t end(std::uint32_t node) const { return program_.actions[node].end; }
  MessageTimes message(std::uint32_t m) const {
    const Program::Message& message = program_.messages[m];
    return {message.send_ready, posted(m, message), message.begin, message.end};
  }
  // When the action got as far as it would be at `x` after its begin with nothing beside it.
  std::int64_t reached(std::uint32_t node, std::int64_t x) const {
    const Program::Action& action = program_.actions[node];
    if (phases_.first.empty() || x == 0) {
      return action.begin + stretch(x, action.duration, action.end - action.begin);
    }
    const auto first = phases_.undisturbed.begin() + phases_.first[node];
    const auto last = phases_.undisturbed.begin() + phases_.first[node + 1];
    const auto found = std::lower_bound(first, last, x);
    PLUMB_CHECK(found != last);
    return phases_.real[static_cast<std::size_t>(found - phases_.undisturbed.begin())];
  }

 private:
  // Where the run did not note when the receive was launched, that was when the action before it ended.
  std::int64_t posted(std::uint32_t m, const Program::Message& message) const {
    if (message.receive_posted != Program::unknown) return message.receive_posted;
    const std::uint32_t node = dag_.messages[m].received_behind;
    return node == Dag::none ? 0 : end(node);
  }

  const Dag& dag_;
  const Program& program_;
  const PhaseTimes& phases_;
};

// The op whose output the message carries that `op` waits for.
Op maker_of(const Op& op, OpKind maker) {
  return {Stage{maker == OpKind::forward ? op.stage.value - 1 : op.stage.value + 1}, op.microbatch, maker};
}

// The segments of an action, stretched where it lasts longer or shorter than its recipe (a slow rank, an
// override) and again where messages slowed it.
template <class Times>
void append_segments(const Action& action, std::uint32_t node, const Times& times, const CostModel& cost,
                     const Dag& dag, std::vector<SegmentSpan>& out) {
  const std::int64_t duration = dag.nodes[node].duration;
  const auto add = [&](const Op& op, const Segment& segment, Duration from, Duration to, Duration whole) {
    out.push_back({op, segment.lane, segment.name,
                   TimePoint{times.reached(node, stretch(from.ns, whole.ns, duration))},
                   TimePoint{times.reached(node, stretch(to.ns, whole.ns, duration))}});
  };
  if (!action.is_pair()) {
    const OpCost& op = cost.stage(action.first().stage).of(action.first().kind);
    if (op.recipe.size() < 2) return;
    const PairCost& alone = dag.single(action.first());
    for (const PairSegment& span : alone.segments) {
      add(action.first(), op.recipe[span.segment], span.begin, span.end, alone.duration);
    }
    return;
  }
  const PairCost& pair = dag.pair(action);
  for (const PairSegment& span : pair.segments) {
    const Op& op = span.of_backward ? action.second() : action.first();
    add(op, cost.stage(op.stage).of(op.kind).recipe[span.segment], span.begin, span.end, pair.duration);
  }
}

bool has_segments(const CostModel& cost, const Dag& dag) {
  for (const StageCost& stage : cost.stages) {
    for (const OpCost* op :
         {&stage.forward, &stage.backward_input, &stage.backward_weight, &stage.backward}) {
      if (op->recipe.size() > 1) return true;
    }
  }
  for (const auto& [stages, pair] : dag.pairs) {
    if (!pair.segments.empty()) return true;
  }
  return false;
}

template <class Times>
Timeline assemble(const LoweredSchedule& schedule, const CostModel& cost, const Dag& dag, const Times& times,
                  Detail detail) {
  Timeline timeline;
  timeline.name = schedule.name;
  timeline.stages = schedule.stages;
  timeline.microbatches = schedule.microbatches;
  timeline.ranks.resize(schedule.ranks());
  timeline.messages.reserve(dag.messages.size());
  const bool segments = detail == Detail::segments && has_segments(cost, dag);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    RankTimeline& rank = timeline.ranks[r];
    std::uint32_t node = dag.rank_begin[r];
    std::uint32_t message = dag.message_begin[r];
    rank.compute.reserve(dag.rank_begin[r + 1] - node);
    for (const Step& step : schedule.per_rank[r].steps) {
      if (const auto* action = std::get_if<Action>(&step)) {
        const TimePoint begin{times.begin(node)};
        const TimePoint end{times.end(node)};
        ComputeSpan& span = rank.compute.emplace_back(ComputeSpan{*action, begin, end, begin, std::nullopt});
        std::int64_t latest = -1;
        std::size_t slot = 0;
        for (const Op& op : *action) {
          const std::uint32_t m = dag.inputs[node][slot++];
          if (m == Dag::none) continue;
          const MessageTimes in = times.message(m);
          if (in.end <= latest) continue;
          latest = in.end;
          span.last_input = maker_of(op, dag.messages[m].maker);
          span.last_input_sent = TimePoint{in.send_ready};
        }
        if (segments) append_segments(*action, node, times, cost, dag, rank.segments);
        ++node;
      } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
        for (const Message& out : schedule.per_rank[r].messages_of(*batch)) {
          if (!is_send(out.op.kind)) continue;
          const MessageTimes at = times.message(message++);
          timeline.messages.push_back({out.op, Rank{r}, out.peer, TimePoint{at.send_ready},
                                       TimePoint{at.receive_posted}, TimePoint{at.begin}, TimePoint{at.end},
                                       bytes_of(out.op, cost)});
        }
      }
    }
  }
  if (dag.reduces) add_collectives(schedule, cost, timeline);
  add_updates(schedule, cost, timeline);
  return timeline;
}

}  // namespace

Timeline simulate(const LoweredSchedule& schedule, const CostModel& cost, const ExecutionOptions& options,
                  Detail detail) {
  const Dag dag = build_dag(schedule, cost, options);
  const bool slows = options.messages_slow_compute && cost.message_class && !cost.slowdown_ppm.empty();
  const bool shares = dag.batched || options.links_are_shared || options.duplex == Duplex::half;
  if (!shares && !slows && !options.transfers_occupy_compute) {
    return assemble(schedule, cost, dag, ReplayedTimes(dag), detail);
  }
  Program program = compile(schedule, dag, options);
  PhaseTimes phases;
  if (options.transfers_occupy_compute) {
    run_exclusive(program, dag, options);  // nothing runs beside a message, so nothing is slowed either
  } else if (slows) {
    phases = run_slowed(program, dag, cost, options);
  } else {
    run_links(program, dag, options);
  }
  return assemble(schedule, cost, dag, RunTimes(dag, program, phases), detail);
}

}  // namespace plumb
