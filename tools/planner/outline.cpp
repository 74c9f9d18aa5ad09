#include "tools/planner/outline.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>

namespace plumb {
namespace {

// How many microbatches of each of a rank's stages, by stage, have had their forward but not their last
// backward, when most have.
std::vector<std::uint32_t> most_live(const std::vector<Action>& actions) {
  std::map<Stage, std::uint32_t> now;
  std::uint32_t total = 0, most = 0;
  std::map<Stage, std::uint32_t> then;
  bool is_most = false;  // `now` is more than `then`
  for (const Action& action : actions) {
    for (const Op& op : action) {
      if (op.kind == OpKind::forward) {
        ++now[op.stage];
        if (++total > most) {
          most = total;
          is_most = true;
        }
      }
      if (!gives_weight_gradient(op.kind)) continue;
      if (is_most) then = now;
      is_most = false;
      --now[op.stage];
      --total;
    }
  }
  if (is_most) then = now;
  std::vector<std::uint32_t> out;
  for (const auto& [stage, count] : now) out.push_back(then[stage]);
  return out;
}

Outline read_off(const Schedule& schedule) {
  Outline outline;
  for (const auto& actions : schedule.actions) {
    std::map<Stage, std::uint32_t> forwards;
    for (const Action& action : actions) {
      outline.has_pairs |= action.is_pair();
      for (const Op& op : action) {
        if (op.kind == OpKind::forward) ++forwards[op.stage];
        outline.has_whole_backwards |= op.kind == OpKind::backward;
        outline.has_split_backwards |= op.kind == OpKind::backward_weight;
      }
    }
    outline.live.push_back(most_live(actions));
    auto& held = outline.ranks.emplace_back();
    for (const auto& [stage, count] : forwards) held.push_back({stage, count});
  }
  outline.schedule = lower(schedule);
  return outline;
}

}  // namespace

Outlines::Key Outlines::key(const Generator& generator, const Shape& shape) {
  return {&generator, shape.ranks, shape.microbatches, shape.chunks.value_or(0), shape.group.value_or(0)};
}

const Outline& Outlines::known(const Key& key, const std::function<Outline()>& make) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = outlines_.find(key); found != outlines_.end()) return *found->second;
  }
  // Made outside the lock: two threads may make the same one, and the first stays.
  auto outline = std::make_unique<Outline>(make());
  const std::lock_guard lock(mutex_);
  return *outlines_.emplace(key, std::move(outline)).first->second;
}

const std::vector<std::vector<std::uint32_t>>& Outlines::live_of(const Generator& generator,
                                                                 const Shape& shape) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = live_.find(key(generator, shape)); found != live_.end()) return found->second;
  }
  std::vector<std::vector<std::uint32_t>> counts;
  for (const auto& actions : make_schedule(generator, shape).actions) counts.push_back(most_live(actions));
  const std::lock_guard lock(mutex_);
  return live_.emplace(key(generator, shape), std::move(counts)).first->second;
}

const Outline& Outlines::of(const Generator& generator, const Shape& shape) {
  const auto made = [&](const Shape& of) {
    return [&generator, of] { return read_off(make_schedule(generator, of)); };
  };
  const std::uint64_t unit = shape.group.value_or(shape.ranks);
  const std::uint64_t wanted = std::uint64_t{4} * shape.ranks;
  const auto small = static_cast<std::uint32_t>((wanted + unit - 1) / unit * unit);
  if (shape.microbatches <= small) return known(key(generator, shape), made(shape));
  Shape less = shape;
  less.microbatches = small;
  Shape more = shape;
  more.microbatches = 2 * small;
  if (generator.refuse(less) || generator.refuse(more)) return known(key(generator, shape), made(shape));
  const Outline& outline = known(key(generator, less), made(less));
  const std::vector<std::vector<std::uint32_t>>& twice = live_of(generator, more);
  if (twice == outline.live) return outline;
  return known(key(generator, shape), [&] {
    Outline grown = outline;
    for (std::size_t r = 0; r < grown.live.size(); ++r) {
      for (std::size_t k = 0; k < grown.live[r].size(); ++k) {
        const std::int64_t more_live = std::int64_t{twice[r][k]} - outline.live[r][k];
        const std::int64_t live = outline.live[r][k] + more_live * (shape.microbatches - small) / small;
        grown.live[r][k] = static_cast<std::uint32_t>(std::max<std::int64_t>(0, live));
      }
    }
    return grown;
  });
}

}  // namespace plumb
