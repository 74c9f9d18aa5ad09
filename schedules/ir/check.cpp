#include "schedules/ir/check.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::uint32_t nobody = 0xffffffff;

// ---------------------------------------------------------------------------------------------------------
// The quick yes: a schedule of computation alone that is valid is seen to be so in two linear passes. Any
// doubt leads to the thorough diagnosis below.

class QuickCheck {
 public:
  explicit QuickCheck(const Schedule& schedule)
      : schedule_(schedule), homes_(schedule.stages, schedule.microbatches) {}

  bool valid() { return complete_and_in_order() && nobody_waits_for_ever(); }

 private:
  // Bits of what has been seen of a (stage, microbatch).
  static constexpr std::uint8_t forward_bit = 1, input_bit = 2, weight_bit = 4;

  bool complete_and_in_order() {
    const std::size_t cells = std::size_t{schedule_.stages} * schedule_.microbatches;
    seen_.assign(cells, 0);
    for (std::uint32_t r = 0; r < schedule_.ranks(); ++r) {
      for (const Action& action : schedule_.actions[r]) {
        if (action.is_pair() &&
            (action.first().kind != OpKind::forward || action.second().kind != OpKind::backward ||
             cell(action.first()) == cell(action.second()))) {
          return false;
        }
        for (const Op& op : action) {
          if (op.stage.value >= schedule_.stages || op.microbatch.value >= schedule_.microbatches ||
              !is_compute(op.kind)) {
            return false;
          }
          std::uint8_t& seen = seen_[cell(op)];
          std::uint8_t adds = 0, wants = 0;
          switch (op.kind) {
            case OpKind::forward:
              adds = forward_bit;
              break;
            case OpKind::backward_input:
              adds = input_bit, wants = forward_bit;
              break;
            case OpKind::backward_weight:
              adds = weight_bit, wants = forward_bit | input_bit;
              break;
            default:
              adds = input_bit | weight_bit, wants = forward_bit;
              break;
          }
          if ((seen & adds) != 0 || (seen & wants) != wants) return false;
          if (seen == 0) homes_.put(op.stage, op.microbatch, Rank{r});
          if (homes_.of(op.stage, op.microbatch) != Rank{r}) return false;
          seen |= adds;
        }
      }
    }
    return std::all_of(seen_.begin(), seen_.end(), [](std::uint8_t seen) { return seen == 7; }) &&
           copies_whole();
  }

  // Every stage lives on the same number of ranks, or a copy of the model has holes.
  bool copies_whole() const {
    if (schedule_.stages == 0) return true;
    const std::uint32_t copies = homes_.copies(Stage{0});
    if (copies > 2) return false;
    for (Stage stage{1}; stage.value < schedule_.stages; ++stage.value) {
      if (homes_.copies(stage) != copies) return false;
    }
    return true;
  }

  // Runs every rank as far as it gets. What it makes itself stands earlier in its list:
  // complete_and_in_order().
  bool nobody_waits_for_ever() {
    std::fill(seen_.begin(), seen_.end(), 0);
    constexpr std::size_t nothing = static_cast<std::size_t>(-1);
    struct Standing {
      std::size_t next = 0;
      std::size_t waits_for = nothing;  // 2 * cell + (is it an input gradient)
    };
    std::vector<Standing> ranks(schedule_.ranks());
    std::vector<std::uint32_t> runnable(schedule_.ranks());
    for (std::uint32_t r = 0; r < schedule_.ranks(); ++r) runnable[r] = schedule_.ranks() - 1 - r;
    std::size_t left = 0;
    for (const auto& actions : schedule_.actions) left += actions.size();
    const auto missing = [&](const Action& action) {
      std::size_t first = nothing;
      for (const Op& op : action) {
        visit_needs(op, schedule_.stages, [&](const Need& need) {
          if (need.stage == op.stage) return;
          const std::size_t at = cell(need.stage, need.microbatch);
          const bool gradient = need.product == Product::input_gradient;
          if ((seen_[at] & (gradient ? input_bit : forward_bit)) == 0) first = 2 * at + gradient;
        });
      }
      return first;
    };
    const auto wake = [&](std::uint32_t stage, Microbatch microbatch, std::size_t made) {
      if (stage >= schedule_.stages) return;  // of the first stage's gradient or the last one's activation
      const Rank user = homes_.of(Stage{stage}, microbatch);
      if (ranks[user.value].waits_for != made) return;
      ranks[user.value].waits_for = nothing;
      runnable.push_back(user.value);
    };
    while (!runnable.empty()) {
      const std::uint32_t r = runnable.back();
      runnable.pop_back();
      const auto& actions = schedule_.actions[r];
      Standing& rank = ranks[r];
      for (; rank.next < actions.size(); ++rank.next, --left) {
        const Action& action = actions[rank.next];
        rank.waits_for = missing(action);
        if (rank.waits_for != nothing) break;
        for (const Op& op : action) {
          if (op.kind == OpKind::backward_weight) continue;
          const bool gradient = op.kind != OpKind::forward;
          seen_[cell(op)] |= gradient ? input_bit : forward_bit;
          wake(gradient ? op.stage.value - 1 : op.stage.value + 1, op.microbatch, 2 * cell(op) + gradient);
        }
      }
    }
    return left == 0;
  }

