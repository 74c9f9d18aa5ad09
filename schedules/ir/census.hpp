// Where every op and message of a lowered schedule stands, and who makes what for whom: what the parts of
// check() look things up in. Not for others.
#pragma once
#include "schedules/ir/check.hpp"
#include "schedules/ir/dependencies.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace plumb::checking {

/// One element of one rank's list.
struct Spot {
  Rank rank;
  std::uint32_t index = 0;
};

/// What is known of one (stage, microbatch).
struct Cell {
  std::optional<Spot> forward, input, weight, both;
  Rank home;  // where most of its stage's ops are
  bool any = false;

  /// The op that makes the product, as half or as a whole backward.
  std::optional<Spot> maker(Product product) const;
  std::vector<std::pair<Spot, OpKind>> parts() const;
};

/// Collects violations; each names its place.
class Findings {
 public:
  void report(ViolationKind kind, std::int64_t rank, std::int64_t index, std::string action,
              std::string message);
  void report(ViolationKind kind, const Spot& spot, const Op& op, std::string message);
  /// Sorted by rank, then index; in the order of reporting at one place.
  std::vector<Violation> sorted() &&;

 private:
  std::vector<Violation> violations_;
};

class Census {
 public:
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // stage, microbatch

  /// Sorts every op into its cell; one that is out of range or doubled is reported and left out.
  Census(const LoweredSchedule& lowered, Findings& findings);

  const LoweredSchedule& lowered() const { return lowered_; }
  const std::map<Key, Cell>& cells() const { return cells_; }
  bool has_messages() const;
  bool in_range(const Op& op) const;
  /// Says why an op is not.
  std::string range_text(const Op& op) const;

  std::optional<Spot> maker_of(const Need& need) const;
  /// The op that makes the product, as the schedule spells it.
  Op made_by(const Need& need) const;
  /// The op that waits for the product on another rank, if there is one.
  std::optional<std::pair<Op, Spot>> remote_user(const Need& need, Rank from) const;

  template <class Visit>
  void for_each_op(Visit visit) const {
    for (std::uint32_t r = 0; r < lowered_.ranks(); ++r) {
      const auto& steps = lowered_.per_rank[r].steps;
      for (std::uint32_t i = 0; i < steps.size(); ++i) {
        if (const auto* action = std::get_if<Action>(&steps[i])) {
          for (const Op& op : *action) visit(Spot{Rank{r}, i}, op);
        }
      }
    }
  }

  template <class Visit>
  void for_each_message(Visit visit) const {
    for (std::uint32_t r = 0; r < lowered_.ranks(); ++r) {
      const LoweredRank& list = lowered_.per_rank[r];
      for (std::uint32_t i = 0; i < list.steps.size(); ++i) {
        if (const auto* batch = std::get_if<CommBatch>(&list.steps[i])) {
          for (const Message& message : list.messages_of(*batch)) visit(Spot{Rank{r}, i}, message);
        }
      }
    }
  }

 private:
  void place(const Spot& spot, const Op& op, Findings& findings);

  const LoweredSchedule& lowered_;
  std::map<Key, Cell> cells_;
};

}  // namespace plumb::checking
