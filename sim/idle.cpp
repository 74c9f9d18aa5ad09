#include "sim/idle.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace plumb {
namespace {

// Actions that may be compared in length: single ops by kind, and pairs.
constexpr std::size_t shapes = 5;
std::size_t shape_of(const Action& action) {
  return action.is_pair() ? shapes - 1 : static_cast<std::size_t>(action.first().kind);
}

struct Producer {
  Duration duration;
  std::uint8_t shape = 0;
};

// For every op whose output may travel, how long the action lasted that made it.
class Producers {
 public:
  explicit Producers(const Timeline& timeline) : microbatches_(timeline.microbatches) {
    producers_.resize(std::size_t{2} * timeline.stages * timeline.microbatches);
    for (const RankTimeline& rank : timeline.ranks) {
      for (const ComputeSpan& span : rank.compute) {
        for (const Op& op : span.action) {
          if (op.kind == OpKind::backward_weight) continue;
          producers_[slot(op)] = {span.end - span.begin, static_cast<std::uint8_t>(shape_of(span.action))};
        }
      }
    }
  }
  const Producer& of(const Op& op) const { return producers_[slot(op)]; }

 private:
  std::size_t slot(const Op& op) const {
    const std::size_t slot =
        2 * (static_cast<std::size_t>(op.stage.value) * microbatches_ + op.microbatch.value) +
        (op.kind == OpKind::forward ? 0 : 1);
    PLUMB_CHECK(op.microbatch.value < microbatches_ && slot < producers_.size());
    return slot;
  }
  std::size_t microbatches_;
  std::vector<Producer> producers_;
};

}  // namespace

StepBounds step_bounds(const Timeline& timeline) {
  StepBounds bounds;
  bool any = false;
  for (const RankTimeline& rank : timeline.ranks) {
    if (rank.compute.empty()) continue;
    const TimePoint begin = rank.compute.front().begin;
    const TimePoint end = rank.compute.back().end;
    bounds.begin = any ? std::min(bounds.begin, begin) : begin;
    bounds.end = any ? std::max(bounds.end, end) : end;
    any = true;
  }
  return bounds;
}

std::vector<std::vector<IdleSlice>> idle_gaps(const Timeline& timeline) {
  const StepBounds bounds = step_bounds(timeline);
  const Producers producers(timeline);
  std::vector<std::vector<IdleSlice>> slices(timeline.ranks.size());

  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    const auto add = [&slices, r](TimePoint begin, TimePoint end, IdleCause cause) {
      if (begin < end) slices[r].push_back({begin, end, cause});
    };
    const std::vector<ComputeSpan>& compute = timeline.ranks[r].compute;
    if (compute.empty()) {
      add(bounds.begin, bounds.end, IdleCause::warm_up);
      continue;
    }
    add(bounds.begin, compute.front().begin, IdleCause::warm_up);

    std::array<std::optional<Duration>, shapes> own;  // the latest action of each shape
    for (std::size_t i = 0; i < compute.size(); ++i) {
      const ComputeSpan& span = compute[i];
      own[shape_of(span.action)] = span.end - span.begin;
      if (i == 0) continue;
      const TimePoint free = compute[i - 1].end;
      PLUMB_CHECK(free <= span.begin);
      if (free == span.begin) continue;
      if (!span.last_input) {
        add(free, span.begin, IdleCause::exposed_communication);
        continue;
      }
      const TimePoint sent = std::clamp(span.last_input_sent, free, span.begin);
      const Producer& producer = producers.of(*span.last_input);
      Duration longer;
      if (own[producer.shape]) {
        longer = std::clamp(producer.duration - *own[producer.shape], Duration{}, sent - free);
      }
      add(free, sent - longer, IdleCause::waiting_for_message);
      add(sent - longer, sent, IdleCause::imbalance);
      add(sent, span.begin, IdleCause::exposed_communication);
    }
    add(compute.back().end, bounds.end, IdleCause::drain);
  }
  return slices;
}

}  // namespace plumb