  std::size_t cell(Stage stage, Microbatch microbatch) const {
    return std::size_t{stage.value} * schedule_.microbatches + microbatch.value;
  }
  std::size_t cell(const Op& op) const { return cell(op.stage, op.microbatch); }

  const Schedule& schedule_;
  Homes homes_;
  std::vector<std::uint8_t> seen_;
};

std::string deadlock_grid(const LoweredSchedule& lowered, const CheckResult& result) {
  if (result.deadlock_cycle.empty()) return {};
  std::map<std::pair<std::uint32_t, std::int64_t>, bool> marked;
  std::int64_t first = result.deadlock_cycle.front().index;
  std::int64_t last = first;
  for (const Waiting& waiting : result.deadlock_cycle) {
    marked[{waiting.rank.value, waiting.index}] = true;
    first = std::min(first, waiting.index);
    last = std::max(last, waiting.index);
  }
  first = std::max<std::int64_t>(0, first - 3);
  std::size_t longest = 0;
  for (const LoweredRank& rank : lowered.per_rank) longest = std::max(longest, rank.steps.size());
  last = std::min({last + 3, first + 15, static_cast<std::int64_t>(longest) - 1});
  const auto text_at = [&](std::uint32_t r, std::int64_t i) -> std::string {
    const LoweredRank& list = lowered.per_rank[r];
    if (i >= static_cast<std::int64_t>(list.steps.size())) return "";
    const Step& step = list.steps[static_cast<std::size_t>(i)];
    if (const auto* action = std::get_if<Action>(&step)) {
      return action->is_pair() ? fmt::format("{}+{}", to_string(action->first()), to_string(action->second()))
                               : to_string(action->first());
    }
    if (const auto* batch = std::get_if<CommBatch>(&step)) {
      std::string text;
      for (const Message& message : list.messages_of(*batch))
        text += fmt::format("{}{}", text.empty() ? "" : "+", to_string(message.op));
      return text;
    }
    return to_string(std::get<Collective>(step).op);
  };
  std::vector<std::uint32_t> shown;
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const bool in_cycle = std::any_of(result.deadlock_cycle.begin(), result.deadlock_cycle.end(),
                                      [&](const Waiting& waiting) { return waiting.rank.value == r; });
    if (in_cycle || lowered.ranks() <= 16) shown.push_back(r);
  }
  std::size_t width = 4;
  for (const std::uint32_t r : shown) {
    for (std::int64_t i = first; i <= last; ++i) width = std::max(width, text_at(r, i).size());
  }
  std::string out = fmt::format("{:>9}", "element");
  for (std::int64_t i = first; i <= last; ++i) out += fmt::format("  {:^{}}", i, width + 2);
  while (out.back() == ' ') out.pop_back();
  out += '\n';
  for (const std::uint32_t r : shown) {
    out += fmt::format("{:>9}", fmt::format("rank {}", r));
    for (std::int64_t i = first; i <= last; ++i) {
      const std::string text = text_at(r, i);
      const bool mark = marked.contains({r, i});
      out += fmt::format("  {:^{}}", mark ? fmt::format(">{}<", text) : text, width + 2);
    }
    while (!out.empty() && out.back() == ' ') out.pop_back();
    out += '\n';
  }
  return out;
}

// ---------------------------------------------------------------------------------------------------------
// The diagnosis: slower, and says everything.

// One op at one element of one rank's list.
struct Spot {
  Rank rank;
  std::uint32_t index = 0;
};

// What is known of one (stage, microbatch).
struct Cell {
  std::optional<Spot> forward, input, weight, both;
  Rank home;
  bool any = false;
  std::optional<Spot> maker(Product product) const {
    switch (product) {
      case Product::activation:
        return forward;
      case Product::input_gradient:
        return input ? input : both;
      default:
        return weight ? weight : both;
    }
  }
};

class Diagnosis {
 public:
  explicit Diagnosis(const LoweredSchedule& lowered) : lowered_(lowered) {
    for (const LoweredRank& rank : lowered.per_rank) has_messages_ |= !rank.messages.empty();
  }

  CheckResult run() {
    collect();
    find_split_owners();
    find_missing();
    find_out_of_order();
    if (has_messages_) check_messages();
    find_deadlock();
    result_.deadlock_grid = deadlock_grid(lowered_, result_);
    std::stable_sort(result_.violations.begin(), result_.violations.end(),
                     [](const Violation& a, const Violation& b) {
                       return std::tie(a.rank, a.index) < std::tie(b.rank, b.index);
                     });
    return std::move(result_);
  }

