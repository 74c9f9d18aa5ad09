// A Report for people, in a terminal.
#pragma once
#include "sim/report.hpp"
#include "tools/console.hpp"

#include <string>

namespace plumb {
struct Timeline;
}

namespace plumb::tools {

/// Step time, bubble and its causes, then a row a rank.
std::string report_text(const Report& report);

/// Says on `err` when a trace of the timeline will be too large for its viewers.
void warn_of_large_trace(Console& console, const Timeline& timeline);

}  // namespace plumb::tools
