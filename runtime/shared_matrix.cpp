#include "runtime/shared_matrix.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace plumb {
namespace {

std::vector<Rank> holders(const LoweredSchedule& schedule, Stage stage) {
  std::vector<Rank> ranks;
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    const auto& steps = schedule.per_rank[r].steps;
    const auto computes = [&](const Step& step) {
      const auto* action = std::get_if<Action>(&step);
      return action &&
             std::any_of(action->begin(), action->end(), [&](const Op& op) { return op.stage == stage; });
    };
    if (std::any_of(steps.begin(), steps.end(), computes)) ranks.push_back(Rank{r});
  }
  return ranks;
}

}  // namespace

std::vector<SharedPair> shared_pairs(const TrainingPlan& plan) {
  if (!shared_matrix(plan.model, plan.layout.stages.front())) return {};
  const std::vector<Rank> first = holders(plan.schedule, Stage{0});
  const std::vector<Rank> last = holders(plan.schedule, Stage{plan.schedule.stages - 1});
  if (first.size() != last.size()) {
    throw BadInput(
        plan.schedule.name,
        fmt::format("has its first stage on {} ranks and its last on {}: a head that is tied to its "
                    "embedding needs as many of both",
                    first.size(), last.size()));
  }
  std::vector<SharedPair> pairs;
  for (std::size_t i = 0; i < first.size(); ++i) pairs.push_back({first[i], last[i]});
  return pairs;
}

}  // namespace plumb
