// Messages between processes of one machine that go through its sockets: the host's cores copy them, and the
// more are under way, the longer each takes.
#pragma once
#include "calibrate/calibration.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/timeline.hpp"
#include "tools/planner/predict.hpp"

#include <functional>
#include <optional>

namespace plumb {

struct SharedSockets {
  double together = 1;  // so many messages were measured at once
  double longer = 1;    // and each took so many times as long as one alone
  bool operator==(const SharedSockets&) const = default;

  /// How many times as long a message takes while `under_way` are, itself included: on a straight line to
  /// what was measured, and no longer beyond it. (8 ranks on 16 cores, in steps of an H200: 4.7 ms with one
  /// under way, 6.2 with 4, 6.4 with 7.)
  double times(double under_way) const;
};

/// Of a calibration over NCCL whose ranks were processes that share one GPU, for messages of the model's
/// size; nothing for others.
std::optional<SharedSockets> shared_sockets(const Calibration& calibration);

/// Nothing is fitted. Each way between two ranks is slowed by as many messages as are under way, on average,
/// while its own are; as that depends on the timeline, the step is predicted again until it stays. Messages
/// of one way follow each other, as in a communicator of NCCL's. `predict` predicts with given options.
Prediction predict_at_shared_sockets(const SharedSockets& sockets, const ExecutionOptions& options,
                                     const std::function<Prediction(const ExecutionOptions&)>& predict);

/// `predict` with all that ranks were measured to share: power (shared_power) and sockets.
Prediction predict_as_measured(const LoweredSchedule& schedule, const CostModel& cost,
                               const ExecutionOptions& options, const Calibration& calibration,
                               Detail detail);

}  // namespace plumb
