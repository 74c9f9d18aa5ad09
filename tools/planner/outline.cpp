#include "tools/planner/outline.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>

namespace plumb {
namespace {

Outline read_off(LoweredSchedule schedule) {
  Outline outline;
  for (const LoweredRank& rank : schedule.per_rank) {
    std::map<Stage, std::uint32_t> forwards;
    std::uint32_t live = 0, most = 0;
    for (const Step& step : rank.steps) {
      const Action* action = std::get_if<Action>(&step);
      if (action == nullptr) continue;
      outline.has_pairs |= action->is_pair();
      for (const Op& op : *action) {
        if (op.kind == OpKind::forward) {
          ++forwards[op.stage];
          most = std::max(most, ++live);
        }
        if (gives_weight_gradient(op.kind)) --live;
        outline.has_whole_backwards |= op.kind == OpKind::backward;
        outline.has_split_backwards |= op.kind == OpKind::backward_weight;
      }
    }
    outline.live_chunks.push_back(most);
    auto& held = outline.ranks.emplace_back();
    for (const auto& [stage, count] : forwards) held.push_back({stage, count});
  }
  outline.schedule = std::move(schedule);
  return outline;
}

}  // namespace

const Outline& Outlines::made(const Generator& generator, const Shape& shape) {
  const Key key{&generator, shape.ranks, shape.microbatches, shape.chunks.value_or(0),
                shape.group.value_or(0)};
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = outlines_.find(key); found != outlines_.end()) return *found->second;
  }
  // Made outside the lock: two threads may make the same one, and the first stays.
  auto outline = std::make_unique<Outline>(read_off(make_lowered(generator, shape, {})));
  const std::lock_guard lock(mutex_);
  return *outlines_.emplace(key, std::move(outline)).first->second;
}

const Outline& Outlines::of(const Generator& generator, const Shape& shape) {
  const std::uint64_t unit = shape.group.value_or(shape.ranks);
  const std::uint64_t wanted = std::uint64_t{4} * shape.ranks;
  const std::uint64_t small = (wanted + unit - 1) / unit * unit;
  if (shape.microbatches <= small) return made(generator, shape);
  Shape less = shape;
  less.microbatches = static_cast<std::uint32_t>(small);
  Shape more = shape;
  more.microbatches = static_cast<std::uint32_t>(2 * small);
  if (generator.refuse(less) || generator.refuse(more)) return made(generator, shape);
  const Outline& outline = made(generator, less);
  if (shape.microbatches <= more.microbatches) more.microbatches = shape.microbatches;
  if (made(generator, more).live_chunks != outline.live_chunks) return made(generator, shape);
  return outline;
}

}  // namespace plumb
