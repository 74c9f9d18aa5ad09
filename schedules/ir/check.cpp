#include "schedules/ir/check.hpp"

#include "schedules/ir/census.hpp"
#include "schedules/ir/check_parts.hpp"

#include <array>

namespace plumb {
namespace {

CheckResult diagnose(const LoweredSchedule& lowered) {
  CheckResult result;
  checking::Findings findings;
  const checking::Census census(lowered, findings);
  checking::check_work(census, findings);
  if (census.has_messages()) checking::check_messages(census, findings);
  result.deadlock_cycle = checking::find_deadlock(census, findings);
  result.deadlock_grid = checking::deadlock_grid(lowered, result.deadlock_cycle);
  result.violations = std::move(findings).sorted();
  return result;
}

}  // namespace

std::string_view to_string(ViolationKind kind) {
  constexpr std::array<std::string_view, 6> names{"missing",      "doubled",    "out_of_order",
                                                  "out_of_range", "two_owners", "deadlock"};
  return names[static_cast<std::size_t>(kind)];
}

CheckResult check(const Schedule& schedule) {
  if (checking::plainly_valid(schedule)) return {};
  LoweredSchedule lowered{
      schedule.name, schedule.stages, schedule.microbatches, 1, CommPlacement::per_op, {}};
  for (const auto& actions : schedule.actions) {
    lowered.per_rank.push_back({{actions.begin(), actions.end()}, {}});
  }
  return diagnose(lowered);
}

CheckResult check(const LoweredSchedule& lowered) { return diagnose(lowered); }

}  // namespace plumb
