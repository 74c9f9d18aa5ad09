#include "runtime/reference/stage.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <string>

namespace plumb::reference {
namespace {

template <class T>
std::span<const T> constant(std::span<T> values) {
  return values;
}

void refuse(bool present, const std::string& what) {
  if (present) throw BadInput("the layout", "has " + what + ", which can be simulated but not run here");
}

}  // namespace

template <class T>
Stage<T>::Stage(const ModelShape& model, const Layout& layout, plumb::Stage stage)
    : model_(model),
      content_(layout.stages.at(stage.value)),
      mlp_(model.architecture == Architecture::mlp),
      sizes_{layout.micro_batch_size, layout.sequence, model.attention.heads, model.attention.key_value_heads,
             model.attention.head_dim},
      tokens_(layout.tokens()),
      parameters_(stage_parameters(model, content_)) {
  refuse(layout.parallelism.tensor > 1 || layout.parallelism.expert > 1, "more than one device a stage");
  refuse(content_.recompute != Recompute::none, "recompute");
  refuse(layout.numerics.dropout, "dropout");
  refuse(!layout.numerics.fused_attention && !mlp_, "unfused attention");
  refuse(!layout.numerics.fused_loss && !mlp_, "an unfused loss");
  refuse(mlp_ && model.ffn_bias, "biases in an mlp");
  content_.embedding = stage.value == 0;  // of an mlp too: the stage that takes the data
  content_.head = stage.value + 1 == layout.stages.size();

  const std::uint64_t hidden = tokens_ * model.hidden;
  if (content_.embedding && !mlp_) {
    table_ = find("embedding.weight");
    positions_ = find("embedding.positions");
    embedding_gradient_ = place(Block::gradients, hidden);
  }
  for (std::uint64_t n = 0; n < content_.layers; ++n) make_layer(content_.first_layer + n);
  if (content_.head && mlp_) {
    mlp_output_ = place(Block::for_input, hidden);
    mlp_target_ = place(Block::for_input, hidden);
  } else if (content_.head) {
    final_norm_ = make_norm("final_norm");
    head_ = make_linear(head_name(model), "", model.hidden, model.vocab);
    log_sum_exp_ = place(Block::for_input, tokens_);
    targets_ = place(Block::for_input, tokens_, sizeof(std::int32_t));
  }
  // Behind everything else, so that a larger T stays aligned.
  if (content_.embedding && !mlp_) token_ids_ = place(Block::for_weight, tokens_, sizeof(std::int32_t));

  stream_ = place(Block::workspace, hidden);
  narrow_ = place(Block::workspace, hidden);
  narrow_2_ = place(Block::workspace, hidden);
  wide_ = place(Block::workspace, tokens_ * std::max(model.ffn, sizes_.heads * sizes_.head_dim));
  if (!mlp_) {
    qkv_ = place(Block::workspace, tokens_ * (sizes_.heads + 2 * sizes_.key_value_heads) * sizes_.head_dim);
  }
}

template <class T>
auto Stage<T>::place(Block block, std::uint64_t count, std::uint64_t bytes_each) -> Tensor {
  std::uint64_t& used = used_[static_cast<std::size_t>(block)];
  const Tensor tensor{block, used, count};
  used += count * bytes_each;
  return tensor;
}

template <class T>
std::uint32_t Stage<T>::find(const std::string& name) const {
  for (std::uint32_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].name == name) return i;
  }
  return none;
}

template <class T>
auto Stage<T>::make_norm(const std::string& name, const NormShape& shape) -> Norm {
  Norm norm;
  norm.shape = shape;
  norm.gain = find(name + ".gain");
  norm.bias = find(name + ".bias");
  norm.x = place(Block::for_input, shape.rows * shape.width);
  if (norm.bias != none) norm.mean = place(Block::for_input, shape.rows);
  norm.rstd = place(Block::for_input, shape.rows);
  return norm;
}

template <class T>
auto Stage<T>::make_linear(const std::string& name, std::uint64_t inputs, std::uint64_t outputs) -> Linear {
  return make_linear(name + ".weight", name + ".bias", inputs, outputs);
}

