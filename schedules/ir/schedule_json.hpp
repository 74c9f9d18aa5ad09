// plumb.schedule/1: a schedule as JSON.
#pragma once
#include "schedules/ir/schedule_file.hpp"

#include <iosfwd>
#include <string_view>

namespace plumb {

/// Throws BadInput with the JSON pointer.
ScheduleFile parse_schedule_json(std::string_view content, std::string_view where);

/// {"schema":"plumb.schedule/1",…}. Computation alone, or with its messages: single tokens per_op, group
/// elements batched. Gradient reductions are not written.
void write_schedule_json(std::ostream& out, const Schedule& schedule);
void write_schedule_json(std::ostream& out, const LoweredSchedule& lowered);

}  // namespace plumb
