// plumb calibrate --compare: how far two calibrations are apart, the furthest figure first.
#pragma once
#include "tools/console.hpp"

#include <string>

namespace plumb::tools {

/// Names or files. Prints tables, or plumb.calibration_diff/1. Throws BadInput where they are of two classes
/// of GPU, unless `force`, or have no figure in common. Returns the exit code.
int compare_calibrations(const std::string& name_a, const std::string& name_b, bool force, bool json,
                         Console& console);

}  // namespace plumb::tools
