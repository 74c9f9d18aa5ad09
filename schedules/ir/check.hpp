// Is it a schedule at all? Everything that is wrong with it, named, with the place and the smallest fix.
#pragma once
#include "schedules/ir/lower.hpp"
#include "schedules/ir/schedule.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

enum class ViolationKind : std::uint8_t {
  missing,
  doubled,
  out_of_order,
  out_of_range,
  two_owners,
  deadlock
};
std::string_view to_string(ViolationKind kind);

/// One thing that is wrong. `rank` is -1 where no rank can be named; `index` is the 0-based element of the
/// rank's list, -1 for an op that is missing.
struct Violation {
  std::int64_t rank = -1;
  std::int64_t index = -1;
  std::string action;
  ViolationKind kind = ViolationKind::missing;
  std::string message;
  bool operator==(const Violation&) const = default;
};

/// One rank of a wait cycle: it stands at `action` and waits for the next entry's rank (the last waits for
/// the first).
struct Waiting {
  Rank rank;
  std::int64_t index = 0;
  std::string action;
  bool operator==(const Waiting&) const = default;
};

struct CheckResult {
  std::vector<Violation> violations;  // sorted by rank, then index
  std::vector<Waiting> deadlock_cycle;
  /// The cycle as a rank x element grid around the failing cells, which are marked >so<; for a terminal.
  std::string deadlock_grid;
  bool valid() const { return violations.empty(); }
};

/// Of computation alone: every product exactly once, halves of a backward together, a rank's own order, one
/// rank for each (stage, microbatch), and no wait cycle between ranks. O(ops).
CheckResult check(const Schedule& schedule);

/// With messages: also every message present, doubled, misplaced, addressed to the wrong peer, crossed with
/// another on its channel; and no wait cycle when every message blocks until its peer arrives (rendezvous)
/// and a rank's messages run one after the other.
CheckResult check(const LoweredSchedule& lowered);

}  // namespace plumb
