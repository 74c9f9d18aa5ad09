// Brings the records of ranks in other processes to rank 0, where they become one Timeline.
#pragma once
#include "runtime/backend.hpp"
#include "runtime/bootstrap/rendezvous.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// All ranks together. [rank of the rendezvous] what each recorded, on rank 0; empty on the others.
std::vector<StepTimes> gather_times(Rendezvous& rendezvous, const StepTimes& own);

/// As it travels, between machines of one byte order. The other way round throws DeviceError for what is no
/// such record.
std::string to_bytes(const StepTimes& times);
StepTimes times_from_bytes(std::string_view bytes);

}  // namespace plumb
