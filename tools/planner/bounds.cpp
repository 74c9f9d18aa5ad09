#include "tools/planner/bounds.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/liveness.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

namespace plumb {
namespace {

constexpr std::array<OpKind, 4> kinds{OpKind::forward, OpKind::backward_input, OpKind::backward_weight,
                                      OpKind::backward};

OpCost& op_of(StageCost& stage, OpKind kind) {
  switch (kind) {
    case OpKind::forward:
      return stage.forward;
    case OpKind::backward_input:
      return stage.backward_input;
    case OpKind::backward_weight:
      return stage.backward_weight;
    default:
      return stage.backward;
  }
}

StageCost without_recipes(const StageCost& stage) {
  StageCost out;
  for (const OpKind kind : kinds) op_of(out, kind).memory = stage.of(kind).memory;
  out.weights = stage.weights;
  out.gradients = stage.gradients;
  out.optimizer_state = stage.optimizer_state;
  out.activation_message = stage.activation_message;
  out.gradient_message = stage.gradient_message;
  out.gradient_reduction = stage.gradient_reduction;
  out.optimizer_step = stage.optimizer_step;
  return out;
}

Duration three_quarters(Duration duration) { return {duration.ns * 3 / 4}; }

// microbatches x share, in whole nanoseconds.
std::int64_t times_share(std::int64_t ns, std::uint64_t microbatches, const Outline::Held& held,
                         std::uint32_t of) {
  __extension__ using Wide = __int128;
  return static_cast<std::int64_t>(Wide{ns} * static_cast<std::int64_t>(microbatches) * held.microbatches /
                                   of);
}

}  // namespace

Duration LeastTime::alone() const { return std::max({compute, communication, in_turn}); }

LeastTime& LeastTime::operator+=(const LeastTime& other) {
  compute += other.compute;
  communication += other.communication;
  in_turn += other.in_turn;
  return *this;
}

LeastTime least_time(const OpCost& op) {
  LeastTime least;
  for (const Segment& segment : op.recipe) {
    (segment.lane == Lane::compute ? least.compute : least.communication) += segment.duration;
    if (!segment.deferred) least.in_turn += segment.duration;
  }
  return least;
}

std::vector<StageContent> pieces_of(const ModelShape& model) {
  std::vector<StageContent> out;
  if (model.architecture == Architecture::transformer) {
    out.emplace_back();
    out.back().embedding = true;
  }
  for (std::uint64_t layer = 0; layer < model.layers; ++layer) {
    out.emplace_back();
    out.back().first_layer = layer;
    out.back().layers = 1;
  }
  for (std::uint64_t k = 0; k < model.multi_token_layers; ++k) {
    out.emplace_back();
    out.back().multi_token_layers = 1;
  }
  out.emplace_back();
  out.back().head = true;
  return out;
}

std::vector<StageContent> stages_of_pieces(const std::vector<StageContent>& pieces,
                                           const std::vector<std::size_t>& counts) {
  std::vector<StageContent> out;
  auto piece = pieces.begin();
  for (const std::size_t count : counts) {
    StageContent stage;
    for (std::size_t k = 0; k < count; ++k, ++piece) {
      if (piece->layers > 0 && stage.layers == 0) stage.first_layer = piece->first_layer;
      stage.layers += piece->layers;
      stage.multi_token_layers += piece->multi_token_layers;
      stage.embedding |= piece->embedding;
      stage.head |= piece->head;
    }
    out.push_back(stage);
  }
  return out;
}

std::vector<std::size_t> piece_counts(const std::vector<StageContent>& stages) {
  std::vector<std::size_t> out;
  for (const StageContent& stage : stages) {
    out.push_back(
        static_cast<std::size_t>(stage.layers + stage.multi_token_layers + stage.embedding + stage.head));
  }
  return out;
}

PieceSums::PieceSums(const CostModel& cost, std::vector<JoinedTail> joined)
    : pieces_(cost.stages.size()), reserve_(cost.reserve), joined_(std::move(joined)) {
  times_.resize(pieces_ + 1);
  costs_.reserve(pieces_);
  for (std::size_t i = 0; i < pieces_; ++i) {
    times_[i + 1] = times_[i];
    for (std::size_t k = 0; k < kinds.size(); ++k) {
      times_[i + 1][k] += least_time(cost.stages[i].of(kinds[k]));
    }
    costs_.push_back(without_recipes(cost.stages[i]));
  }
}

StageLeast PieceSums::times(std::size_t first, std::size_t last) const {
  StageLeast out = times_[last];
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    out[k].compute -= times_[first][k].compute;
    out[k].communication -= times_[first][k].communication;
    out[k].in_turn -= times_[first][k].in_turn;
  }
  return out;
}

