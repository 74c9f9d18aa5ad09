// What a calibration says as a picture: its fits of messages, and who slows whom down.
#pragma once
#include "calibrate/calibration.hpp"

#include <string>

namespace plumb::render {

/// Each series of messages over its size, both axes logarithmic: dots for medians with their quartiles, the
/// fit as a line; below them the matrix of slowdowns. A note instead where there are neither.
std::string calibration_svg(const Calibration& calibration);

}  // namespace plumb::render