 private:
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // stage, microbatch
  static Key key(const Op& op) { return {op.stage.value, op.microbatch.value}; }
  static Key key(const Need& need) { return {need.stage.value, need.microbatch.value}; }

  void report(ViolationKind kind, std::int64_t rank, std::int64_t index, std::string action,
              std::string message) {
    result_.violations.push_back({rank, index, std::move(action), kind, std::move(message)});
  }
  void report(ViolationKind kind, const Spot& spot, const Op& op, std::string message) {
    report(kind, spot.rank.value, spot.index, to_string(op), std::move(message));
  }

  bool in_range(const Op& op) const {
    return op.stage.value < lowered_.stages &&
           (is_collective(op.kind) || op.microbatch.value < lowered_.microbatches);
  }

  // Sorts every op into its cell; what is out of range or doubled is reported and left out.
  void collect() {
    // A stage is at home where most of its ops are; a stray op is the one elsewhere.
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> ops_of_stage_on_rank;
    for_each_op([&](const Spot& spot, const Op& op) {
      if (in_range(op)) ++ops_of_stage_on_rank[{op.stage.value, spot.rank.value}];
    });
    for_each_op([&](const Spot& spot, const Op& op) {
      if (!in_range(op)) {
        report(ViolationKind::out_of_range, spot, op, range_text(op));
        return;
      }
      Cell& cell = cells_[key(op)];
      const auto weight = [&](Rank rank) { return ops_of_stage_on_rank[{op.stage.value, rank.value}]; };
      if (!cell.any || weight(spot.rank) > weight(cell.home)) cell.home = spot.rank;
      cell.any = true;
    });
    for_each_op([&](const Spot& spot, const Op& op) {
      if (in_range(op)) place(spot, op);
    });
  }

  std::string range_text(const Op& op) const {
    if (op.stage.value >= lowered_.stages) {
      return fmt::format("{} names stage {}, the stages are 0 to {}", to_string(op), op.stage.value,
                         static_cast<std::int64_t>(lowered_.stages) - 1);
    }
    return fmt::format("{} names microbatch {}, the microbatches are 0 to {}", to_string(op),
                       op.microbatch.value, static_cast<std::int64_t>(lowered_.microbatches) - 1);
  }

  void place(const Spot& spot, const Op& op) {
    Cell& cell = cells_[key(op)];
    const auto put = [&](std::optional<Spot>& slot, std::optional<Spot>& other_half, OpKind other_kind) {
      if (slot) {
        // The copy at the cell's home stays, the stray one is the double.
        Spot doubled = spot;
        if (slot->rank != cell.home && spot.rank == cell.home) std::swap(doubled, *slot);
        report(ViolationKind::doubled, doubled, op,
               fmt::format("{} stands twice, also on rank {} at element {}", to_string(op), slot->rank.value,
                           slot->index));
        return;
      }
      if (other_half) {
        report(ViolationKind::doubled, spot, op,
               fmt::format("{} repeats work of {} on rank {} at element {}", to_string(op),
                           to_string(Op{op.stage, op.microbatch, other_kind}), other_half->rank.value,
                           other_half->index));
        return;
      }
      slot = spot;
    };
    std::optional<Spot> none;
    switch (op.kind) {
      case OpKind::forward:
        put(cell.forward, none, op.kind);
        break;
      case OpKind::backward_input:
        put(cell.input, cell.both, OpKind::backward);
        break;
      case OpKind::backward_weight:
        put(cell.weight, cell.both, OpKind::backward);
        break;
      default:
        if (cell.input) {
          put(cell.both, cell.input, OpKind::backward_input);
        } else {
          put(cell.both, cell.weight, OpKind::backward_weight);
        }
    }
  }