Duration PieceSums::busy(std::size_t first, std::size_t last) const {
  const StageLeast least = times(first, last);
  return least[0].alone() + least[3].alone();
}

StageCost PieceSums::memory(std::size_t first, std::size_t last) const {
  StageCost out;
  const auto include = [&](const StageCost& piece) {
    for (const OpKind kind : kinds) {
      MemoryEffect& sum = op_of(out, kind).memory;
      const MemoryEffect& add = piece.of(kind).memory;
      sum.at_begin += add.at_begin;
      sum.at_end += add.at_end;
      sum.workspace = std::max(sum.workspace, add.workspace);
    }
    out.weights += piece.weights;
    out.gradients += piece.gradients;
    out.optimizer_state += piece.optimizer_state;
    out.activation_message = std::max(out.activation_message, piece.activation_message);
    out.gradient_message = std::max(out.gradient_message, piece.gradient_message);
    out.gradient_reduction += three_quarters(piece.gradient_reduction);
    out.optimizer_step += three_quarters(piece.optimizer_step);
  };
  const auto tail = std::find_if(joined_.begin(), joined_.end(), [&](const JoinedTail& one) {
    return last == pieces_ && first <= one.first;
  });
  const std::size_t end = tail == joined_.end() ? last : tail->first;
  for (std::size_t i = first; i < end; ++i) include(costs_[i]);
  if (tail != joined_.end()) include(tail->cost);
  return out;
}

Duration least_step_time(const Outline& outline, std::uint32_t microbatches,
                         const std::vector<StageLeast>& stages, const CostModel& ends, bool reduced) {
  const auto backward_of = [&](std::size_t s) {
    const Duration whole = stages[s][3].alone();
    const Duration split = stages[s][1].alone() + stages[s][2].alone();
    if (!outline.has_split_backwards) return whole;
    return outline.has_whole_backwards ? std::min(whole, split) : split;
  };
  // Work on one lane: of forward and of whichever backward has less.
  const auto lane_of = [&](std::size_t s, Duration LeastTime::*lane) {
    const Duration whole = stages[s][3].*lane;
    const Duration split = stages[s][1].*lane + stages[s][2].*lane;
    Duration backward = whole;
    if (outline.has_split_backwards) backward = outline.has_whole_backwards ? std::min(whole, split) : split;
    return stages[s][0].*lane + backward;
  };
  std::vector<Duration> before(stages.size() + 1), after(stages.size() + 1);
  for (std::size_t s = 0; s < stages.size(); ++s) {
    before[s + 1] = before[s] + stages[s][0].alone();
    after[s + 1] = after[s] + stages[s][3].alone();
  }
  const auto reduction = [&](std::size_t s) {
    return reduced ? ends.stages[s].gradient_reduction : Duration{};
  };
  Duration most, longest_update;
  constexpr Duration forever{std::numeric_limits<std::int64_t>::max()};
  for (const auto& held : outline.ranks) {
    Duration alone, compute, communication, update;
    Duration head = forever, tail = forever, last_reduction = forever;
    const std::uint32_t of = outline.schedule.microbatches;
    for (const Outline::Held& one : held) {
      const std::size_t s = one.stage.value;
      const auto scaled = [&](Duration d) { return Duration{times_share(d.ns, microbatches, one, of)}; };
      alone += scaled(stages[s][0].alone() + backward_of(s));
      compute += scaled(lane_of(s, &LeastTime::compute));
      communication += scaled(lane_of(s, &LeastTime::communication));
      head = std::min(head, before[s]);
      tail = std::min(tail, after[s]);
      last_reduction = std::min(last_reduction, reduction(s));
      update += ends.stages[s].optimizer_step;
    }
    if (held.empty()) continue;
    Duration own = outline.has_pairs ? std::max(compute, communication) : alone;
    // Behind a rank's last whole backward the gradient still runs through all lower stages; behind a
    // backward_weight nothing has to.
    own += outline.has_split_backwards ? last_reduction : std::max(tail + reduction(0), last_reduction);
    most = std::max(most, head + own);
    longest_update = std::max(longest_update, update);
  }
  return most + longest_update;
}

