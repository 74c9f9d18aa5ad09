// plumb.report/1: the report that scripts read.
#pragma once
#include "sim/report.hpp"

#include <iosfwd>
#include <string>
#include <string_view>

namespace plumb {

/// The document without a line break behind it. Bytes are in it where the costs say bytes.
std::string to_json(const Report& report);

/// Reads a plumb.report/1 back. Throws BadInput with the JSON pointer.
Report parse_report(std::string_view content, std::string_view where);

}  // namespace plumb