template <class T>
auto Stage<T>::make_linear(const std::string& weight, const std::string& bias, std::uint64_t inputs,
                           std::uint64_t outputs) -> Linear {
  Linear linear;
  linear.weight = find(weight);
  linear.bias = find(bias);
  PLUMB_CHECK(linear.weight != none);
  linear.shape = {tokens_, inputs, outputs};
  linear.input = place(Block::for_weight, tokens_ * inputs);
  linear.gradient = place(Block::gradients, tokens_ * outputs);
  return linear;
}

template <class T>
void Stage<T>::make_layer(std::uint64_t number) {
  Layer& layer = layers_.emplace_back();
  const std::string name = "layers." + std::to_string(number) + ".";
  const bool gated = !mlp_ && model_.ffn_kind == FfnKind::swiglu;
  const std::uint64_t up_width = gated ? 2 * model_.ffn : model_.ffn;
  if (!mlp_) {
    const std::uint64_t heads = sizes_.heads * sizes_.head_dim;
    const std::uint64_t key_values = sizes_.key_value_heads * sizes_.head_dim;
    layer.norm_1 = make_norm(name + "norm_1");
    layer.qkv = make_linear(name + "qkv", model_.hidden, heads + 2 * key_values);
    if (model_.attention.query_key_norm) {
      layer.q_norm = make_norm(name + "q_norm", {tokens_ * sizes_.heads, sizes_.head_dim});
      layer.k_norm = make_norm(name + "k_norm", {tokens_ * sizes_.key_value_heads, sizes_.head_dim});
    }
    layer.q = place(Block::for_input, tokens_ * heads);
    layer.k = place(Block::for_input, tokens_ * key_values);
    layer.v = place(Block::for_input, tokens_ * key_values);
    layer.log_sum_exp = place(Block::for_input, tokens_ * sizes_.heads);
    layer.output = make_linear(name + "output", heads, model_.hidden);  // its input is attention's o
    layer.norm_2 = make_norm(name + "norm_2");
  }
  layer.up = make_linear(name + (gated ? "gate_up" : "up"), model_.hidden, up_width);
  layer.pre_activation = place(Block::for_input, tokens_ * up_width);
  layer.down = make_linear(name + "down", model_.ffn, model_.hidden);
}

template <class T>
StageNeeds Stage<T>::needs() const {
  const auto bytes = [&](Block block) {
    return Bytes{static_cast<std::int64_t>(used_[static_cast<std::size_t>(block)])};
  };
  return {Bytes{static_cast<std::int64_t>(tokens_ * model_.hidden * sizeof(T))}, bytes(Block::for_input),
          bytes(Block::for_weight), bytes(Block::gradients), bytes(Block::workspace)};
}

template <class T>
std::span<const T> Stage<T>::weight(std::span<const T> weights, std::uint32_t parameter) const {
  if (parameter == none) return {};
  return weights.subspan(parameters_[parameter].offset, parameters_[parameter].elements());
}

template <class T>
std::span<T> Stage<T>::gradient(std::span<T> gradients, std::uint32_t parameter) const {
  if (parameter == none) return {};
  return gradients.subspan(parameters_[parameter].offset, parameters_[parameter].elements());
}

template <class T>
template <class U>
std::span<U> Stage<T>::at(const StageMemoryView& memory, const Tensor& tensor) const {
  std::byte* const base = tensor.block == Block::for_input    ? memory.kept_for_input
                          : tensor.block == Block::for_weight ? memory.kept_for_weight
                          : tensor.block == Block::gradients  ? memory.gradients_kept
                                                              : memory.workspace;
  PLUMB_CHECK(base != nullptr || tensor.count == 0);
  return {reinterpret_cast<U*>(base + tensor.offset), tensor.count};
}

template <class T>
void Stage<T>::forward_norm(std::span<const T> weights, const Norm& norm, std::span<const T> x,
                            std::span<T> y, const StageMemoryView& memory) const {
  std::copy(x.begin(), x.end(), at(memory, norm.x).begin());
  if (norm.bias == none) {
    rms_norm<T>(norm.shape, x, weight(weights, norm.gain), y, at(memory, norm.rstd));
  } else {
    layer_norm<T>(norm.shape, x, weight(weights, norm.gain), weight(weights, norm.bias), y,
                  at(memory, norm.mean), at(memory, norm.rstd));
  }
}

