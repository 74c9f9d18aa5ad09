// plumb.timeline/1: a Timeline as a document, predicted or measured.
#pragma once
#include "schedules/ir/timeline.hpp"

#include <iosfwd>
#include <string_view>

namespace plumb {

void write_timeline(std::ostream& out, const Timeline& timeline);

/// Throws BadInput with the JSON pointer.
Timeline parse_timeline(std::string_view content, std::string_view where);

}  // namespace plumb
