// What a stage keeps of one microbatch, and where: tensor behind tensor in three blocks, forward's for
// backward_input, forward's for backward_weight, and the gradients between these two. The tensors are those
// of schedules/model/layer_costs.
#pragma once
#include "runtime/layers/attention.hpp"
#include "runtime/layers/head_norm.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/tensor.hpp"
#include "schedules/ir/units.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>

namespace plumb::layers {

/// What decides which tensors a stage has, and how large they are.
struct StageShape {
  ModelShape model;
  StageContent content;
  DataType type = DataType::bf16;
  AttentionSize attention_size;
  std::uint64_t tokens = 0;  // of a microbatch

  bool is_mlp() const { return model.architecture == Architecture::mlp; }
  bool gated() const { return !is_mlp() && model.ffn_kind == FfnKind::swiglu; }
  bool norms_heads() const { return model.attention.query_key_norm; }
  bool looks_up() const { return content.embedding && !is_mlp(); }  // tokens in the embedding's table
  std::uint64_t up_width() const { return gated() ? 2 * model.ffn : model.ffn; }
  Tensor hidden(const void* data) const { return {const_cast<void*>(data), type, tokens, model.hidden}; }
  Tensor logits_at(void* data) const { return {data, type, tokens, model.vocab}; }
};

/// A layer's, by forward. Without SwiGLU `gate_and_up` is what GELU reads. An mlp has `normed_1` (its input),
/// `gate_and_up` and `activated`.
struct LayerKept {
  Tensor x_1, normed_1, qkv, o, x_2, normed_2, gate_and_up, activated;
  NormStatistics norm_1, norm_2;
  HeadNormKept heads;  // with norms of queries and keys
  float* log_sum_exp = nullptr;
};
/// A layer's, by backward_input.
struct LayerGradients {
  Tensor qkv, x_2, gate_and_up;
  Tensor output;  // of the layer: what the last linear reads
};
/// The head's, by forward.
struct HeadKept {
  Tensor x, normed;  // an mlp: x is its output
  NormStatistics norm;
  std::int32_t* targets = nullptr;
  float* log_sum_exp = nullptr;
  Tensor target;  // an mlp's
};

/// The first of each block is the embedding's: token ids (for_weight) and the gradient of its output
/// (gradients). Then come the layers, then the head.
class StageKept {
 public:
  explicit StageKept(const StageShape& shape);

  Bytes for_input() const;
  Bytes for_weight() const;
  Bytes gradients() const;

  /// Their places in blocks that begin there; `layer` counts from 0 in the stage.
  LayerKept layer(std::uint64_t layer, const void* for_input, const void* for_weight) const;
  LayerGradients layer_gradients(std::uint64_t layer, const void* gradients) const;
  HeadKept head(const void* for_input, const void* for_weight) const;
  Tensor logit_gradients(const void* gradients) const;  // not an mlp's

 private:
  StageShape shape_;
  Bytes layer_for_input_, layer_for_weight_, layer_gradients_;
  Bytes embedding_for_weight_, embedding_gradients_;
};

}  // namespace plumb::layers
