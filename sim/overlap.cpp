#include "sim/overlap.hpp"

#include "schedules/ir/error.hpp"
#include "sim/arithmetic.hpp"

#include <algorithm>
#include <array>

namespace plumb {
namespace {

// One of the two ops on its way through its recipe.
struct Runner {
  const std::vector<Segment>* recipe = nullptr;
  std::uint32_t next = 0;  // the segment that runs or waits
  std::int64_t work = 0;   // what is left of it, in millionths of a nanosecond
  std::int64_t asked = 0;  // when it asked for its lane
  bool running = false;
  std::size_t span = 0;  // of the running segment, in PairCost::segments
  std::int64_t end = 0;  // of the last segment

  bool done() const { return next == recipe->size(); }
  const Segment& segment() const { return (*recipe)[next]; }
};

}  // namespace

std::uint32_t slowdown_ppm(const CostModel& cost, WorkClass of, WorkClass beside) {
  if (of.value >= cost.slowdown_ppm.size()) return static_cast<std::uint32_t>(million);
  const auto& row = cost.slowdown_ppm[of.value];
  const std::uint32_t ppm =
      beside.value < row.size() ? row[beside.value] : static_cast<std::uint32_t>(million);
  if (ppm == 0)
    throw BadInput("slowdown_ppm", "a slowdown of 0 would make work take no time; 1000000 is none");
  return ppm;
}

PairCost derive_pair(const OpCost& forward, const OpCost& backward, const CostModel& cost) {
  std::array<Runner, 2> ops{Runner{&forward.recipe}, Runner{&backward.recipe}};
  PairCost pair;
  std::int64_t now = 0;
  while (true) {
    for (const Lane lane : {Lane::compute, Lane::communication}) {
      Runner* first = nullptr;
      bool busy = false;
      for (Runner& op : ops) {
        if (op.done() || op.segment().lane != lane) continue;
        busy |= op.running;
        if (!first || op.asked < first->asked) first = &op;
      }
      if (busy || !first) continue;
      first->running = true;
      first->work = to_work(first->segment().duration.ns);
      first->span = pair.segments.size();
      pair.segments.push_back({first == &ops[1], first->next, Duration{now}, Duration{now}});
    }
    const bool both = ops[0].running && ops[1].running;
    std::array<std::int64_t, 2> slowdown{million, million};
    if (both) {
      const WorkClass f = ops[0].segment().work_class;
      const WorkClass b = ops[1].segment().work_class;
      slowdown = {slowdown_ppm(cost, f, b), slowdown_ppm(cost, b, f)};
    }
    std::array<std::int64_t, 2> left{};
    std::int64_t step = -1;
    for (std::size_t i = 0; i < 2; ++i) {
      if (!ops[i].running) continue;
      left[i] = time_for_work(ops[i].work, slowdown[i]);
      step = step < 0 ? left[i] : std::min(step, left[i]);
    }
    if (step < 0) break;
    now += step;
    for (std::size_t i = 0; i < 2; ++i) {
      Runner& op = ops[i];
      if (!op.running) continue;
      if (left[i] > step) {
        op.work -= work_in_time(step, slowdown[i]);
        continue;
      }
      pair.segments[op.span].end = Duration{now};
      op.running = false;
      op.end = op.asked = now;
      ++op.next;
    }
  }
  PLUMB_CHECK(ops[0].done() && ops[1].done());
  pair.forward_end = Duration{ops[0].end};
  pair.backward_end = Duration{ops[1].end};
  pair.duration = Duration{now};
  return pair;
}

PairCost pair_cost(Stage forward, Stage backward, const CostModel& cost) {
  const OpCost& f = cost.stage(forward).forward;
  const OpCost& b = cost.stage(backward).backward;
  const auto measured = cost.measured_pairs.find({forward, backward});
  const std::optional<Duration> whole =
      measured != cost.measured_pairs.end() ? std::optional(measured->second) : cost.any_pair;
  if (whole) return {*whole, std::min(total(f), *whole), *whole, {}};
  return derive_pair(f, b, cost);
}

}  // namespace plumb
