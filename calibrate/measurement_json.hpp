// The measurements of plumb.calibration/1 as JSON: each a line, units in its keys.
#pragma once
#include "calibrate/measurement.hpp"
#include "calibrate/provenance.hpp"
#include "schedules/ir/json_document.hpp"

#include <string>

namespace plumb {

/// All readers throw BadInput with the JSON pointer, and refuse what can't be: quartiles out of order, knots
/// that fall, a set of no samples.
Provenance read_provenance(const JsonView& view);
TimedWork read_timed_work(const JsonView& view);
TransferSeries read_transfer_series(const JsonView& view);
Slowdown read_slowdown_measured(const JsonView& view);
MeasuredMemory read_measured_memory(const JsonView& view);

/// What the readers read back to an equal value, on one line; the provenance on several, each indented by
/// one.
std::string to_json(const Provenance& provenance);
std::string to_json(const TimedWork& work);
std::string to_json(const TransferSeries& series);
std::string to_json(const Slowdown& slowdown);
std::string to_json(const MeasuredMemory& memory);

}  // namespace plumb
