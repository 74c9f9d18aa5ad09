// A calibration by several processes: rank 0 plans and asks, and all ranks measure what it asks for, each
// with a measurer of its own.
#pragma once
#include "calibrate/measurer.hpp"

#include <memory>

namespace plumb {
class Rendezvous;
}

namespace plumb::ranks {

/// `own` is this rank's; it is asked to measure one target on all ranks at the same time, and may meet the
/// others on the way there. What each measured is rank 0's. The rendezvous outlives it and is used by nobody
/// else.
///
/// On rank 0 `measure` throws DeviceError where any rank failed, is gone or came too late, and so does
/// `serve` on the others: the rank that failed first is named everywhere.
std::unique_ptr<Measurer> make_ranked_measurer(Rendezvous& rendezvous, std::unique_ptr<Measurer> own);

}  // namespace plumb::ranks
