// plumb.costs/1: the CostModel's own document, and the short spellings of costs on a command line.
#pragma once
#include "schedules/ir/cost_model.hpp"

#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// The totals of one stage as plumb.costs/1 prints them: what its recipes last alone, and a pair of its own.
struct StageTotals {
  Duration forward, backward_input, backward_weight, backward, overlapped;
};

/// Writes the document; `totals[s]` are the derived figures of stage s (the simulator knows how recipes run).
void write_costs(std::ostream& out, const CostModel& cost, const std::vector<StageTotals>& totals);

/// Reads plumb.costs/1. A stage is given by its segments, or by totals alone: forward_ns, and backward_ns or
/// both halves; overlapped_ns is then the measured pair of the stage's forward beside its own backward.
/// Totals beside segments are derived figures and not read. Throws BadInput with the JSON pointer.
CostModel parse_costs(std::string_view content, std::string_view where);

/// Reads `forward=1ms,backward_input=1ms,backward_weight=1ms,backward=2ms,overlapped=3ms,p2p=0ms`: forward,
/// and backward or both halves, are required. Throws BadInput naming the pair that is wrong.
CostModel parse_cost_list(std::string_view text, std::string_view where);

/// Reads CSV lines `rank,action,duration_ns` (a header line with these words is allowed). Throws BadInput
/// with the line.
std::vector<OpOverride> parse_op_costs(std::string_view content, std::string_view where);

}  // namespace plumb
