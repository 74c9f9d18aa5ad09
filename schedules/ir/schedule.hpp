// A Schedule says in what order. It knows nothing of time, cost or messages.
#pragma once
#include "schedules/ir/op.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace plumb {

/// For every rank, the compute actions of one training step in the order in which it runs them.
struct Schedule {
  std::string name;
  std::uint32_t stages = 0;                  // of one copy of the model
  std::uint32_t microbatches = 0;            // of one step, both directions together
  std::vector<std::vector<Action>> actions;  // [rank][position]

  std::uint32_t ranks() const { return static_cast<std::uint32_t>(actions.size()); }
  bool operator==(const Schedule&) const = default;
};

/// Number of compute ops (a pair counts two).
std::size_t count_ops(const Schedule& schedule);

/// The most ops of any kind that a schedule read, made or simulated may hold; beyond it a request is refused
/// with BadInput before memory is spent. About 64 million.
inline constexpr std::uint64_t max_ops = std::uint64_t{1} << 26;
/// The most ranks of one pipeline.
inline constexpr std::uint32_t max_ranks = 1u << 16;

}  // namespace plumb
