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

/// What a model is cut into at most: the embedding, each layer, each MTP module, and norm, head and loss;
/// each as a stage of its own.
std::vector<StageContent> pieces_of(const ModelShape& model);
/// Stages of so many consecutive pieces each.
std::vector<StageContent> stages_of_pieces(const std::vector<StageContent>& pieces,
                                           const std::vector<std::size_t>& counts);
/// The inverse, for stages that hold something each.
std::vector<std::size_t> piece_counts(const std::vector<StageContent>& stages);

/// What is known of every piece of a model at one way of cutting it but the pipeline's: from costs of one
/// piece a stage, so that stages of any number of pieces follow by adding up.
class PieceSums {
 public:
  /// Pieces from `first` to the last are less together than one by one: an MTP module and the head share
  /// their input, a tied head and the embedding their weights. `cost` is of all of them as one stage.
  struct JoinedTail {
    std::size_t first = 0;
    StageCost cost;
  };
  /// `joined`: by `first`.
  explicit PieceSums(const CostModel& one_piece_a_stage, std::vector<JoinedTail> joined = {});

  /// Of pieces [first, last). Memory that ops keep adds up, workspace and messages are the largest of a
  /// piece's; recipes are left empty. Gradient reductions and optimizer steps count three quarters: more of a
  /// larger stage's may hide behind its computation.
  StageCost memory(std::size_t first, std::size_t last) const;
  StageLeast times(std::size_t first, std::size_t last) const;
  /// Forward and whole backward of the pieces [first, last), each op alone.
  Duration busy(std::size_t first, std::size_t last) const;
  Bytes reserve() const { return reserve_; }

 private:
  std::size_t pieces_;
  Bytes reserve_;
  std::vector<JoinedTail> joined_;
  std::vector<StageLeast> times_;  // [piece], sums of those before it; one more than pieces
  std::vector<StageCost> costs_;   // [piece], without recipes
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

/// The largest over ranks of what a rank holds at most, or less: a lower bound of what profile_memory says of
/// the whole schedule. `cost` needs memory alone, no recipes. Looked at closely are the two ranks that hold
/// most by count, and none where the counts alone are beyond `enough` already.
Bytes least_peak(const Outline& outline, const CostModel& cost, Bytes enough);

/// What is to have as equal an amount of work as possible: a rank's stages together, or every stage. The
/// first is what a pipeline needs in the long run; the second what schedules need that take turns with their
/// chunks.
enum class Balance : std::uint8_t { ranks, stages };

/// How many pieces each stage holds, from `even` by moving single pieces across as long as the busiest of
/// what is balanced gets less to do. `even` itself where that saves less than half a percent of it.
std::vector<std::size_t> balanced_counts(const std::vector<std::size_t>& even, const Outline& outline,
                                         const PieceSums& pieces, Balance balance);

}  // namespace plumb
