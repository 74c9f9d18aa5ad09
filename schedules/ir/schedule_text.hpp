// A schedule as lines of text.
#pragma once
#include "schedules/ir/schedule_file.hpp"

#include <iosfwd>
#include <string_view>

namespace plumb {

/// `plumb.schedule/1 NAME ranks=P stages=S microbatches=M`, then `RANK: token token …`, a group as
/// `{ 0SEND_F0>1 3RECV_F4<1 }`. Throws BadInput with the line and the element.
ScheduleFile parse_schedule_text(std::string_view content, std::string_view where);

/// A header line and a line a rank, for people and for diff; reads back.
void write_schedule_text(std::ostream& out, const Schedule& schedule);
void write_schedule_text(std::ostream& out, const LoweredSchedule& lowered);

}  // namespace plumb
