// What a candidate takes and holds at least, without simulating it.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/model/layout.hpp"
#include "tools/planner/outline.hpp"

#include <array>
#include <cstdint>
#include <vector>

namespace plumb {

/// How long one op lasts at least: its work on either lane, and its segments that wait for each other.
struct LeastTime {
  Duration compute;
  Duration communication;
  Duration in_turn;  // without the deferred ones
  Duration alone() const;
  LeastTime& operator+=(const LeastTime& other);
  bool operator==(const LeastTime&) const = default;
};
LeastTime least_time(const OpCost& op);

/// A stage's ops in this order: forward, backward_input, backward_weight, backward.
using StageLeast = std::array<LeastTime, 4>;

/// What is known of every layer of a model at one way of cutting it but the pipeline's: from costs of one
/// layer a stage, so that stages of any number of layers follow by adding up. The embedding counts to the
/// first layer; MTP, head and loss to the last.
class LayerSums {
 public:
  /// `one_layer_a_stage` has an entry a layer.
  explicit LayerSums(const CostModel& one_layer_a_stage);

  std::size_t layers() const { return layers_; }
  /// Of layers [first, last). Memory that ops keep adds up, workspace and messages are the largest of a
  /// layer's; recipes are left empty. Gradient reductions and optimizer steps add up too.
  StageCost memory(std::size_t first, std::size_t last) const;
  StageLeast times(std::size_t first, std::size_t last) const;
  /// Forward and whole backward of the layers [first, last), each op alone.
  Duration busy(std::size_t first, std::size_t last) const;
  /// Weights, gradients and optimizer state of all layers together.
  Bytes held() const;
  Bytes reserve() const { return reserve_; }

 private:
  std::size_t layers_;
  Bytes reserve_;
  std::vector<StageLeast> times_;  // [layer], sums of those before it; one more than layers
  std::vector<StageCost> costs_;   // [layer], without recipes
};

/// The step time that no schedule of this outline goes below with these stages, in any case: the ranks' own
/// work, behind the forwards that must come before it and ahead of what must follow, then the slowest rank's
/// optimizer. Where forwards run beside backwards, a rank's work is at least what its busier lane has to do.
/// `ends` says how long gradient reductions (with `reduced`) and optimizer steps are, and needs nothing else.
///
/// For fused backwards that is the closed form of 1F1B's and interleaved 1F1B's step, so few candidates have
/// to be simulated.
Duration least_step_time(const Outline& outline, std::uint32_t microbatches,
                         const std::vector<StageLeast>& stages, const CostModel& ends, bool reduced);

/// The largest over ranks of what a rank holds at most. `cost` needs memory alone, no recipes.
/// The rank that holds most by count is looked at, so the result is a lower bound of what profile_memory says
/// of the whole schedule.
Bytes least_peak(const Outline& outline, const CostModel& cost);

/// Stages for `outline` whose slowest rank has the least to do, from `even` by moving single layers; `even`
/// itself where nothing saves a hundredth of the slowest rank's work.
std::vector<StageContent> balanced_stages(const std::vector<StageContent>& even, const Outline& outline,
                                          const LayerSums& layers);

}  // namespace plumb
