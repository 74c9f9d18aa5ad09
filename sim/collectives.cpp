#include "sim/collectives.hpp"

#include <algorithm>
#include <variant>

namespace plumb {
namespace {

struct Reduction {
  Stage stage;
  TimePoint ready;
  std::vector<Rank> ranks;
};

}  // namespace

void add_collectives(const LoweredSchedule& schedule, const CostModel& cost, Timeline& timeline) {
  std::vector<Reduction> reductions(schedule.stages);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    std::size_t action = 0;
    for (const Step& step : schedule.per_rank[r].steps) {
      if (std::holds_alternative<Action>(step)) ++action;
      const auto* collective = std::get_if<Collective>(&step);
      if (!collective || collective->op.kind != OpKind::reduce_grad) continue;
      const TimePoint arrival = action == 0 ? TimePoint{} : timeline.ranks[r].compute[action - 1].end;
      Reduction& reduction = reductions[collective->op.stage.value];
      reduction.stage = collective->op.stage;
      reduction.ready = std::max(reduction.ready, arrival);
      if (reduction.ranks.empty() || reduction.ranks.back() != Rank{r}) reduction.ranks.push_back(Rank{r});
    }
  }
  std::erase_if(reductions, [](const Reduction& reduction) { return reduction.ranks.empty(); });
  std::stable_sort(reductions.begin(), reductions.end(),
                   [](const Reduction& a, const Reduction& b) { return a.ready < b.ready; });
  std::vector<TimePoint> free(schedule.ranks());
  for (const Reduction& reduction : reductions) {
    TimePoint begin = reduction.ready;
    for (const Rank rank : reduction.ranks) begin = std::max(begin, free[rank.value]);
    const TimePoint end = begin + cost.stage(reduction.stage).reduction_over(reduction.ranks.size());
    for (const Rank rank : reduction.ranks) {
      free[rank.value] = end;
      timeline.ranks[rank.value].collectives.push_back(
          {Op{reduction.stage, Microbatch{0}, OpKind::reduce_grad}, begin, end});
    }
  }
}

void add_updates(const LoweredSchedule& schedule, const CostModel& cost, Timeline& timeline) {
  const auto takes_time = [](const StageCost& stage) { return stage.optimizer_step != Duration{}; };
  if (std::none_of(cost.stages.begin(), cost.stages.end(), takes_time)) return;
  TimePoint begin;
  for (const RankTimeline& rank : timeline.ranks) {
    if (!rank.compute.empty()) begin = std::max(begin, rank.compute.back().end);
    for (const CollectiveSpan& span : rank.collectives) begin = std::max(begin, span.end);
  }
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    std::vector<bool> held(schedule.stages);
    Duration duration;
    for (const ComputeSpan& span : timeline.ranks[r].compute) {
      for (const Op& op : span.action) {
        if (held[op.stage.value]) continue;
        held[op.stage.value] = true;
        duration += cost.stage(op.stage).optimizer_step;
      }
    }
    timeline.ranks[r].update = UpdateSpan{begin, begin + duration};
  }
}

}  // namespace plumb