Bytes least_peak(const Outline& outline, const CostModel& cost, Bytes enough) {
  const LoweredSchedule& schedule = outline.schedule;
  struct Guess {
    Bytes most;  // as if all that is alive were still what forward left
    Bytes held;  // all the step long
    std::uint32_t rank = 0;
    bool operator<(const Guess& other) const {
      return std::tie(most, rank) < std::tie(other.most, other.rank);
    }
  };
  std::vector<Guess> guesses;
  Bytes by_count;
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    Bytes held = cost.reserve;
    Bytes most, least;
    for (std::size_t k = 0; k < outline.ranks[r].size(); ++k) {
      const StageCost& stage = cost.stage(outline.ranks[r][k].stage);
      held += stage.weights + stage.gradients + stage.optimizer_state;
      const Bytes kept = stage.forward.memory.at_begin + stage.forward.memory.at_end;
      // Some of it may have had its backward_input.
      const Bytes left = kept + stage.backward_input.memory.at_begin + stage.backward_input.memory.at_end;
      most += kept * outline.live[r][k];
      least += (outline.has_split_backwards ? std::min(kept, left) : kept) * outline.live[r][k];
    }
    by_count = std::max(by_count, held + least);
    guesses.push_back({held + most, held, r});
  }
  if (by_count > enough) return by_count;
  std::sort(guesses.rbegin(), guesses.rend());
  Liveness liveness(schedule, cost);
  Bytes most = by_count;
  for (std::size_t k = 0; k < std::min<std::size_t>(2, guesses.size()); ++k) {
    Bytes now = guesses[k].held;
    most = std::max(most, now);
    const std::vector<LivenessChange>& changes = liveness.of(Rank{guesses[k].rank});
    for (std::size_t i = 0; i < changes.size();) {
      const std::uint32_t step = changes[i].step;
      const Moment moment = changes[i].moment;
      for (; i < changes.size() && changes[i].step == step && changes[i].moment == moment; ++i) {
        now += changes[i].bytes;
      }
      most = std::max(most, now);
    }
  }
  return most;
}

std::vector<std::size_t> balanced_counts(const std::vector<std::size_t>& even, const Outline& outline,
                                         const PieceSums& pieces, Balance balance) {
  const std::size_t stages = even.size();
  // The busiest one's work, and the sum of squares for ties.
  struct Score {
    std::int64_t busiest = 0;
    double squares = 0;
    bool operator<(const Score& other) const {
      return busiest != other.busiest ? busiest < other.busiest : squares < other.squares * (1 - 1e-9);
    }
  };
  std::vector<Duration> busy(stages);
  std::size_t busiest = 0;
  const auto score = [&](const std::vector<std::size_t>& counts) {
    std::size_t first = 0;
    for (std::size_t s = 0; s < stages; ++s) {
      busy[s] = pieces.busy(first, first + counts[s]);
      first += counts[s];
    }
    Score out;
    const auto take = [&](std::size_t who, std::int64_t work) {
      if (work > out.busiest) {
        out.busiest = work;
        busiest = who;
      }
      out.squares += static_cast<double>(work) * static_cast<double>(work);
    };
    if (balance == Balance::stages) {
      for (std::size_t s = 0; s < stages; ++s) take(s, busy[s].ns);
      return out;
    }
    for (std::size_t r = 0; r < outline.ranks.size(); ++r) {
      std::int64_t sum = 0;
      for (const Outline::Held& held : outline.ranks[r]) {
        sum += times_share(busy[held.stage.value].ns, 1, held, outline.schedule.microbatches);
      }
      take(r, sum);
    }
    return out;
  };
  std::vector<std::size_t> counts = even;
  const Score at_first = score(counts);
  Score best = at_first;
  for (std::size_t moves = 0; moves < 2 * stages; ++moves) {
    score(counts);
    std::vector<std::size_t> givers;
    if (balance == Balance::stages) {
      givers.push_back(busiest);
    } else {
      for (const Outline::Held& held : outline.ranks[busiest]) givers.push_back(held.stage.value);
    }
    std::optional<std::pair<std::size_t, std::size_t>> move;
    for (const std::size_t from : givers) {
      if (counts[from] <= 1) continue;
      for (std::size_t to = 0; to < stages; ++to) {
        if (to == from) continue;
        --counts[from], ++counts[to];
        const Score moved = score(counts);
        if (moved < best) {
          best = moved;
          move = {from, to};
        }
        ++counts[from], --counts[to];
      }
    }
    if (!move) break;
    --counts[move->first], ++counts[move->second];
  }
  if (static_cast<double>(best.busiest) > 0.995 * static_cast<double>(at_first.busiest)) return even;
  return counts;
}

}  // namespace plumb
