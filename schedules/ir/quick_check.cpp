#include "schedules/ir/check_parts.hpp"
#include "schedules/ir/dependencies.hpp"

#include <algorithm>

namespace plumb::checking {
namespace {

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

}  // namespace

bool plainly_valid(const Schedule& schedule) { return QuickCheck(schedule).valid(); }

}  // namespace plumb::checking