template <class T>
void Stage<T>::backward_norm(std::span<const T> weights, std::span<T> gradients, const Norm& norm,
                             std::span<const T> dy, std::span<T> dx, const StageMemoryView& memory) const {
  const std::span<T> own = at(memory, narrow_2_);
  if (norm.bias == none) {
    rms_norm_backward<T>(norm.shape, dy, at(memory, norm.x), weight(weights, norm.gain),
                         at(memory, norm.rstd), own, gradient(gradients, norm.gain));
  } else {
    layer_norm_backward<T>(norm.shape, dy, at(memory, norm.x), weight(weights, norm.gain),
                           at(memory, norm.mean), at(memory, norm.rstd), own, gradient(gradients, norm.gain),
                           gradient(gradients, norm.bias));
  }
  add<T>(dx, own, dx);
}

template <class T>
void Stage<T>::backward_head_norm(std::span<const T> weights, std::span<T> gradients, const Norm& norm,
                                  std::span<T> d, const StageMemoryView& memory) const {
  if (norm.gain == none) return;
  rms_norm_backward<T>(norm.shape, constant(d), at(memory, norm.x), weight(weights, norm.gain),
                       at(memory, norm.rstd), d, gradient(gradients, norm.gain));
}

template <class T>
void Stage<T>::forward_layer(std::span<const T> weights, const Layer& layer,
                             const StageMemoryView& memory) const {
  const auto run = [&](const Linear& linear, std::span<T> y) {
    reference::linear<T>(linear.shape, at(memory, linear.input), weight(weights, linear.weight),
                         weight(weights, linear.bias), y);
  };
  const std::span<T> stream = at(memory, stream_);
  const std::span<T> narrow = at(memory, narrow_);
  if (mlp_) {
    std::copy(stream.begin(), stream.end(), at(memory, layer.up.input).begin());
    run(layer.up, at(memory, layer.pre_activation));
    gelu<T>(at(memory, layer.pre_activation), at(memory, layer.down.input));
    run(layer.down, stream);
    return;
  }
  forward_norm(weights, layer.norm_1, stream, at(memory, layer.qkv.input), memory);
  const std::span<T> qkv = at(memory, qkv_);
  run(layer.qkv, qkv);
  const std::span<T> q = at(memory, layer.q), k = at(memory, layer.k), v = at(memory, layer.v);
  const std::size_t heads = sizes_.heads * sizes_.head_dim;
  const std::size_t key_values = sizes_.key_value_heads * sizes_.head_dim;
  for (std::size_t t = 0; t < tokens_; ++t) {
    const auto row = qkv.begin() + static_cast<std::ptrdiff_t>(t * (heads + 2 * key_values));
    const auto at_k = row + static_cast<std::ptrdiff_t>(heads);
    const auto at_v = at_k + static_cast<std::ptrdiff_t>(key_values);
    std::copy_n(row, heads, q.begin() + static_cast<std::ptrdiff_t>(t * heads));
    std::copy_n(at_k, key_values, k.begin() + static_cast<std::ptrdiff_t>(t * key_values));
    std::copy_n(at_v, key_values, v.begin() + static_cast<std::ptrdiff_t>(t * key_values));
  }
  if (model_.attention.query_key_norm) {
    forward_norm(weights, layer.q_norm, q, q, memory);
    forward_norm(weights, layer.k_norm, k, k, memory);
  }
  if (model_.position == PositionKind::rotary) {
    rotate<T>(sizes_, sizes_.heads, false, q);
    rotate<T>(sizes_, sizes_.key_value_heads, false, k);
  }
  attention<T>(sizes_, q, k, v, at(memory, layer.output.input), at(memory, layer.log_sum_exp));
  run(layer.output, narrow);
  add<T>(stream, narrow, stream);
  forward_norm(weights, layer.norm_2, stream, at(memory, layer.up.input), memory);
  run(layer.up, at(memory, layer.pre_activation));
  if (model_.ffn_kind == FfnKind::swiglu) {
    swiglu<T>(tokens_, model_.ffn, at(memory, layer.pre_activation), at(memory, layer.down.input));
  } else {
    gelu<T>(at(memory, layer.pre_activation), at(memory, layer.down.input));
  }
  run(layer.down, narrow);
  add<T>(stream, narrow, stream);
}

