// Schedules as files: our JSON and text forms, and PyTorch's CSV, told apart by content.
#pragma once
#include "schedules/ir/check.hpp"
#include "schedules/ir/lower.hpp"

#include <cstdint>
#include <iosfwd>
#include <string>
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

/// The most bytes that are read of one input.
inline constexpr std::size_t max_input_bytes = std::size_t{256} << 20;

/// The whole of a file, or of standard input for `-`. Throws BadInput: unreadable, a folder, binary, or
/// beyond max_input_bytes.
std::string read_input(const std::string& path);

/// Parses `content`; `where` names it in errors. Throws BadInput with the line and cell, or JSON pointer.
ScheduleFile parse_schedule(std::string_view content, std::string_view where);

/// `check` of what the file holds, with the file's own element numbers. Throws BadInput where the file claims
/// more ops than max_ops. A CSV with a stage on two ranks is refused here: PyTorch cannot run it.
CheckResult check(const ScheduleFile& file);

/// {"schema":"plumb.schedule/1",…}. Computation alone, or with its messages: single tokens per_op, group
/// elements batched. Gradient reductions are not written.
void write_schedule_json(std::ostream& out, const Schedule& schedule);
void write_schedule_json(std::ostream& out, const LoweredSchedule& lowered);

/// A header line and a line a rank, for people and for diff; reads back.
void write_schedule_text(std::ostream& out, const Schedule& schedule);
void write_schedule_text(std::ostream& out, const LoweredSchedule& lowered);

/// PyTorch's `compute_only` CSV. Throws BadInput for a schedule with a stage on two ranks.
void write_pytorch_csv(std::ostream& out, const Schedule& schedule);
/// PyTorch's `compute_comms` CSV, which PyTorch executes as it stands: so each stage's REDUCE_GRAD, which
/// scales its gradients, is in it. Throws BadInput for two-owner schedules and for batched messages.
void write_pytorch_csv(std::ostream& out, const LoweredSchedule& lowered);

}  // namespace plumb
