// PyTorch's schedule CSV: a line a rank, a cell an action.
#pragma once
#include "schedules/ir/schedule_file.hpp"

#include <iosfwd>
#include <optional>
#include <string_view>

namespace plumb {

/// Either of its two forms, also in the letters of 2024. Throws BadInput with the line and the cell.
ScheduleFile parse_pytorch_csv(std::string_view content, std::string_view where);

/// PyTorch's `compute_only` CSV. Throws BadInput for a schedule with a stage on two ranks.
void write_pytorch_csv(std::ostream& out, const Schedule& schedule);
/// PyTorch's `compute_comms` CSV, which PyTorch executes as it stands: so each stage's REDUCE_GRAD, which
/// scales its gradients, is in it. Throws BadInput for two-owner schedules and for batched messages.
void write_pytorch_csv(std::ostream& out, const LoweredSchedule& lowered);

/// A stage that lives on two ranks, which the format has no way to say.
struct TwoOwners {
  Stage stage;
  Rank first, second;
};
/// The first one, if there is one.
std::optional<TwoOwners> two_owners(const Schedule& schedule);

}  // namespace plumb
