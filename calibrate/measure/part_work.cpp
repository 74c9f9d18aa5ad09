#include "calibrate/measure/part_work.hpp"

#include "runtime/layers/activation.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/random.hpp"

#include <algorithm>
#include <utility>

namespace plumb::measure {

using layers::DataType;
using layers::Lane;
using layers::Tensor;

PartWork::PartWork(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
                   const Lane& lane)
    : tokens_(layout.tokens()),
      type_(layout.numerics.weights == WeightType::fp32 ? DataType::fp32 : DataType::bf16) {
  const std::uint64_t h = model.hidden;
  const bool mlp = model.architecture == Architecture::mlp;
  const bool gated = !mlp && model.ffn_kind == FfnKind::swiglu;
  const std::uint64_t wide = gated ? 2 * model.ffn : model.ffn;
  product_ = mlp ? "linear_1" : gated ? "gate_up" : "up";
  activation_ = gated ? "swiglu" : "gelu";
  linear(product_, h, wide, false, algorithms, lane);
  linear(mlp ? "linear_2" : "down", model.ffn, h, !mlp, algorithms, lane);
  const Tensor up = tensor(wide, lane), d_up = tensor(wide, lane), s = tensor(model.ffn, lane);
  add(activation_, WorkKind::forward,
      [=](const Lane& l) { gated ? swiglu_forward(l, up, s) : gelu_forward(l, up, s); });
  add(activation_, WorkKind::backward_input,
      [=](const Lane& l) { gated ? swiglu_backward(l, s, up, d_up) : gelu_backward(l, s, up, d_up); });
  if (mlp) return;
  add_attention(model, layout, algorithms, lane);
  add_norm(model, lane);
}

void PartWork::add_attention(const ModelShape& model, const Layout& layout,
                             layers::ProductAlgorithms& algorithms, const Lane& lane) {
  const layers::AttentionSize size{type_,
                                   layout.micro_batch_size,
                                   layout.sequence,
                                   model.attention.heads,
                                   model.attention.key_value_heads,
                                   model.attention.head_dim};
  const std::uint64_t heads = size.heads * size.head_dim;
  linear("qkv", model.hidden, size.width(), false, algorithms, lane);
  linear("output", heads, model.hidden, true, algorithms, lane);
  attention_.emplace(size, lane);
  const Tensor qkv = tensor(size.width(), lane), d_qkv = tensor(size.width(), lane);
  const Tensor o = tensor(heads, lane), d_o = tensor(heads, lane);
  float* const log_sum_exp = floats(tokens_ * size.heads);
  const layers::Scratch sums = scratch(attention_->scratch());
  add("attention", WorkKind::forward,
      [=, this](const Lane& l) { attention_->forward(l, sums, qkv, o, log_sum_exp); });
  add("attention", WorkKind::backward_input,
      [=, this](const Lane& l) { attention_->backward(l, sums, d_o, qkv, o, log_sum_exp, d_qkv); });
  attention_->forward(lane, sums, qkv, o, log_sum_exp);  // what backward reads is a forward's
}

void PartWork::add_norm(const ModelShape& model, const Lane& lane) {
  const std::uint64_t h = model.hidden;
  const NormKind kind = model.norm;
  const Tensor x = tensor(h, lane), y = tensor(h, lane), dx = tensor(h, lane);
  const layers::NormParameters gain{filled(1, h, lane), filled(1, h, lane)};
  const layers::NormParameters gradients{place(1, h, DataType::fp32), place(1, h, DataType::fp32)};
  const layers::NormStatistics statistics{floats(tokens_), floats(tokens_)};
  const layers::Scratch sums = scratch(layers::norm_scratch(kind, h, lane.multiprocessors()));
  add("norm_1", WorkKind::forward, [=](const Lane& l) { norm_forward(l, kind, x, gain, y, statistics); });
  add("norm_1", WorkKind::backward_input,
      [=](const Lane& l) { norm_backward(l, sums, kind, y, x, gain, statistics, x, dx, gradients); });
}

const PartPiece* PartWork::find(std::string_view part, WorkKind kind) const {
  if (part == "norm_2" || part == "final_norm") part = "norm_1";
  const auto found = std::find_if(pieces_.begin(), pieces_.end(), [&](const PartPiece& piece) {
    return piece.part == part && piece.kind == kind;
  });
  return found == pieces_.end() ? nullptr : &*found;
}

void PartWork::add(const std::string& part, WorkKind kind, std::function<void(const Lane&)> launch) {
  pieces_.push_back({part, kind, std::move(launch)});
}

void PartWork::linear(const std::string& name, std::uint64_t inputs, std::uint64_t outputs, bool adds,
                      layers::ProductAlgorithms& algorithms, const Lane& lane) {
  using layers::ProductForm;
  const Tensor x = tensor(inputs, lane), y = tensor(outputs, lane), stream = tensor(outputs, lane);
  const Tensor w = filled(outputs, inputs, lane), dw = place(outputs, inputs, DataType::fp32);
  for (const auto& [form, kind] : {std::pair{ProductForm::forward, WorkKind::forward},
                                   std::pair{ProductForm::input_gradient, WorkKind::backward_input},
                                   std::pair{ProductForm::weight_gradient, WorkKind::backward_weight}}) {
    const bool more = form == ProductForm::weight_gradient || (adds && form == ProductForm::forward);
    products_.push_back(std::make_unique<layers::Product>(
        layers::ProductShape{form, type_, tokens_, inputs, outputs, more, lane.multiprocessors()}, algorithms,
        lane));
    const layers::Product* const product = products_.back().get();
    add(name, kind, [=, form = form](const Lane& l) {
      if (form == ProductForm::forward)
        product->run(l, x.data, w.data, y.data, adds ? stream.data : nullptr);
      else if (form == ProductForm::input_gradient)
        product->run(l, y.data, w.data, x.data);
      else
        product->run(l, y.data, x.data, dw.data);
    });
  }
}

Tensor PartWork::place(std::uint64_t rows, std::uint64_t columns, DataType type) {
  Tensor t{nullptr, type, rows, columns};
  buffers_.emplace_back(t.bytes());
  t.data = buffers_.back().data();
  return t;
}

Tensor PartWork::filled(std::uint64_t rows, std::uint64_t columns, const Lane& lane) {
  const Tensor t = place(rows, columns, type_);
  fill_uniform(lane, t, buffers_.size(), 1);
  return t;
}

float* PartWork::floats(std::uint64_t count) {
  return static_cast<float*>(place(1, count, DataType::fp32).data);
}

layers::Scratch PartWork::scratch(Bytes bytes) {
  buffers_.emplace_back(layers::Scratch::rounded(bytes));
  return {buffers_.back().data(), buffers_.back().bytes()};
}

}  // namespace plumb::measure
