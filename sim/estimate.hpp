// How long and how big each op is: from what was measured to the costs of a pipeline's stages.
#pragma once
#include "calibrate/calibration.hpp"
#include "schedules/ir/cost_model.hpp"

#include <cstdint>

namespace plumb {

/// Costs of a model of `layers` layers cut into `stages` equal stages. A stage holds layers / stages layers,
/// which need not be a whole number: its recipe repeats the measured layer, scaled to fit, so that schedules
/// with different numbers of stages share out the same work.
CostModel estimate(const Calibration& calibration, std::uint32_t stages, std::uint32_t layers);

/// One chunk as it was measured (Calibration::chunk_layers layers).
CostModel measured_chunk(const Calibration& calibration);

}  // namespace plumb