  void find_split_owners() {
    for (const auto& [at, cell] : cells_) {
      for (const auto& [spot, kind] : parts(cell)) {
        if (spot.rank == cell.home) continue;
        const Op op{Stage{at.first}, Microbatch{at.second}, kind};
        report(ViolationKind::two_owners, spot, op,
               fmt::format(
                   "{} is on rank {}, but stage {}'s other work on microbatch {} is on rank {}, where its "
                   "activations are; move it there",
                   to_string(op), spot.rank.value, at.first, at.second, cell.home.value));
      }
    }
    // ranks_of[stage][rank]: how many microbatches of the stage are at home there.
    std::map<std::uint32_t, std::map<std::uint32_t, std::uint32_t>> ranks_of;
    for (const auto& [at, cell] : cells_) ++ranks_of[at.first][cell.home.value];
    std::map<std::size_t, std::size_t> stages_with;  // how many owners -> how many stages
    for (const auto& [stage, ranks] : ranks_of) ++stages_with[ranks.size()];
    std::size_t copies = 1;
    std::size_t most = 0;
    for (const auto& [count, stages] : stages_with) {
      if (stages > most && count <= 2) copies = count, most = stages;
    }
    for (const auto& [stage, ranks] : ranks_of) {
      if (ranks.size() <= copies) continue;
      std::vector<std::pair<std::uint32_t, std::uint32_t>> by_share;  // microbatches, rank
      for (const auto& [rank, count] : ranks) by_share.emplace_back(count, rank);
      std::sort(by_share.begin(), by_share.end(),
                [](auto a, auto b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
      for (std::size_t i = copies; i < by_share.size(); ++i)
        report_stray_owner(stage, Rank{by_share[i].second}, copies);
    }
  }

  void report_stray_owner(std::uint32_t stage, Rank rank, std::size_t copies) {
    std::optional<Spot> first;
    Op first_op;
    for (const auto& [at, cell] : cells_) {
      if (at.first != stage || cell.home != rank) continue;
      for (const auto& [spot, kind] : parts(cell)) {
        if (spot.rank != rank || (first && first->index <= spot.index)) continue;
        first = spot;
        first_op = {Stage{at.first}, Microbatch{at.second}, kind};
      }
    }
    if (!first) return;
    report(ViolationKind::two_owners, *first, first_op,
           fmt::format("stage {} also lives on rank {}, while the other stages live on {} rank{} each", stage,
                       rank.value, copies, copies == 1 ? "" : "s"));
  }

  void find_missing() {
    std::vector<bool> splits(lowered_.stages, false);
    std::map<std::uint32_t, Rank> owner;
    for (const auto& [at, cell] : cells_) {
      if (cell.input || cell.weight) splits[at.first] = true;
      owner.emplace(at.first, cell.home);
    }
    std::map<std::uint32_t, bool> split_only;  // the stage has no fused backward at all
    for (const auto& [at, cell] : cells_) {
      const auto found = split_only.emplace(at.first, true).first;
      if (cell.both) found->second = false;
    }
    // A list of millions helps nobody: beyond this many they are counted.
    constexpr std::size_t most_missing = 100'000;
    std::size_t missing_ops = 0;
    for (std::uint32_t s = 0; s < lowered_.stages; ++s) {
      if (!owner.contains(s)) {
        if (++missing_ops > most_missing) continue;
        report(ViolationKind::missing, -1, -1, to_string(Op{Stage{s}, Microbatch{0}, OpKind::forward}),
               fmt::format("no rank holds stage {}: all of its {} microbatches are missing", s,
                           lowered_.microbatches));
        continue;
      }
      for (std::uint32_t m = 0; m < lowered_.microbatches; ++m) {
        const auto found = cells_.find({s, m});
        const Cell cell = found == cells_.end() ? Cell{} : found->second;
        const Rank rank = cell.any ? cell.home : home_of_neighbour(s, m, owner.at(s));
        const auto missing = [&](OpKind kind) {
          if (++missing_ops > most_missing) return;
          const Op op{Stage{s}, Microbatch{m}, kind};
          report(ViolationKind::missing, rank.value, -1, to_string(op),
                 fmt::format("{} ({} of stage {}, microbatch {}) is in nobody's list; it belongs on rank {}",
                             to_string(op), words(kind), s, m, rank.value));
        };
        if (!cell.forward) missing(OpKind::forward);
        if (cell.both) continue;
        if (!cell.input && !cell.weight) {
          if (splits[s] && split_only[s]) {
            missing(OpKind::backward_input);
            missing(OpKind::backward_weight);
          } else {
            missing(OpKind::backward);
          }
        } else if (!cell.input) {
          missing(OpKind::backward_input);
        } else if (!cell.weight) {
          missing(OpKind::backward_weight);
        }
      }
    }
    if (missing_ops > most_missing) {
      report(ViolationKind::missing, -1, -1, "",
             fmt::format("{} more ops are missing", missing_ops - most_missing));
    }
  }

  Rank home_of_neighbour(std::uint32_t stage, std::uint32_t microbatch, Rank otherwise) const {
    for (const std::uint32_t m : {microbatch - 1, microbatch + 1}) {
      const auto found = cells_.find({stage, m});
      if (found != cells_.end()) return found->second.home;
    }
    return otherwise;
  }

  void find_out_of_order() {
    for (std::uint32_t r = 0; r < lowered_.ranks(); ++r) {
      const auto& steps = lowered_.per_rank[r].steps;
      for (std::uint32_t i = 0; i < steps.size(); ++i) {
        const auto* action = std::get_if<Action>(&steps[i]);
        if (!action) continue;
        if (action->is_pair() &&
            (action->first().kind != OpKind::forward || action->second().kind != OpKind::backward)) {
          report(ViolationKind::out_of_order, r, i, to_string(*action),
                 "an overlapped pair is a forward and then a full backward");
        }
        for (const Op& op : *action) {
          if (!in_range(op)) continue;
          for (const Need& need : needs_of(op, lowered_.stages)) {
            const auto maker = maker_of(need);
            if (!maker || maker->rank != Rank{r} || maker->index < i) continue;
            const Op made = made_by(need);
            report(
                ViolationKind::out_of_order, r, i, to_string(op),
                maker->index == i
                    ? fmt::format("{} needs {}, which runs beside it in the same pair", to_string(op),
                                  to_string(made))
                    : fmt::format("{} needs {}, which rank {} runs only at element {}; move {} ahead of it",
                                  to_string(op), to_string(made), r, maker->index, to_string(made)));
          }
        }
      }
    }
  }

  // The op that makes the product, as the schedule spells it.
  Op made_by(const Need& need) const {
    OpKind kind = OpKind::forward;
    if (need.product != Product::activation) {
      const auto found = cells_.find(key(need));
      const bool fused = found != cells_.end() && found->second.both;
      kind = fused ? OpKind::backward
                   : (need.product == Product::input_gradient ? OpKind::backward_input
                                                              : OpKind::backward_weight);
    }
    return {need.stage, need.microbatch, kind};
  }

  std::optional<Spot> maker_of(const Need& need) const {
    const auto found = cells_.find(key(need));
    return found == cells_.end() ? std::nullopt : found->second.maker(need.product);
  }

  // The op that waits for the product on another rank, if there is one.
  std::optional<std::pair<Op, Spot>> remote_user(const Need& need, Rank from) const {
    const bool activation = need.product == Product::activation;
    if (activation ? need.stage.value + 1 >= lowered_.stages : need.stage.value == 0) return std::nullopt;
    const Need used{activation ? Product::activation : Product::input_gradient,
                    Stage{activation ? need.stage.value + 1 : need.stage.value - 1}, need.microbatch};
    const auto spot = maker_of(used);
    if (!spot || spot->rank == from) return std::nullopt;
    return std::pair{made_by(used), *spot};
  }

  struct MessageSpot {
    Spot spot;
    Rank peer;
  };

  void check_messages() {
    std::map<Op, MessageSpot> found;
    // [from, to] -> what is sent and what is received, in each side's order.
    std::map<std::pair<Rank, Rank>, std::array<std::vector<std::pair<Need, MessageSpot>>, 2>> channels;
    for_each_message([&](const Spot& spot, const Message& message) {
      const Op& op = message.op;
      const bool no_neighbour = op.kind == OpKind::send_forward || op.kind == OpKind::recv_backward
                                    ? op.stage.value + 1 >= lowered_.stages
                                    : op.stage.value == 0;
      if (!in_range(op) || no_neighbour) {
        report(ViolationKind::out_of_range, spot, op,
               !in_range(op) ? range_text(op)
                             : fmt::format("{} has no neighbouring stage to exchange with", to_string(op)));
        return;
      }
      const Need need = carried_by(op);
      const auto maker = maker_of(need);
      const auto user = maker ? remote_user(need, maker->rank) : std::nullopt;
      if (!maker || !user) {
        if (maker && !user) {
          report(ViolationKind::out_of_range, spot, op,
                 fmt::format("{} is not needed: no other rank waits for {}", to_string(op),
                             to_string(made_by(need))));
        }
        return;
      }
      const Spot& own = is_send(op.kind) ? *maker : user->second;
      const Spot& other = is_send(op.kind) ? user->second : *maker;
      const Op own_op = is_send(op.kind) ? made_by(need) : user->first;
      if (own.rank != spot.rank) {
        report(ViolationKind::two_owners, spot, op,
               fmt::format("{} is on rank {}, but {} is on rank {}", to_string(op), spot.rank.value,
                           to_string(own_op), own.rank.value));
        return;
      }
      if (message.peer != other.rank && message.peer.value != nobody) {
        report(ViolationKind::out_of_range, spot, op,
               fmt::format("{} names rank {} as its peer, the other side is on rank {}", to_string(op),
                           message.peer.value, other.rank.value));
      }
      const auto [at, is_new] = found.emplace(op, MessageSpot{spot, other.rank});
      if (!is_new) {
        report(ViolationKind::doubled, spot, op,
               fmt::format("{} stands twice, also at element {}", to_string(op), at->second.spot.index));
        return;
      }
      const bool late = is_send(op.kind) ? spot.index <= own.index : spot.index >= own.index;
      if (late) {
        report(ViolationKind::out_of_order, spot, op,
               is_send(op.kind)
                   ? fmt::format("{} stands ahead of {} (element {}), which makes what it sends",
                                 to_string(op), to_string(own_op), own.index)
                   : fmt::format("{} stands behind {} (element {}), which needs what it receives",
                                 to_string(op), to_string(own_op), own.index));
      }
      const auto channel =
          is_send(op.kind) ? std::pair{spot.rank, other.rank} : std::pair{other.rank, spot.rank};
      channels[channel][is_send(op.kind) ? 0 : 1].push_back({need, {spot, other.rank}});
    });
    for (const auto& [at, cell] : cells_) {
      for (const Product product : {Product::activation, Product::input_gradient}) {
        const Need need{product, Stage{at.first}, Microbatch{at.second}};
        const auto maker = maker_of(need);
        const auto user = maker ? remote_user(need, maker->rank) : std::nullopt;
        if (!user) continue;
        const auto missing = [&](const Op& op, Rank rank, Rank peer) {
          if (found.contains(op)) return;
          report(ViolationKind::missing, rank.value, -1, to_string(op),
                 fmt::format("{} is in nobody's list: rank {} {} rank {}", to_string(op), rank.value,
                             is_send(op.kind) ? "never sends it to" : "never receives it from", peer.value));
        };
        missing(send_of(need), maker->rank, user->second.rank);
        missing(recv_of(need), user->second.rank, maker->rank);
      }
    }
    for (auto& [ends, sides] : channels) {
      auto& [sends, receives] = sides;
      const auto lacks_partner = [&](bool receive) {
        return [&found, receive](const auto& message) {
          return !found.contains(receive ? recv_of(message.first) : send_of(message.first));
        };
      };
      std::erase_if(sends, lacks_partner(true));
      std::erase_if(receives, lacks_partner(false));
      for (std::size_t k = 0; k < std::min(sends.size(), receives.size()); ++k) {
        if (sends[k].first == receives[k].first) continue;
        report(ViolationKind::out_of_order, receives[k].second.spot, recv_of(receives[k].first),
               fmt::format("rank {} receives {} where rank {} sends {} next: two ranks exchange in one "
                           "order, or data is mixed up",
                           ends.second.value, to_string(recv_of(receives[k].first)), ends.first.value,
                           to_string(send_of(sends[k].first))));
        break;  // everything behind the first crossing is shifted too
      }
    }
  }

  // ----- deadlock: run everything under rendezvous; who still stands waits for somebody who stands.

  struct Cursor {
    std::uint32_t next = 0;             // element to run
    std::vector<std::uint32_t> stream;  // elements with messages that were launched, in order
    std::size_t head = 0;               // first of them not done
    std::vector<std::uint8_t> met;      // of the head's messages
    bool done(const std::vector<Step>& steps) const { return next == steps.size() && head == stream.size(); }
  };

  void find_deadlock() {
    cursors_.assign(lowered_.ranks(), {});
    made_.clear();
    for (bool progress = true; progress;) {
      progress = false;
      for (std::uint32_t r = 0; r < lowered_.ranks(); ++r) {
        while (advance(Rank{r})) progress = true;
      }
    }
    std::vector<std::uint32_t> colour(lowered_.ranks(), 0);
    std::vector<Rank> path;
    for (std::uint32_t r = 0; r < lowered_.ranks(); ++r) {
      if (colour[r] == 0 && search_cycle(Rank{r}, colour, path)) return;
    }
  }

  bool advance(Rank rank) {
    Cursor& cursor = cursors_[rank.value];
    const LoweredRank& list = lowered_.per_rank[rank.value];
    if (meet_head(rank)) return true;
    if (cursor.next == list.steps.size()) return false;
    const Step& step = list.steps[cursor.next];
    if (const auto* action = std::get_if<Action>(&step)) {
      for (const Op& op : *action) {
        if (!in_range(op)) continue;
        for (const Need& need : needs_of(op, lowered_.stages)) {
          if (waits(rank, cursor.next, need)) return false;
        }
      }
      for (const Op& op : *action) make(op);
      ++cursor.next;
      return true;
    }
    if (const auto* batch = std::get_if<CommBatch>(&step)) {
      const bool launched = !cursor.stream.empty() && cursor.stream.back() == cursor.next;
      if (!launched) {
        cursor.stream.push_back(cursor.next);
        if (!batch->waited_together) ++cursor.next;
        return true;
      }
      if (cursor.head < cursor.stream.size()) return false;
    }
    ++cursor.next;
    return true;
  }

  void make(const Op& op) {
    if (!in_range(op)) return;
    if (op.kind == OpKind::forward) made_[{Product::activation, op.stage, op.microbatch}] = true;
    if (gives_input_gradient(op.kind)) made_[{Product::input_gradient, op.stage, op.microbatch}] = true;
  }

  // An input that nobody makes, or that its own rank makes too late, was reported already; it keeps nobody.
  bool waits(Rank rank, std::uint32_t index, const Need& need) const {
    const auto maker = maker_of(need);
    if (!maker) return false;
    if (maker->rank == rank) return false;
    if (has_messages_) {
      if (received_.contains(need)) return false;
      return receive_stands_before(rank, index, need);
    }
    return !made_.contains(need);
  }

  bool receive_stands_before(Rank rank, std::uint32_t index, const Need& need) const {
    for (std::size_t k = cursors_[rank.value].head; k < cursors_[rank.value].stream.size(); ++k) {
      const std::uint32_t element = cursors_[rank.value].stream[k];
      if (element >= index) break;
      for (const Message& message : batch_at(rank, element)) {
        if (message.op == recv_of(need)) return true;
      }
    }
    return false;
  }

  std::span<const Message> batch_at(Rank rank, std::uint32_t element) const {
    const LoweredRank& list = lowered_.per_rank[rank.value];
    return list.messages_of(std::get<CommBatch>(list.steps[element]));
  }

  // Tries to pair the messages at the head of the rank's stream with the heads of their peers.
  bool meet_head(Rank rank) {
    Cursor& cursor = cursors_[rank.value];
    if (cursor.head == cursor.stream.size()) return false;
    const auto messages = batch_at(rank, cursor.stream[cursor.head]);
    cursor.met.resize(messages.size(), 0);
    bool all = true;
    for (std::size_t k = 0; k < messages.size(); ++k) {
      if (!cursor.met[k]) try_meet(rank, messages[k], cursor.met[k]);
      all &= cursor.met[k] != 0;
    }
    if (!all) return false;
    ++cursor.head;
    cursor.met.clear();
    return true;
  }

  void try_meet(Rank rank, const Message& message, std::uint8_t& met) {
    const auto other = other_side(rank, message);
    if (!other) {
      met = 1;  // reported already
      return;
    }
    Cursor& peer = cursors_[other->first.value];
    if (peer.head == peer.stream.size()) return;
    const auto theirs = batch_at(other->first, peer.stream[peer.head]);
    peer.met.resize(theirs.size(), 0);
    for (std::size_t k = 0; k < theirs.size(); ++k) {
      if (theirs[k].op != other->second || peer.met[k]) continue;
      met = peer.met[k] = 1;
      received_.emplace(carried_by(message.op), true);
      return;
    }
  }

  // The rank and the message op on the other side; nothing where it is not in that rank's list.
  std::optional<std::pair<Rank, Op>> other_side(Rank, const Message& message) const {
    if (!in_range(message.op)) return std::nullopt;
    const Need need = carried_by(message.op);
    const auto maker = maker_of(need);
    const auto user = maker ? remote_user(need, maker->rank) : std::nullopt;
    if (!maker || !user) return std::nullopt;
    const bool sends = is_send(message.op.kind);
    const Rank other = sends ? user->second.rank : maker->rank;
    const Op op = sends ? recv_of(need) : send_of(need);
    if (sides_.empty()) {
      for_each_message([&](const Spot& spot, const Message& m) {
        sides_.emplace(std::pair{spot.rank, m.op}, spot.index);
      });
    }
    return sides_.contains({other, op}) ? std::optional(std::pair{other, op}) : std::nullopt;
  }

  // Where a rank stands, and for which ranks it waits.
  struct Stand {
    std::uint32_t index = 0;
    std::string action;
    std::string waits_for;
  };

  std::vector<std::pair<Rank, Stand>> waits_of(Rank rank) const {
    std::vector<std::pair<Rank, Stand>> out;
    const Cursor& cursor = cursors_[rank.value];
    const auto& steps = lowered_.per_rank[rank.value].steps;
    if (cursor.head < cursor.stream.size()) {
      const std::uint32_t element = cursor.stream[cursor.head];
      const auto messages = batch_at(rank, element);
      for (std::size_t k = 0; k < messages.size(); ++k) {
        if (k < cursor.met.size() && cursor.met[k]) continue;
        if (const auto other = other_side(rank, messages[k])) {
          out.emplace_back(other->first, Stand{element, to_string(messages[k].op), to_string(other->second)});
        }
      }
      return out;
    }
    if (cursor.next == steps.size()) return out;
    if (const auto* action = std::get_if<Action>(&steps[cursor.next])) {
      for (const Op& op : *action) {
        if (!in_range(op)) continue;
        for (const Need& need : needs_of(op, lowered_.stages)) {
          if (!waits(rank, cursor.next, need)) continue;
          out.emplace_back(maker_of(need)->rank,
                           Stand{cursor.next, to_string(*action), to_string(made_by(need))});
        }
      }
    }
    return out;
  }

  bool search_cycle(Rank rank, std::vector<std::uint32_t>& colour, std::vector<Rank>& path) {
    colour[rank.value] = 1;
    path.push_back(rank);
    for (const auto& [to, stand] : waits_of(rank)) {
      if (colour[to.value] == 1) {
        report_cycle({std::find(path.begin(), path.end(), to), path.end()});
        return true;
      }
      if (colour[to.value] == 0 && search_cycle(to, colour, path)) return true;
    }
    colour[rank.value] = 2;
    path.pop_back();
    return false;
  }

  void report_cycle(std::vector<Rank> ring) {
    std::rotate(ring.begin(), std::min_element(ring.begin(), ring.end()), ring.end());
    struct Member {
      Rank rank;
      Rank next;
      Stand stand;
    };
    std::vector<Member> members;
    for (std::size_t k = 0; k < ring.size(); ++k) {
      const Rank next = ring[(k + 1) % ring.size()];
      for (auto& [to, stand] : waits_of(ring[k])) {
        if (to != next) continue;
        members.push_back({ring[k], next, stand});
        break;
      }
    }
    // The smallest fix: of all the ops waited for, the one that has to move the fewest places to the front.
    std::string fix;
    std::uint32_t fewest = nobody;
    for (std::size_t k = 0; k < members.size(); ++k) {
      const Member& waited = members[(k + 1) % members.size()];
      const auto at = index_of(waited.rank, members[k].stand.waits_for);
      if (!at || *at <= waited.stand.index || *at - waited.stand.index >= fewest) continue;
      fewest = *at - waited.stand.index;
      fix = fmt::format("moving {} on rank {} from element {} ahead of {} (element {}) would break the cycle",
                        members[k].stand.waits_for, waited.rank.value, *at, waited.stand.action,
                        waited.stand.index);
    }
    for (const Member& member : members) {
      result_.deadlock_cycle.push_back({member.rank, member.stand.index, member.stand.action});
      report(ViolationKind::deadlock, member.rank.value, member.stand.index, member.stand.action,
             fmt::format(
                 "rank {} stands at {} and waits for {} of rank {}, which waits in the same ring of {}{}{}",
                 member.rank.value, member.stand.action, member.stand.waits_for, member.next.value,
                 members.size(), fix.empty() ? "" : "; ", fix));
    }
  }

  std::optional<std::uint32_t> index_of(Rank rank, const std::string& token) const {
    const LoweredRank& list = lowered_.per_rank[rank.value];
    for (std::uint32_t i = 0; i < list.steps.size(); ++i) {
      if (const auto* action = std::get_if<Action>(&list.steps[i])) {
        for (const Op& op : *action) {
          if (to_string(op) == token) return i;
        }
      } else if (const auto* batch = std::get_if<CommBatch>(&list.steps[i])) {
        for (const Message& message : list.messages_of(*batch)) {
          if (to_string(message.op) == token) return i;
        }
      }
    }
    return std::nullopt;
  }

  static std::vector<std::pair<Spot, OpKind>> parts(const Cell& cell) {
    std::vector<std::pair<Spot, OpKind>> out;
    if (cell.forward) out.emplace_back(*cell.forward, OpKind::forward);
    if (cell.input) out.emplace_back(*cell.input, OpKind::backward_input);
    if (cell.weight) out.emplace_back(*cell.weight, OpKind::backward_weight);
    if (cell.both) out.emplace_back(*cell.both, OpKind::backward);
    return out;
  }

  template <class Visit>
  void for_each_op(Visit visit) const {
    for (std::uint32_t r = 0; r < lowered_.ranks(); ++r) {
      const auto& steps = lowered_.per_rank[r].steps;
      for (std::uint32_t i = 0; i < steps.size(); ++i) {
        if (const auto* action = std::get_if<Action>(&steps[i])) {
          for (const Op& op : *action) visit(Spot{Rank{r}, i}, op);
        }
      }
    }
  }

  template <class Visit>
  void for_each_message(Visit visit) const {
    for (std::uint32_t r = 0; r < lowered_.ranks(); ++r) {
      const LoweredRank& list = lowered_.per_rank[r];
      for (std::uint32_t i = 0; i < list.steps.size(); ++i) {
        if (const auto* batch = std::get_if<CommBatch>(&list.steps[i])) {
          for (const Message& message : list.messages_of(*batch)) visit(Spot{Rank{r}, i}, message);
        }
      }
    }
  }

  const LoweredSchedule& lowered_;
  bool has_messages_ = false;
  CheckResult result_;
  std::map<Key, Cell> cells_;
  std::vector<Cursor> cursors_;
  std::map<Need, bool> made_;
  std::map<Need, bool> received_;
  mutable std::map<std::pair<Rank, Op>, std::uint32_t> sides_;
};

}  // namespace

std::string_view to_string(ViolationKind kind) {
  constexpr std::array<std::string_view, 6> names{"missing",      "doubled",    "out_of_order",
                                                  "out_of_range", "two_owners", "deadlock"};
  return names[static_cast<std::size_t>(kind)];
}

CheckResult check(const Schedule& schedule) {
  if (QuickCheck(schedule).valid()) return {};
  LoweredSchedule lowered{
      schedule.name, schedule.stages, schedule.microbatches, 1, CommPlacement::per_op, {}};
  for (const auto& actions : schedule.actions) {
    lowered.per_rank.push_back({{actions.begin(), actions.end()}, {}});
  }
  return Diagnosis(lowered).run();
}

CheckResult check(const LoweredSchedule& lowered) { return Diagnosis(lowered).run(); }

}  // namespace plumb
