#include "sim/disturbance.hpp"

#include "sim/overlap.hpp"

#include <algorithm>
#include <utility>

namespace plumb {
namespace {

class Builder {
 public:
  Builder(const Program& program, const Dag& dag, const CostModel& cost, const ExecutionOptions& options)
      : program_(program), dag_(dag), cost_(cost), options_(options) {}

  Disturbance build() {
    made_.begin.push_back(0);
    for (std::uint32_t stage = 0; stage < cost_.stages.size(); ++stage) {
      for (std::uint32_t kind = 0; kind < 4; ++kind) {
        add(Action(Op{Stage{stage}, Microbatch{0}, static_cast<OpKind>(kind)}));
      }
    }
    for (const Action& pair : program_.pairs) add(pair);
    return std::move(made_);
  }

 private:
  void disturb(Phase& phase, const Segment& segment) const {
    const WorkClass message = *cost_.message_class;
    phase.slowdown = std::max<std::int64_t>(phase.slowdown, slowdown_ppm(cost_, segment.work_class, message));
    phase.slows = std::max<std::int64_t>(phase.slows, slowdown_ppm(cost_, message, segment.work_class));
  }

  void add(const Action& action) {
    const PairCost& cost = action.is_pair() ? dag_.pair(action) : dag_.single(action.first());
    const auto segment_of = [&](const PairSegment& span) -> const Segment& {
      const Op& op = span.of_backward ? action.second() : action.first();
      return cost_.stage(op.stage).of(op.kind).recipe[span.segment];
    };
    const bool releases = action.is_pair() && options_.pair_release == PairRelease::forward_first;
    std::vector<std::int64_t> ends{cost.duration.ns};
    if (releases) ends.push_back(cost.forward_end.ns);
    for (const PairSegment& span : cost.segments) {
      ends.push_back(span.begin.ns);
      ends.push_back(span.end.ns);
    }
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
    for (const std::int64_t end : ends) {
      if (end == 0) continue;
      Phase phase{end};
      phase.releases = releases && end == cost.forward_end.ns;
      if (cost.segments.empty()) {
        for (const Op& op : action) {
          for (const Segment& segment : cost_.stage(op.stage).of(op.kind).recipe) disturb(phase, segment);
        }
      }
      for (const PairSegment& span : cost.segments) {
        if (span.begin.ns < end && span.end.ns >= end) disturb(phase, segment_of(span));
      }
      made_.phases.push_back(phase);
    }
    if (made_.phases.size() == made_.begin.back()) made_.phases.push_back(Phase{cost.duration.ns});
    made_.begin.push_back(static_cast<std::uint32_t>(made_.phases.size()));
  }

  const Program& program_;
  const Dag& dag_;
  const CostModel& cost_;
  const ExecutionOptions& options_;
  Disturbance made_;
};

}  // namespace

Disturbance disturbance(const Program& program, const Dag& dag, const CostModel& cost,
                        const ExecutionOptions& options) {
  return Builder(program, dag, cost, options).build();
}

}  // namespace plumb
