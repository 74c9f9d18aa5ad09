// From PyTorch profiles to a calibration: for people who run their pipeline already and have no GPU to spare.
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/kineto_trace.hpp"

#include <string>
#include <vector>

namespace plumb {

/// One trace a rank. Per stage, kind of op and rank the durations over all microbatches and steps; overlapped
/// pairs as `forward_beside_backward`; messages that both of their ranks recorded, as the shorter of the two
/// kernels (that rank came last and waited for nobody). The layer is the mean over the stages: one `layer` of
/// the document is a stage. Traces without a rank count in the order given. Throws BadInput: the same rank
/// twice, nothing in common.
Calibration calibration_of(const std::vector<KinetoTrace>& traces);

}  // namespace plumb
