// All ranks in this process, on one GPU.
#pragma once
#include "calibrate/measurer.hpp"

#include <memory>

namespace plumb::measure {

/// Throws DeviceError where the GPU cannot be cut so finely, or its memory does not suffice.
std::unique_ptr<Measurer> make_local_measurer(const CalibrationRequest& request);

}  // namespace plumb::measure
