#include "runtime/layers/stage_kept.hpp"

#include <cstdint>

namespace plumb::layers {
namespace {

/// Hands out one tensor behind another; from nothing, it measures.
class Cursor {
 public:
  explicit Cursor(const void* block = nullptr)
      : begin_(reinterpret_cast<std::uintptr_t>(block)), at_(begin_) {}
  void* take(Bytes bytes) {
    void* place = reinterpret_cast<void*>(at_);
    at_ += static_cast<std::uintptr_t>((bytes.count + 15) / 16 * 16);
    return place;
  }
  Tensor take(DataType type, std::uint64_t rows, std::uint64_t columns) {
    Tensor tensor{nullptr, type, rows, columns};
    tensor.data = take(tensor.bytes());
    return tensor;
  }
  float* floats(std::uint64_t count) {
    return static_cast<float*>(take(Bytes{static_cast<std::int64_t>(4 * count)}));
  }
  std::int32_t* ids(std::uint64_t count) {
    return static_cast<std::int32_t*>(take(Bytes{static_cast<std::int64_t>(4 * count)}));
  }
  void skip(Bytes bytes) { at_ += static_cast<std::uintptr_t>(bytes.count); }
  Bytes taken() const { return {static_cast<std::int64_t>(at_ - begin_)}; }

 private:
  std::uintptr_t begin_;
  std::uintptr_t at_;
};

NormStatistics statistics_in(Cursor& cursor, const StageShape& s) {
  NormStatistics norm;
  if (s.model.norm == NormKind::layer_norm) norm.mean = cursor.floats(s.tokens);
  norm.rstd = cursor.floats(s.tokens);
  return norm;
}

LayerKept layer_in(Cursor& for_input, Cursor& for_weight, const StageShape& s) {
  LayerKept k;
  const std::uint64_t h = s.model.hidden;
  if (!s.is_mlp()) {
    k.x_1 = for_input.take(s.type, s.tokens, h);
    k.norm_1 = statistics_in(for_input, s);
  }
  k.normed_1 = for_weight.take(s.type, s.tokens, h);
  if (!s.is_mlp()) {
    k.qkv = for_input.take(s.type, s.tokens, s.attention_size.width());
    if (s.norms_heads()) {
      const std::uint64_t heads = s.attention_size.heads + s.attention_size.key_value_heads;
      k.heads.x = for_input.take(s.type, s.tokens, heads * s.attention_size.head_dim);
      k.heads.rstd = for_input.floats(s.tokens * heads);
    }
    k.o = for_weight.take(s.type, s.tokens, s.attention_size.heads * s.attention_size.head_dim);
    k.log_sum_exp = for_input.floats(s.tokens * s.attention_size.heads);
    k.x_2 = for_input.take(s.type, s.tokens, h);
    k.norm_2 = statistics_in(for_input, s);
    k.normed_2 = for_weight.take(s.type, s.tokens, h);
  }
  k.gate_and_up = for_input.take(s.type, s.tokens, s.up_width());
  k.activated = for_weight.take(s.type, s.tokens, s.model.ffn);
  return k;
}

LayerGradients gradients_in(Cursor& cursor, const StageShape& s) {
  LayerGradients g;
  if (!s.is_mlp()) {
    g.qkv = cursor.take(s.type, s.tokens, s.attention_size.width());
    g.x_2 = cursor.take(s.type, s.tokens, s.model.hidden);
  }
  g.gate_and_up = cursor.take(s.type, s.tokens, s.up_width());
  g.output = cursor.take(s.type, s.tokens, s.model.hidden);
  return g;
}

HeadKept head_in(Cursor& for_input, Cursor& for_weight, const StageShape& s) {
  HeadKept k;
  k.x = for_input.take(s.type, s.tokens, s.model.hidden);
  if (s.is_mlp()) {
    k.target = for_input.take(s.type, s.tokens, s.model.hidden);
    return k;
  }
  k.norm = statistics_in(for_input, s);
  k.normed = for_weight.take(s.type, s.tokens, s.model.hidden);
  k.targets = for_input.ids(s.tokens);
  k.log_sum_exp = for_input.floats(s.tokens);
  return k;
}

Bytes times(Bytes bytes, std::uint64_t count) { return bytes * static_cast<std::int64_t>(count); }

}  // namespace

StageKept::StageKept(const StageShape& shape) : shape_(shape) {
  Cursor for_input, for_weight, gradients;
  layer_in(for_input, for_weight, shape_);
  gradients_in(gradients, shape_);
  layer_for_input_ = for_input.taken();
  layer_for_weight_ = for_weight.taken();
  layer_gradients_ = gradients.taken();
  if (!shape_.looks_up()) return;
  Cursor ids;
  ids.ids(shape_.tokens);
  embedding_for_weight_ = ids.taken();
  embedding_gradients_ = shape_.hidden(nullptr).bytes();
}

Bytes StageKept::for_input() const {
  Cursor head, unused;
  if (shape_.content.head) head_in(head, unused, shape_);
  return times(layer_for_input_, shape_.content.layers) + head.taken();
}
Bytes StageKept::for_weight() const {
  Cursor unused, head;
  if (shape_.content.head) head_in(unused, head, shape_);
  return embedding_for_weight_ + times(layer_for_weight_, shape_.content.layers) + head.taken();
}
Bytes StageKept::gradients() const {
  Bytes head;
  if (shape_.content.head && !shape_.is_mlp()) head = shape_.logits_at(nullptr).bytes();
  return embedding_gradients_ + times(layer_gradients_, shape_.content.layers) + head;
}

LayerKept StageKept::layer(std::uint64_t layer, const void* for_input, const void* for_weight) const {
  Cursor input(for_input), weight(for_weight);
  input.skip(times(layer_for_input_, layer));
  weight.skip(embedding_for_weight_ + times(layer_for_weight_, layer));
  return layer_in(input, weight, shape_);
}
LayerGradients StageKept::layer_gradients(std::uint64_t layer, const void* gradients) const {
  Cursor cursor(gradients);
  cursor.skip(embedding_gradients_ + times(layer_gradients_, layer));
  return gradients_in(cursor, shape_);
}
HeadKept StageKept::head(const void* for_input, const void* for_weight) const {
  Cursor input(for_input), weight(for_weight);
  input.skip(times(layer_for_input_, shape_.content.layers));
  weight.skip(embedding_for_weight_ + times(layer_for_weight_, shape_.content.layers));
  return head_in(input, weight, shape_);
}
Tensor StageKept::logit_gradients(const void* gradients) const {
  Cursor cursor(gradients);
  cursor.skip(embedding_gradients_ + times(layer_gradients_, shape_.content.layers));
  return cursor.take(shape_.type, shape_.tokens, shape_.model.vocab);
}

}  // namespace plumb::layers
