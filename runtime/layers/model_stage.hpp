// A stage of a model on the device: what a rank computes for one microbatch, as forward, backward_input,
// backward_weight.
#pragma once
#include "runtime/layers/attention.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/launching.hpp"
#include "runtime/layers/matmul.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/parameter.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/tensor.hpp"
#include "schedules/ir/ids.hpp"
#include "schedules/ir/op.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <memory>
#include <span>

namespace plumb::layers {

/// Of one microbatch. The kept tensors are those of schedules/model/layer_costs, to the byte where each is a
/// multiple of sixteen bytes.
struct StageNeeds {
  Bytes input;            // a transformer's first stage: token ids
  Bytes output;           // 0 on the last stage
  Bytes kept_for_input;   // by forward, until backward_input (or backward) ends
  Bytes kept_for_weight;  // by forward, until backward_weight (or backward) ends
  Bytes gradients_kept;   // by backward_input, until backward_weight ends
  Bytes forward_scratch;
  Bytes backward_input_scratch;
  Bytes backward_weight_scratch;
  Bytes backward_scratch;
  bool operator==(const StageNeeds&) const = default;
};

/// Where one op of one microbatch reads and writes; all on multiples of 256 bytes.
struct StageBuffers {
  /// forward: the stage's input, on the first stage token ids (int32) or an mlp's input. A backward: the
  /// gradient of the stage's output; nothing on the last stage. Free again when the op ends.
  const void* input = nullptr;
  /// forward: the stage's output; nothing on the last stage. A backward: the gradient of the stage's input;
  /// nothing on the first stage.
  void* output = nullptr;
  void* kept_for_input = nullptr;
  void* kept_for_weight = nullptr;
  void* gradients_kept = nullptr;  // not used by `backward`
  Scratch scratch;
};

/// What the last stage's loss is taken against.
struct StageTarget {
  const void* target = nullptr;  // token ids (int32), or an mlp's target: read by forward
  /// The loss is the mean over the microbatch's tokens, or over the elements of an mlp's output; its gradient
  /// is multiplied by this.
  float scale = 1;
  float* loss = nullptr;  // float32 on the device: forward adds the (unscaled) loss to it; may be nothing
};

/// Holds plans and tables, no tensors of any microbatch: ops of different microbatches can run at the same
/// time on different lanes, except two that add to the same gradients (two backward_inputs, whose norms'
/// gradients are added there, or two backward_weights).
class ModelStage {
 public:
  /// `parameters` are found by the names of the model's parameters. Products take their algorithms from
  /// `algorithms`, and choose what is missing there on `lane`, whose stream is idle when this returns; so
  /// should the device be meanwhile. Throws BadInput naming what is not supported: experts, latent attention,
  /// MTP modules, recompute, a tensor-parallel group.
  ModelStage(const ModelShape& model, const Layout& layout, plumb::Stage stage,
             std::span<const Parameter> parameters, ProductAlgorithms& algorithms, const Lane& lane);
  ModelStage(ModelStage&&) noexcept;
  ModelStage& operator=(ModelStage&&) noexcept;
  ~ModelStage();

  const StageNeeds& needs() const;

  /// From now on products are computed as `algorithms` has it, which takes no time where it has them all. No
  /// op of this stage is launching or running.
  void choose_products(ProductAlgorithms& algorithms, const Lane& lane);

  /// An op that computes, in pieces: nothing is launched before the first is asked for. Its lane and this
  /// stage outlive it.
  Launching launching(OpKind kind, const Lane& lane, const StageBuffers& buffers,
                      const StageTarget& target = {}) const;

  void forward(const Lane& lane, const StageBuffers& buffers, const StageTarget& target = {}) const {
    launching(OpKind::forward, lane, buffers, target).finish();
  }
  void backward_input(const Lane& lane, const StageBuffers& buffers, const StageTarget& target = {}) const {
    launching(OpKind::backward_input, lane, buffers, target).finish();
  }
  void backward_weight(const Lane& lane, const StageBuffers& buffers) const {
    launching(OpKind::backward_weight, lane, buffers).finish();
  }
  /// Both, layer by layer: the gradients between layers live no longer than a layer.
  void backward(const Lane& lane, const StageBuffers& buffers, const StageTarget& target = {}) const {
    launching(OpKind::backward, lane, buffers, target).finish();
  }

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace plumb::layers
