// A stage with everything that its ops need, ready to run any of them at any time.
#pragma once
#include "calibrate/measurement.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/event.hpp"
#include "runtime/layers/model_stage.hpp"
#include "schedules/ir/ids.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <optional>
#include <vector>

namespace plumb::measure {

/// What a rank of a busy pipeline computes right before an op of this kind: a backward before a forward, of
/// one microbatch after another. Weights that a forward would find in the second-level cache if forwards
/// followed each other are not there in a step. Nothing for a pair, which finds what the pair before it left,
/// and the optimizer, which reads more than any cache holds.
std::optional<WorkKind> before_in_a_pipeline(WorkKind kind);

/// Weights, optimizer state and two microbatches that have been through forward and backward_input: what is
/// measured takes them in turns, so that nothing is found in a cache that would not be there in a step.
class StageRig {
 public:
  /// Ops run on `main`; of a pair the forward runs on `beside`, with weights of its own: the two halves of a
  /// pair are of two stages, and find nothing of each other's in the cache.
  StageRig(const ModelShape& model, const Layout& layout, Stage stage, layers::ProductAlgorithms& algorithms,
           const layers::Lane& main, const layers::Lane& beside);

  /// Queues it once. The other stream begins after what is in the main one, and the main one goes on after
  /// it.
  void launch(WorkKind kind);
  const layers::StageNeeds& needs() const { return stage_->needs(); }
  std::uint64_t parameters() const { return elements_of(specs_); }
  Bytes weight_bytes() const { return weights_.bytes(); }
  Bytes gradient_bytes() const { return gradients_.bytes(); }

 private:
  struct Microbatch {
    device::Buffer input, output, for_input, for_weight, gradients, d_output, d_input, target;
    layers::StageBuffers forward, backward;
  };
  Microbatch microbatch(const ModelShape& model, const Layout& layout);

  const layers::Lane& main_;
  const layers::Lane& beside_;
  layers::DataType type_;
  StageContent content_;
  bool makes_input_gradient_;
  std::vector<ParameterSpec> specs_;
  device::Buffer weights_, gradients_, master_, first_moment_, second_moment_, loss_;
  device::Buffer other_weights_, other_gradients_;
  device::Buffer scratch_, scratch_beside_;
  std::vector<layers::ModelStage> stages_;  // the measured one, and its like
  const layers::ModelStage* stage_ = nullptr;
  std::vector<Microbatch> microbatches_;
  layers::StageTarget target_of(const Microbatch& microbatch) const;
  std::size_t turn_ = 0;
  device::Event fork_, join_;
};

}  // namespace plumb::measure
