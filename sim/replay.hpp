// The contention-free replay: nothing is shared, so every start is a maximum and no event queue is needed.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace plumb {

struct Dag;

/// When every node ends: its start is the later of its rank's previous end and its inputs' arrivals. `ends`
/// has one entry a node. Each rank runs as far as it can and is woken by the node it waits for: O(nodes), in
/// any order of the ranks. The graph must be free of cycles.
void replay(const Dag& dag, std::span<std::int64_t> ends);

}  // namespace plumb
