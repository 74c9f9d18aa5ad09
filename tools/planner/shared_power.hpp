// Ranks that share one GPU share its power limit: the more of them stand idle, the higher its clock.
#pragma once
#include "calibrate/calibration.hpp"
#include "schedules/ir/cost_model.hpp"
#include "tools/planner/predict.hpp"

#include <cstdint>
#include <optional>

namespace plumb {

struct ClockRange {
  std::uint32_t loaded_mhz = 0;  // with every rank computing all the time: what was measured
  std::uint32_t most_mhz = 0;    // what the chip could
};

/// Of a calibration whose ranks were shares of one GPU, measured while all others computed; nothing for
/// others, or where the clock was not read. A rank with a GPU of its own has its own limit, and is not slowed
/// by what others do.
std::optional<ClockRange> shared_clock(const Calibration& calibration);

/// Power goes with the cube of the clock (the voltage follows the clock), so at the limit a pipeline whose
/// ranks compute a share u of the time runs at loaded / cube root of u, and never above `most`: computation
/// lasts that much shorter than it was measured. u is the prediction's own busy share, so it is predicted
/// again until the clock stays. No figure is fitted. Messages and gradient reductions, which move memory,
/// keep their durations.
Prediction predict_at_shared_power(const LoweredSchedule& schedule, const CostModel& cost,
                                   const ExecutionOptions& options, const ClockRange& clock, Detail detail);

}  // namespace plumb