// The stream holds the gradient of the layer's output, and afterwards that of its input.
template <class T>
void Stage<T>::backward_layer(std::span<const T> weights, std::span<T> gradients, const Layer& layer,
                              const StageMemoryView& memory) const {
  const auto run = [&](const Linear& linear, std::span<T> dx) {
    linear_backward_input<T>(linear.shape, at(memory, linear.gradient), weight(weights, linear.weight), dx);
  };
  const std::span<T> stream = at(memory, stream_);
  const std::span<T> narrow = at(memory, narrow_);
  const std::span<T> inner = at(memory, wide_).first(tokens_ * model_.ffn);
  std::copy(stream.begin(), stream.end(), at(memory, layer.down.gradient).begin());
  run(layer.down, inner);
  if (!mlp_ && model_.ffn_kind == FfnKind::swiglu) {
    swiglu_backward<T>(tokens_, model_.ffn, inner, at(memory, layer.pre_activation),
                       at(memory, layer.up.gradient));
  } else {
    gelu_backward<T>(inner, at(memory, layer.pre_activation), at(memory, layer.up.gradient));
  }
  if (mlp_) return run(layer.up, stream);
  run(layer.up, narrow);
  backward_norm(weights, gradients, layer.norm_2, narrow, stream, memory);

  std::copy(stream.begin(), stream.end(), at(memory, layer.output.gradient).begin());
  const std::span<T> q = at(memory, layer.q), k = at(memory, layer.k), v = at(memory, layer.v);
  const std::span<T> d_o = at(memory, wide_).first(q.size());
  run(layer.output, d_o);
  const std::span<T> qkv = at(memory, qkv_);
  const std::span<T> dq = qkv.first(q.size());
  const std::span<T> dk = qkv.subspan(q.size(), k.size());
  const std::span<T> dv = qkv.subspan(q.size() + k.size(), v.size());
  attention_backward<T>(sizes_, q, k, v, at(memory, layer.output.input), at(memory, layer.log_sum_exp), d_o,
                        dq, dk, dv);
  if (model_.position == PositionKind::rotary) {
    rotate<T>(sizes_, sizes_.heads, true, dq);
    rotate<T>(sizes_, sizes_.key_value_heads, true, dk);
  }
  backward_head_norm(weights, gradients, layer.q_norm, dq, memory);
  backward_head_norm(weights, gradients, layer.k_norm, dk, memory);
  const std::span<T> d_qkv = at(memory, layer.qkv.gradient);
  const std::size_t heads = sizes_.heads * sizes_.head_dim;
  const std::size_t key_values = sizes_.key_value_heads * sizes_.head_dim;
  for (std::size_t t = 0; t < tokens_; ++t) {
    const auto row = d_qkv.begin() + static_cast<std::ptrdiff_t>(t * (heads + 2 * key_values));
    const auto at_k = row + static_cast<std::ptrdiff_t>(heads);
    const auto at_v = at_k + static_cast<std::ptrdiff_t>(key_values);
    std::copy_n(dq.begin() + static_cast<std::ptrdiff_t>(t * heads), heads, row);
    std::copy_n(dk.begin() + static_cast<std::ptrdiff_t>(t * key_values), key_values, at_k);
    std::copy_n(dv.begin() + static_cast<std::ptrdiff_t>(t * key_values), key_values, at_v);
  }
  run(layer.qkv, narrow);
  backward_norm(weights, gradients, layer.norm_1, narrow, stream, memory);
}

