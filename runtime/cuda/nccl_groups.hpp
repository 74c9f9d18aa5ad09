// Which workers speak through which of NCCL's communicators.
#pragma once
#include "runtime/rank_program.hpp"
#include "runtime/shared_matrix.hpp"
#include "schedules/ir/lower.hpp"

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace plumb::cuda {

/// Workers are copy x ranks + rank. Every worker works out the same from the schedule alone, and takes
/// parents and groups in their order, so that two workers come to what they have in common in the same order.
struct NcclGroups {
  struct Group {
    std::vector<std::uint32_t> workers;  // numbered in its communicator as they stand here
    /// Where it is a part of a parent: which, in which of the parent's splits, and which part of that.
    std::uint32_t parent = no_index;
    std::uint32_t split = 0;
    std::uint32_t part = 0;
    bool sums = false;  // gradients
    bool operator==(const Group&) const = default;
  };
  struct Parent {
    std::vector<std::uint32_t> workers;
    std::uint32_t splits = 0;  // all of its workers take part in each, in this order
    bool operator==(const Parent&) const = default;
  };
  std::vector<Parent> parents;
  std::vector<Group> groups;
  /// [from, to] the group of the messages between two workers.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> of_messages;
  /// [workers, ascending] the group in which they add up gradients. Those of one worker have none.
  std::map<std::vector<std::uint32_t>, std::uint32_t> of_sums;

  bool operator==(const NcclGroups&) const = default;
};

/// Messages that stand alone have a group of two workers for each pair and direction; with `shared_threads`
/// those are parts of two parents, one of all ways towards higher ranks and one of all towards lower ones.
/// Messages that are waited for together are in one group of the whole pipeline.
NcclGroups nccl_groups(const LoweredSchedule& schedule, const std::vector<SharedPair>& shared,
                       bool shared_threads);

/// [stage] the workers that add up its gradients, ascending; empty where none do.
std::vector<std::vector<std::uint32_t>> owners_of_sums(const LoweredSchedule& schedule);
/// The workers of one copy of a pair, ascending.
std::vector<std::uint32_t> workers_of(const SharedPair& pair, std::uint32_t copy, std::uint32_t ranks);

}  // namespace plumb::cuda
