// Why candidates of a sweep were ruled out.
#pragma once
#include "schedules/generators/generator.hpp"
#include "schedules/ir/units.hpp"

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace plumb {

/// Candidates that were ruled out for one reason.
struct Refusal {
  std::string schedule;  // empty: all
  std::string reason;
  std::size_t candidates = 0;
  bool operator==(const Refusal&) const = default;
};

/// Counts them by schedule and reason. Schedules go by their index among those that are swept; `all` stands
/// for every one.
class Refusals {
 public:
  static constexpr std::size_t all = static_cast<std::size_t>(-1);

  void add(std::size_t schedule, std::string reason, std::size_t candidates = 1);
  /// Beyond the memory that there is: one entry a schedule, with the candidate that lacks the least.
  /// `what`: that candidate, for people.
  void add_memory(std::size_t schedule, Bytes peak, std::string what);
  void merge(const Refusals& other);

  /// What concerns all schedules first, then schedule by schedule, most candidates first. `memory`: what
  /// there is.
  std::vector<Refusal> list(const std::vector<const Generator*>& schedules, Bytes memory) const;

 private:
  struct Lacking {
    Bytes least;
    std::string what;
    std::size_t candidates = 0;
  };
  std::map<std::pair<std::size_t, std::string>, std::size_t> counts_;
  std::map<std::size_t, Lacking> lacking_;
};

}  // namespace plumb
