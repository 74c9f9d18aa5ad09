#include "runtime/executor_overhead.hpp"

#include "runtime/rank_program.hpp"
#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace plumb {
namespace {

/// An action's end: what explains that something else could not begin earlier.
struct Cause {
  TimePoint time;  // when what waits could have begun
  std::uint32_t rank = 0;
  std::uint32_t position = no_index;  // none: the step's begin
};

/// What each action and each message waits for, by the ranks' programs: without bytes, so that a buffer each
/// is there for everything.
class Waits {
 public:
  Waits(const LoweredSchedule& schedule, const Timeline& timeline)
      : timeline_(timeline),
        microbatches_(schedule.microbatches),
        transfers_(2 * std::size_t{schedule.stages} * schedule.microbatches),
        reductions_(schedule.stages) {
    for (const MessageSpan& span : timeline.messages) at(span.send).span = &span;
    for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
      programs_.push_back(make_rank_program(schedule, Rank{r}));
      arrivals_.emplace_back(programs_.back().actions);
    }
    for (std::uint32_t r = 0; r < schedule.ranks(); ++r) read(programs_[r], schedule.per_rank[r], r);
    for (const RankTimeline& rank : timeline.ranks) {
      for (const CollectiveSpan& span : rank.collectives) {
        reductions_[span.op.stage.value].begin = span.begin;
        reductions_[span.op.stage.value].end = span.end;
      }
    }
  }

  /// The last of what the action waits for.
  Cause before(std::uint32_t rank, std::uint32_t position) const {
    Cause latest;
    if (position > 0) latest = {end(rank, position - 1), rank, position - 1};
    for (const Transfer* transfer : arrivals_[rank][position]) {
      if (transfer->span->end <= latest.time) continue;
      const bool sender_last = transfer->span->send_ready >= transfer->span->receive_posted;
      const Cause& posted = sender_last ? transfer->sent : transfer->received;
      latest = {transfer->span->end, posted.rank, posted.position};
    }
    return latest;
  }

  /// The gradients of one stage, summed. It waits for the last action of every owner before it, and owners
  /// take part in one reduction at a time.
  struct Reduction {
    TimePoint begin, end;
    Cause behind;
    std::vector<std::uint32_t> owners;
  };
  /// The last to end on any of these ranks (none: on any) at `before` or earlier.
  const Reduction* last_reduction(TimePoint before, const std::vector<std::uint32_t>& ranks) const {
    const Reduction* last = nullptr;
    for (const Reduction& one : reductions_) {
      const bool meets = ranks.empty() || std::find_first_of(one.owners.begin(), one.owners.end(),
                                                             ranks.begin(), ranks.end()) != one.owners.end();
      if (meets && !one.owners.empty() && one.end <= before && (!last || one.end > last->end)) last = &one;
    }
    return last;
  }

  /// The action that ends last.
  Cause last_action() const {
    Cause last;
    for (std::uint32_t r = 0; r < timeline_.ranks.size(); ++r) {
      const auto actions = static_cast<std::uint32_t>(timeline_.ranks[r].compute.size());
      if (actions > 0 && end(r, actions - 1) > last.time) last = {end(r, actions - 1), r, actions - 1};
    }
    return last;
  }

 private:
  struct Transfer {
    const MessageSpan* span = nullptr;
    Cause sent, received;  // behind which actions its two sides are posted
  };

  TimePoint end(std::uint32_t rank, std::uint32_t position) const {
    return timeline_.ranks[rank].compute.at(position).end;
  }
  Transfer& at(const Op& message) { return transfers_[message_slot(carried_by(message), microbatches_)]; }

  void read(const RankProgram& program, const LoweredRank& list, std::uint32_t r) {
    PLUMB_CHECK(program.actions == timeline_.ranks[r].compute.size());
    std::vector<const Transfer*> together;  // waited for before the next action
    for (const ProgramStep& step : program.steps) {
      if (const auto* compute = std::get_if<ComputeStep>(&step)) {
        std::vector<const Transfer*>& arrivals = arrivals_[r][compute->position];
        arrivals.swap(together);
        for (const std::uint32_t message : compute->received) {
          if (message != no_index) arrivals.push_back(&at(list.messages[message].op));
        }
      } else if (const auto* comm = std::get_if<CommStep>(&step)) {
        for (const MessageStep& message : comm->messages) {
          Transfer& transfer = at(message.op);
          const bool send = is_send(message.op.kind);
          (send ? transfer.sent : transfer.received) = {
              {}, r, send && !comm->waited_together ? message.made_by : comm->behind};
          if (comm->waited_together) together.push_back(&transfer);
        }
      } else {
        const auto& reduction = std::get<ReduceStep>(step);
        Reduction& made = reductions_[reduction.stage.value];
        made.owners.push_back(r);
        if (reduction.behind != no_index && end(r, reduction.behind) > made.behind.time)
          made.behind = {end(r, reduction.behind), r, reduction.behind};
      }
    }
  }

  const Timeline& timeline_;
  std::uint32_t microbatches_;
  std::vector<RankProgram> programs_;
  std::vector<Transfer> transfers_;
  std::vector<std::vector<std::vector<const Transfer*>>> arrivals_;  // [rank][position]
  std::vector<Reduction> reductions_;                                // [stage]
};

}  // namespace

ExecutorOverhead executor_overhead(const LoweredSchedule& schedule, const Timeline& timeline) {
  PLUMB_CHECK(timeline.ranks.size() == schedule.ranks());
  const Waits waits(schedule, timeline);
  ExecutorOverhead overhead;
  const auto count = [&](Duration gap, std::uint32_t rank, std::optional<Action> before) {
    if (gap.ns <= 0) return;
    overhead.gaps += gap;
    if (gap <= overhead.longest) return;
    overhead.longest = gap;
    overhead.rank = Rank{rank};
    overhead.before = before;
  };
  Cause at = waits.last_action();
  overhead.step = at.time - TimePoint{};
  const Waits::Reduction* reduction =
      waits.last_reduction(TimePoint{std::numeric_limits<std::int64_t>::max()}, {});
  if (reduction && reduction->end > at.time) {
    overhead.step = reduction->end - TimePoint{};
    while (true) {
      at = reduction->behind;
      const Waits::Reduction* earlier = waits.last_reduction(reduction->begin, reduction->owners);
      const bool follows = earlier && earlier != reduction && earlier->end > at.time;
      count(reduction->begin - (follows ? earlier->end : at.time), at.rank, std::nullopt);
      if (!follows) break;
      reduction = earlier;
    }
  }
  while (at.position != no_index) {
    const ComputeSpan& span = timeline.ranks[at.rank].compute[at.position];
    const Cause cause = waits.before(at.rank, at.position);
    count(span.begin - cause.time, at.rank, span.action);
    at = cause;
  }
  return overhead;
}

}  // namespace plumb
