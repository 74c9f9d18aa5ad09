#include "calibrate/work.hpp"

#include <string>

namespace plumb {
namespace {

std::string model_words(const ModelShape& model) {
  if (model.architecture == Architecture::mlp) return "mlp";
  std::string words = model.norm == NormKind::rms_norm ? "rms_norm" : "layer_norm";
  words += model.ffn_kind == FfnKind::swiglu ? " swiglu" : " gelu";
  if (model.position == PositionKind::rotary) words += " rotary";
  if (model.ffn_bias) words += " ffn_bias";
  if (model.attention.qkv_bias) words += " qkv_bias";
  if (model.attention.output_bias) words += " output_bias";
  if (model.attention.query_key_norm) words += " query_key_norm";
  return words;
}

std::string data_type(const Layout& layout) {
  switch (layout.numerics.weights) {
    case WeightType::bf16:
      return "bf16";
    case WeightType::fp32:
      return "fp32";
    case WeightType::fp8:
      return "fp8";
  }
  return "";
}

class Shape {
 public:
  /// A dimension that this work does not have, 0 or nothing to speak of, is left out.
  Shape& with(const char* dimension, std::uint64_t size, std::uint64_t unless = 0) {
    if (size != unless) shape_[dimension] = static_cast<std::int64_t>(size);
    return *this;
  }
  std::map<std::string, std::int64_t> done() const { return shape_; }

 private:
  std::map<std::string, std::int64_t> shape_;
};

Shape tokens(const Layout& layout) {
  Shape shape;
  shape.with("micro_batch", layout.micro_batch_size).with("sequence", layout.sequence);
  shape.with("tensor", layout.parallelism.tensor, 1);
  if (layout.parallelism.tensor > 1) shape.with("sequence_parallel", layout.parallelism.sequence_parallel);
  shape.with("dropout", layout.numerics.dropout);
  shape.with("unfused_attention", !layout.numerics.fused_attention);
  shape.with("bf16_gradients", layout.numerics.gradients == GradientType::bf16);
  return shape;
}

void add_attention(Shape& shape, const AttentionShape& attention) {
  shape.with("heads", attention.heads).with("key_value_heads", attention.key_value_heads);
  shape.with("head_dim", attention.head_dim);
  if (attention.latent) {
    shape.with("query_rank", attention.latent->query_rank);
    shape.with("key_value_rank", attention.latent->key_value_rank);
    shape.with("rope_dim", attention.latent->rope_dim).with("nope_dim", attention.latent->nope_dim);
    shape.with("value_dim", attention.latent->value_dim);
  }
}

void add_layer(Shape& shape, const ModelShape& model, const Layout& layout, bool experts) {
  shape.with("hidden", model.hidden);
  if (model.architecture == Architecture::transformer) add_attention(shape, model.attention);
  if (!experts) {
    shape.with("ffn", model.ffn);
    return;
  }
  shape.with("experts", model.experts->routed).with("experts_per_token", model.experts->per_token);
  shape.with("expert_ffn", model.experts->ffn).with("shared_ffn", model.experts->shared_ffn);
  shape.with("shared_gate", model.experts->shared_gate);
  shape.with("expert_parallel", layout.parallelism.expert, 1);
}

}  // namespace

bool makes_input_gradient(const ModelShape& model, const Layout& layout, Stage stage) {
  const bool lowest = stage.value == 0 && layout.stages.size() > 1;
  return !(lowest && model.architecture == Architecture::mlp);
}

WorkKey stage_work(const ModelShape& model, const Layout& layout, Stage stage, WorkKind kind) {
  const StageContent& content = layout.stages[stage.value];
  Shape shape = tokens(layout);
  std::uint64_t with_experts = 0;
  for (std::uint64_t k = 0; k < content.layers; ++k)
    with_experts += model.has_experts(content.first_layer + k);
  if (with_experts < content.layers || content.layers == 0) add_layer(shape, model, layout, false);
  if (with_experts > 0) add_layer(shape, model, layout, true);
  shape.with("layers", content.layers).with("expert_layers", with_experts);
  shape.with("multi_token_layers", content.multi_token_layers);
  shape.with("embedding", content.embedding).with("head", content.head);
  shape.with("first", !makes_input_gradient(model, layout, stage));
  if (content.embedding || content.head) shape.with("vocab", model.vocab);
  if (content.head) shape.with("unfused_loss", !layout.numerics.fused_loss);
  const bool whole_backward = kind != WorkKind::forward && kind != WorkKind::optimizer;
  if (whole_backward) shape.with("recompute", static_cast<std::uint64_t>(content.recompute));
  return {"stage", model_words(model), kind, shape.done(), data_type(layout)};
}

WorkKey layer_work(const ModelShape& model, const Layout& layout, std::uint64_t layer, WorkKind kind) {
  Shape shape = tokens(layout);
  add_layer(shape, model, layout, model.has_experts(layer));
  return {"layer", model_words(model), kind, shape.done(), data_type(layout)};
}

WorkKey part_work(const Part& part, const ModelShape& model, const Layout& layout, WorkKind kind) {
  if (part.part_class == PartClass::gemm) {
    Shape shape;
    shape.with("m", part.gemm.m)
        .with("n", part.gemm.n)
        .with("k", part.gemm.k)
        .with("count", part.gemm.count, 1);
    return {"gemm", "", kind, shape.done(), data_type(layout)};
  }
  Shape shape = tokens(layout);
  if (part.part_class == PartClass::attention) {
    add_attention(shape, model.attention);
    return {"attention", "", kind, shape.done(), data_type(layout)};
  }
  add_layer(shape, model, layout, part.expert_parameters > 0);
  if (part.name == "embedding" || part.name == "head" || part.name == "loss")
    shape.with("vocab", model.vocab);
  return {part.name, model_words(model), kind, shape.done(), data_type(layout)};
}

std::string_view class_of(PartClass part, WorkKind kind) {
  if (part == PartClass::gemm) return "gemm";
  if (part != PartClass::attention) return "memory";
  return kind == WorkKind::forward ? "attention" : "attention_backward";
}

}  // namespace plumb
