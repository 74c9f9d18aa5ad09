#include "tests/support/replay.hpp"

#include <algorithm>
#include <string>

namespace plumb::test {
namespace {

// When and where one product was made.
struct Made {
  std::int64_t at = -1;
  std::size_t rank = 0;
};

std::int64_t cost_of(const Action& action, const Costs& costs) {
  if (action.is_pair()) return costs.overlapped;
  switch (action.first().kind) {
    case OpKind::forward:
      return costs.forward;
    case OpKind::backward_input:
      return costs.backward_input;
    case OpKind::backward_weight:
      return costs.backward_weight;
    default:
      return costs.backward;
  }
}

}  // namespace

std::int64_t Replay::most_live() const {
  return peak_live.empty() ? 0 : *std::max_element(peak_live.begin(), peak_live.end());
}

Replay replay(const Schedule& schedule, const Costs& costs) {
  const std::size_t ranks = schedule.actions.size();
  const std::size_t m = schedule.microbatches;
  std::vector<Made> forwards(schedule.stages * m), gradients(schedule.stages * m);
  const auto slot = [&](std::size_t stage, Microbatch microbatch) { return stage * m + microbatch.value; };

  Replay result;
  result.times.resize(ranks);
  result.busy.resize(ranks);
  result.rank_span.resize(ranks);
  result.peak_live.resize(ranks);
  std::vector<std::int64_t> free_at(ranks, 0);

  // When the rank has everything that `op` needs; -1 while something is missing.
  const auto ready_at = [&](const Op& op, std::size_t rank) -> std::int64_t {
    std::int64_t ready = 0;
    const auto wait_for = [&](const Made& made) {
      if (made.at < 0 || ready < 0) {
        ready = -1;
      } else {
        ready = std::max(ready, made.at + (made.rank == rank ? 0 : costs.message));
      }
    };
    const std::size_t stage = op.stage.value;
    if (op.kind == OpKind::forward) {
      if (stage > 0) wait_for(forwards[slot(stage - 1, op.microbatch)]);
    } else if (op.kind == OpKind::backward_weight) {
      wait_for(gradients[slot(stage, op.microbatch)]);
    } else {
      wait_for(forwards[slot(stage, op.microbatch)]);
      if (stage + 1 < schedule.stages) wait_for(gradients[slot(stage + 1, op.microbatch)]);
    }
    return ready;
  };

  bool progress = true;
  while (progress) {
    progress = false;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const auto& actions = schedule.actions[rank];
      auto& times = result.times[rank];
      while (times.size() < actions.size()) {
        const Action& action = actions[times.size()];
        std::int64_t begin = free_at[rank];
        bool ready = true;
        for (const Op& op : action) {
          const std::int64_t at = ready_at(op, rank);
          ready = ready && at >= 0;
          begin = std::max(begin, at);
        }
        if (!ready) break;
        const std::int64_t end = begin + cost_of(action, costs);
        for (const Op& op : action) {
          if (op.kind == OpKind::forward) forwards[slot(op.stage.value, op.microbatch)] = {end, rank};
          if (op.kind == OpKind::backward_input || op.kind == OpKind::backward) {
            gradients[slot(op.stage.value, op.microbatch)] = {end, rank};
          }
        }
        times.push_back({begin, end});
        free_at[rank] = end;
        result.busy[rank] += end - begin;
        progress = true;
      }
    }
  }

  result.finished = true;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto& times = result.times[rank];
    result.finished = result.finished && times.size() == schedule.actions[rank].size();
    if (times.empty()) continue;
    result.makespan = std::max(result.makespan, times.back().end);
    result.rank_span[rank] = times.back().end - times.front().begin;
    result.span = std::max(result.span, result.rank_span[rank]);
    std::int64_t live = 0;
    for (const Action& action : schedule.actions[rank]) {
      for (const Op& op : action) {
        if (op.kind == OpKind::forward) result.peak_live[rank] = std::max(result.peak_live[rank], ++live);
        if (op.kind == OpKind::backward || op.kind == OpKind::backward_weight) --live;
      }
    }
  }
  return result;
}

std::string fault(const Schedule& schedule) {
  struct Count {
    int forward = 0, whole = 0, input = 0, weight = 0;
    std::int64_t rank = -1;
  };
  std::vector<Count> counts(std::size_t{schedule.stages} * schedule.microbatches);
  for (std::size_t rank = 0; rank < schedule.actions.size(); ++rank) {
    for (const Action& action : schedule.actions[rank]) {
      for (const Op& op : action) {
        if (op.stage.value >= schedule.stages || op.microbatch.value >= schedule.microbatches) {
          return to_string(op) + " is out of range";
        }
        Count& count = counts[std::size_t{op.stage.value} * schedule.microbatches + op.microbatch.value];
        if (count.rank >= 0 && count.rank != static_cast<std::int64_t>(rank)) {
          return to_string(op) + " is on two ranks";
        }
        count.rank = static_cast<std::int64_t>(rank);
        count.forward += op.kind == OpKind::forward;
        count.whole += op.kind == OpKind::backward;
        count.input += op.kind == OpKind::backward_input;
        count.weight += op.kind == OpKind::backward_weight;
      }
      if (action.is_pair() &&
          (action.first().kind != OpKind::forward || action.second().kind != OpKind::backward)) {
        return to_string(action) + " is no pair of a forward and a backward";
      }
    }
  }
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const Count& count = counts[i];
    const bool once = count.forward == 1 && count.whole + count.input == 1 && count.whole + count.weight == 1;
    if (!once) {
      return "stage " + std::to_string(i / schedule.microbatches) + " does microbatch " +
             std::to_string(i % schedule.microbatches) + " not exactly once";
    }
  }
  return replay(schedule).finished ? "" : "the ranks wait for one another";
}

}  // namespace plumb::test
