// A head that is tied to its embedding: the first and the last stage hold the same matrix, and when a step
// ends the gradient of each is the sum of both.
#pragma once
#include "runtime/training_plan.hpp"

#include <vector>

namespace plumb {

/// Two ranks of one pipeline, or twice the same one, that hold the first and the last stage. Of two owners of
/// each the first goes with the first: once the owners of a stage have one sum, each pair has all of it.
struct SharedPair {
  Rank first;
  Rank last;
  bool operator==(const SharedPair&) const = default;
};

/// The pairs that add up their gradients of the shared matrix, in the order in which whoever is in several
/// takes them. None where nothing is shared. Throws BadInput where one of the stages is on more ranks than
/// the other.
std::vector<SharedPair> shared_pairs(const TrainingPlan& plan);

}  // namespace plumb
