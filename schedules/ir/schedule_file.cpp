#include "schedules/ir/schedule_file.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/pytorch_csv.hpp"
#include "schedules/ir/schedule_elements.hpp"
#include "schedules/ir/schedule_json.hpp"
#include "schedules/ir/schedule_text.hpp"

#include <algorithm>
#include <variant>

#include <fmt/format.h>

namespace plumb {

ScheduleFile parse_schedule(std::string_view content, std::string_view where) {
  if (content.starts_with("\xef\xbb\xbf")) content.remove_prefix(3);
  const auto first = content.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos)
    throw BadInput(where, "is empty; expected plumb.schedule/1 or a PyTorch schedule CSV");
  if (content[first] == '{' || content[first] == '[') return parse_schedule_json(content, where);
  if (content.substr(first).starts_with(schedule_schema))
    return parse_schedule_text(content.substr(first), where);
  return parse_pytorch_csv(content, where);
}

CheckResult check(const ScheduleFile& file) {
  const LoweredSchedule& lowered = file.lowered;
  if (std::uint64_t{lowered.stages} * lowered.microbatches > max_ops / 3) {
    throw BadInput(lowered.name.empty() ? "the schedule" : lowered.name,
                   fmt::format("{} stages x {} microbatches is beyond the limit of {} ops", lowered.stages,
                               lowered.microbatches, max_ops));
  }
  CheckResult result = file.has_messages ? check(lowered) : check(without_messages(lowered));
  if (!file.has_messages) {
    // Collectives stand between the actions of the file but not in what was checked.
    for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
      const auto& steps = lowered.per_rank[r].steps;
      std::vector<std::int64_t> step_of;
      for (std::size_t i = 0; i < steps.size(); ++i) {
        if (std::holds_alternative<Action>(steps[i])) step_of.push_back(static_cast<std::int64_t>(i));
      }
      const auto translate = [&](std::int64_t rank, std::int64_t& index) {
        if (rank == r && index >= 0) index = step_of[static_cast<std::size_t>(index)];
      };
      for (Violation& violation : result.violations) translate(violation.rank, violation.index);
      for (Waiting& waiting : result.deadlock_cycle) translate(waiting.rank.value, waiting.index);
    }
  }
  if (file.form == ScheduleForm::pytorch_csv && result.valid()) {
    const Schedule schedule = without_messages(lowered);
    if (const auto found = two_owners(schedule)) {
      const auto& steps = lowered.per_rank[found->second.value].steps;
      for (std::size_t i = 0; i < steps.size(); ++i) {
        const auto* action = std::get_if<Action>(&steps[i]);
        const Op* op = action ? std::find_if(action->begin(), action->end(),
                                             [&](const Op& o) { return o.stage == found->stage; })
                              : nullptr;
        if (!action || op == action->end()) continue;
        result.violations.push_back(
            {found->second.value, static_cast<std::int64_t>(i), to_string(*op), ViolationKind::two_owners,
             fmt::format(
                 "stage {} lives on ranks {} and {}, and PyTorch, whose format this is, runs each stage on "
                 "one rank; "
                 "dualpipe-v has the same overlap with one owner a stage, and plumb.schedule/1 can hold two",
                 found->stage.value, found->first.value, found->second.value)});
        break;
      }
    }
  }
  if (!file.elements.empty()) {
    const auto translate = [&](std::int64_t rank, std::int64_t& index) {
      if (rank >= 0 && index >= 0)
        index = file.elements[static_cast<std::size_t>(rank)][static_cast<std::size_t>(index)];
    };
    for (Violation& violation : result.violations) translate(violation.rank, violation.index);
    for (Waiting& waiting : result.deadlock_cycle) translate(waiting.rank.value, waiting.index);
  }
  return result;
}

}  // namespace plumb
