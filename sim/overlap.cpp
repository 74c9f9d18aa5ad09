#include "sim/overlap.hpp"

#include "schedules/ir/error.hpp"
#include "sim/arithmetic.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <span>
#include <utility>

namespace plumb {
namespace {

// A segment that waits for its lane, or has it.
struct Request {
  std::int64_t asked = 0;
  std::uint32_t op = 0;  // the forward is 0: first on ties
  std::uint32_t segment = 0;
  auto operator<=>(const Request&) const = default;
};

struct Running {
  Request request;
  std::int64_t work = 0;  // what is left, in millionths of a nanosecond
  std::size_t span = 0;   // in PairCost::segments
};

class Lanes {
 public:
  Lanes(std::span<const OpCost* const> ops, const CostModel& cost) : ops_(ops), cost_(cost) {}

  PairCost run() {
    for (std::uint32_t op = 0; op < ops_.size(); ++op) ask(op);
    while (start_waiting()) step();
    PairCost result;
    result.duration = Duration{now_};
    result.forward_end = Duration{end_[0]};
    result.backward_end = Duration{end_[ops_.size() - 1]};
    result.segments = std::move(spans_);
    return result;
  }

 private:
  const Segment& segment(const Request& request) const { return ops_[request.op]->recipe[request.segment]; }

  // Asks for the lane of the op's next segment, and of the one behind it where that need not wait for it.
  void ask(std::uint32_t op) {
    const auto& recipe = ops_[op]->recipe;
    while (next_[op] < recipe.size()) {
      const Request request{now_, op, next_[op]++};
      waiting_[lane(recipe[request.segment])].push_back(request);
      if (!recipe[request.segment].deferred) return;
    }
  }

  // Gives free lanes away; false when nothing runs any more.
  bool start_waiting() {
    for (std::size_t l = 0; l < 2; ++l) {
      if (running_[l] || waiting_[l].empty()) continue;
      const auto first = std::min_element(waiting_[l].begin(), waiting_[l].end());
      running_[l] = Running{*first, to_work(segment(*first).duration.ns), spans_.size()};
      spans_.push_back({first->op == 1, first->segment, Duration{now_}, Duration{now_}});
      waiting_[l].erase(first);
    }
    return running_[0] || running_[1];
  }

  // On to the next end of a segment.
  void step() {
    std::array<std::int64_t, 2> slowdown{million, million};
    if (running_[0] && running_[1]) {
      const WorkClass a = segment(running_[0]->request).work_class;
      const WorkClass b = segment(running_[1]->request).work_class;
      slowdown = {slowdown_ppm(cost_, a, b), slowdown_ppm(cost_, b, a)};
    }
    for (std::size_t l = 0; l < 2; ++l) {
      if (const auto gain = gain_of_company(l)) slowdown[l] = (slowdown[l] * million + *gain / 2) / *gain;
    }
    std::array<std::int64_t, 2> left{};
    std::int64_t shortest = std::numeric_limits<std::int64_t>::max();
    for (std::size_t l = 0; l < 2; ++l) {
      if (!running_[l]) continue;
      left[l] = time_for_work(running_[l]->work, slowdown[l]);
      shortest = std::min(shortest, left[l]);
    }
    now_ += shortest;
    std::array<std::optional<Running>, 2> ended;
    for (std::size_t l = 0; l < 2; ++l) {
      if (!running_[l]) continue;
      if (left[l] > shortest) {
        running_[l]->work -= work_in_time(shortest, slowdown[l]);
      } else {
        ended[l] = std::exchange(running_[l], std::nullopt);
      }
    }
    for (const auto& done : ended) {
      if (!done) continue;
      spans_[done->span].end = Duration{now_};
      end_[done->request.op] = now_;
      if (!segment(done->request).deferred) ask(done->request.op);
    }
  }

  // Where the other op waits for the lane: what its pieces fill of it, beside the one that runs.
  std::optional<std::int64_t> gain_of_company(std::size_t l) const {
    if (!running_[l]) return std::nullopt;
    const Request* next = nullptr;
    for (const Request& request : waiting_[l]) {
      if (request.op != running_[l]->request.op && (next == nullptr || request < *next)) next = &request;
    }
    if (next == nullptr) return std::nullopt;
    const Segment& running = segment(running_[l]->request);
    if (running.tail_ppm && running.duration > Duration{}) {
      const std::int64_t tail =
          running.duration.ns * std::min<std::int64_t>(*running.tail_ppm, million * 9 / 10) / million;
      const std::int64_t saved = std::min(tail, work_behind(*next, l));
      return million * running.duration.ns / (running.duration.ns - saved);
    }
    return shared_lane_ppm(cost_, segment(running_[l]->request).work_class, segment(*next).work_class);
  }

  // What the waiting op has for this lane from here on: a tail holds no more.
  std::int64_t work_behind(const Request& next, std::size_t l) const {
    const auto& recipe = ops_[next.op]->recipe;
    std::int64_t sum = 0;
    for (std::size_t k = next.segment; k < recipe.size(); ++k)
      sum += lane(recipe[k]) == l ? recipe[k].duration.ns : 0;
    return sum;
  }

  static std::size_t lane(const Segment& segment) { return segment.lane == Lane::compute ? 0 : 1; }

  std::span<const OpCost* const> ops_;
  const CostModel& cost_;
  std::int64_t now_ = 0;
  std::array<std::uint32_t, 2> next_{};  // [op] the segment to ask for
  std::array<std::int64_t, 2> end_{};    // [op] of its last segment so far
  std::array<std::vector<Request>, 2> waiting_;
  std::array<std::optional<Running>, 2> running_;
  std::vector<PairSegment> spans_;
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

std::uint32_t shared_lane_ppm(const CostModel& cost, WorkClass a, WorkClass b) {
  const std::int64_t of_a = slowdown_ppm(cost, a, b);
  const std::int64_t of_b = slowdown_ppm(cost, b, a);
  if (of_a <= million && of_b <= million) return static_cast<std::uint32_t>(million);
  const std::int64_t both = million * million / of_a + million * million / of_b;
  return static_cast<std::uint32_t>(std::max(million, both));
}

PairCost derive_pair(const OpCost& forward, const OpCost& backward, const CostModel& cost) {
  const std::array<const OpCost*, 2> ops{&forward, &backward};
  return Lanes(ops, cost).run();
}

PairCost derive_alone(const OpCost& op, const CostModel& cost) {
  const auto& recipe = op.recipe;
  if (std::any_of(recipe.begin(), recipe.end(), [](const Segment& segment) { return segment.deferred; })) {
    const std::array<const OpCost*, 1> ops{&op};
    return Lanes(ops, cost).run();
  }
  // One segment after the other: nothing runs beside anything.
  PairCost alone;
  for (std::uint32_t k = 0; k < recipe.size(); ++k) {
    const Duration end = alone.duration + recipe[k].duration;
    alone.segments.push_back({false, k, alone.duration, end});
    alone.duration = end;
  }
  alone.forward_end = alone.backward_end = alone.duration;
  return alone;
}

PairCost pair_cost(Stage forward, Stage backward, const CostModel& cost) {
  const OpCost& f = cost.stage(forward).forward;
  if (const auto whole = cost.stated_pair(forward, backward)) {
    return {*whole, std::min(derive_alone(f, cost).duration, *whole), *whole, {}};
  }
  return derive_pair(f, cost.stage(backward).backward, cost);
}

}  // namespace plumb
