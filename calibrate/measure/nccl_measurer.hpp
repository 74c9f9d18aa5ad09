// One rank of several in processes of their own, which send through NCCL.
#pragma once
#include "calibrate/measurer.hpp"

#include <memory>

namespace plumb::measure {

/// This rank's part; what it is asked to measure, all ranks must be asked at the same time. All ranks
/// together. Throws DeviceError.
std::unique_ptr<Measurer> make_nccl_measurer(const CalibrationRequest& request, const ProcessPlace& place);

}  // namespace plumb::measure
