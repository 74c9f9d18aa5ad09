// A schedule as somebody wrote it, in our JSON or text form or PyTorch's CSV, told apart by content.
#pragma once
#include "schedules/ir/check.hpp"
#include "schedules/ir/lower.hpp"

#include <cstdint>
#include <string_view>
#include <vector>

namespace plumb {

enum class ScheduleForm : std::uint8_t { json, text, pytorch_csv };

/// A schedule as somebody wrote it: nothing is promised but that it parses.
struct ScheduleFile {
  ScheduleForm form = ScheduleForm::json;
  LoweredSchedule lowered;  // with the file's messages and collectives, if it has any
  bool has_messages = false;
  /// [rank][step] -> the element or cell of the file, where they differ (a CSV's blank cells). Empty: equal.
  std::vector<std::vector<std::uint32_t>> elements;
};

/// Parses `content`; `where` names it in errors. Throws BadInput with the line and cell, or JSON pointer.
ScheduleFile parse_schedule(std::string_view content, std::string_view where);

/// `check` of what the file holds, with the file's own element numbers. Throws BadInput where the file claims
/// more ops than max_ops. A CSV with a stage on two ranks is refused here: PyTorch cannot run it.
CheckResult check(const ScheduleFile& file);

}  // namespace plumb