template <class T>
double Stage<T>::forward(std::span<const T> weights, const StageData<T>& data,
                         const StageMemoryView& memory) const {
  const std::span<T> stream = at(memory, stream_);
  const std::size_t hidden = stream.size();
  if (content_.embedding && !mlp_) {
    PLUMB_CHECK(data.tokens.size() == tokens_);
    std::copy(data.tokens.begin(), data.tokens.end(), at<std::int32_t>(memory, token_ids_).begin());
    embed<T>(data.tokens, sizes_.length, model_.hidden, weight(weights, table_), weight(weights, positions_),
             stream);
  } else if (content_.embedding) {
    PLUMB_CHECK(data.input.size() == hidden);
    std::copy(data.input.begin(), data.input.end(), stream.begin());
  } else {
    std::copy_n(reinterpret_cast<const T*>(memory.input), hidden, stream.begin());
  }
  for (const Layer& layer : layers_) forward_layer(weights, layer, memory);
  if (!content_.head) {
    std::copy(stream.begin(), stream.end(), reinterpret_cast<T*>(memory.output));
    return 0;
  }
  if (mlp_) {
    PLUMB_CHECK(data.target.size() == hidden);
    std::copy(stream.begin(), stream.end(), at(memory, mlp_output_).begin());
    std::copy(data.target.begin(), data.target.end(), at(memory, mlp_target_).begin());
    return squared_error<T>(stream, data.target);
  }
  PLUMB_CHECK(data.targets.size() == tokens_);
  std::copy(data.targets.begin(), data.targets.end(), at<std::int32_t>(memory, targets_).begin());
  forward_norm(weights, final_norm_, stream, at(memory, head_.input), memory);
  return cross_entropy<T>(head_.shape, at(memory, head_.input), weight(weights, head_.weight), data.targets,
                          at(memory, log_sum_exp_));
}

template <class T>
void Stage<T>::backward_input(std::span<const T> weights, std::span<T> gradients, T loss_scale,
                              const StageMemoryView& memory) const {
  const std::span<T> stream = at(memory, stream_);
  if (!content_.head) {
    std::copy_n(reinterpret_cast<const T*>(memory.input), stream.size(), stream.begin());
  } else if (mlp_) {
    squared_error_backward<T>(at(memory, mlp_output_), at(memory, mlp_target_), loss_scale, stream);
  } else {
    const std::span<T> narrow = at(memory, narrow_);
    cross_entropy_backward_input<T>(head_.shape, at(memory, head_.input), weight(weights, head_.weight),
                                    at<std::int32_t>(memory, targets_), at(memory, log_sum_exp_), loss_scale,
                                    at(memory, head_.gradient), narrow);
    std::fill(stream.begin(), stream.end(), T{0});
    backward_norm(weights, gradients, final_norm_, narrow, stream, memory);
  }
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
    backward_layer(weights, gradients, *layer, memory);
  }
  if (content_.embedding && !mlp_) {
    std::copy(stream.begin(), stream.end(), at(memory, embedding_gradient_).begin());
  } else if (!content_.embedding) {
    std::copy(stream.begin(), stream.end(), reinterpret_cast<T*>(memory.output));
  }
}

template <class T>
void Stage<T>::backward_weight_of(std::span<T> gradients, const Linear& linear,
                                  const StageMemoryView& memory) const {
  if (linear.weight == none) return;
  linear_backward_weight<T>(linear.shape, at(memory, linear.gradient), at(memory, linear.input),
                            gradient(gradients, linear.weight), gradient(gradients, linear.bias));
}

template <class T>
void Stage<T>::backward_weight(std::span<T> gradients, const StageMemoryView& memory) const {
  if (content_.head && !mlp_) backward_weight_of(gradients, head_, memory);
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
    for (const Linear* linear : {&layer->down, &layer->up, &layer->output, &layer->qkv}) {
      backward_weight_of(gradients, *linear, memory);
    }
  }
  if (content_.embedding && !mlp_) {
    embed_backward_weight<T>(at<std::int32_t>(memory, token_ids_), sizes_.length, model_.hidden,
                             at(memory, embedding_gradient_), gradient(gradients, table_),
                             gradient(gradients, positions_));
  }
}

template class Stage<float>;
template class Stage<double>;

}  // namespace plumb::reference
