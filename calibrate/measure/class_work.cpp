#include "calibrate/measure/class_work.hpp"

#include "runtime/layers/activation.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/random.hpp"

#include <algorithm>

namespace plumb::measure {

using layers::DataType;
using layers::Lane;
using layers::Tensor;

ClassWork::ClassWork(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
                     const Lane& lane)
    : type_(layout.numerics.weights == WeightType::fp32 ? DataType::fp32 : DataType::bf16) {
  const std::uint64_t tokens = layout.tokens();
  add_ffn(model, tokens, algorithms, lane);
  if (model.architecture != Architecture::mlp) {
    add_norm(model, tokens, lane);
    add_attention(model, layout, lane);
  }
  const Tensor message = tensor(tokens, model.hidden, lane), received = tensor(tokens, model.hidden, lane);
  work_["send_recv"].emplace_back([=](const Lane& l) {
    device::copy(l.stream(), received.data, message.data, static_cast<std::size_t>(message.bytes().count));
  });
}

// How much of a share a kernel leaves to others in its last wave depends on its shape: a product of 8,192
// columns and an elementwise kernel beside each other take 1.5 % less than one after the other, one of 2,048
// 10 % less (an mlp of hidden 2048 on a quarter of an H200). So no class is one kernel: it is several of its
// kinds, one after the other.
void ClassWork::add_ffn(const ModelShape& model, std::uint64_t tokens, layers::ProductAlgorithms& algorithms,
                        const Lane& lane) {
  using layers::ProductForm;
  const bool mlp = model.architecture == Architecture::mlp;
  const bool gated = !mlp && model.ffn_kind == FfnKind::swiglu;
  const std::uint64_t width = gated ? 2 * model.ffn : model.ffn;
  const Tensor x = tensor(tokens, model.hidden, lane), y = tensor(tokens, model.hidden, lane);
  const Tensor up = tensor(tokens, width, lane), d_up = tensor(tokens, width, lane);
  const Tensor activated = tensor(tokens, model.ffn, lane), d_activated = tensor(tokens, model.ffn, lane);
  const Tensor w_up = tensor(width, model.hidden, lane), w_down = tensor(model.hidden, model.ffn, lane);
  const Tensor dw_up = wide(width, model.hidden);
  const auto product = [&](ProductForm form, std::uint64_t inputs, std::uint64_t outputs, bool adds) {
    products_.push_back(std::make_unique<layers::Product>(
        layers::ProductShape{form, type_, tokens, inputs, outputs, adds, lane.multiprocessors()}, algorithms,
        lane));
    return products_.back().get();
  };
  const auto* const up_forward = product(ProductForm::forward, model.hidden, width, false);
  const auto* const down_forward = product(ProductForm::forward, model.ffn, model.hidden, !mlp);
  const auto* const down_input = product(ProductForm::input_gradient, model.ffn, model.hidden, false);
  const auto* const up_weight = product(ProductForm::weight_gradient, model.hidden, width, true);
  work_["gemm"] = {[=](const Lane& l) { up_forward->run(l, x.data, w_up.data, up.data); },
                   [=](const Lane& l) {
                     down_forward->run(l, activated.data, w_down.data, y.data, mlp ? nullptr : x.data);
                   },
                   [=](const Lane& l) { down_input->run(l, y.data, w_down.data, d_activated.data); },
                   [=](const Lane& l) { up_weight->run(l, d_up.data, x.data, dw_up.data); }};
  work_["memory"] = {
      [=](const Lane& l) { gated ? swiglu_forward(l, up, activated) : gelu_forward(l, up, activated); },
      [=](const Lane& l) {
        gated ? swiglu_backward(l, d_activated, up, d_up) : gelu_backward(l, d_activated, up, d_up);
      }};
}

void ClassWork::add_norm(const ModelShape& model, std::uint64_t tokens, const Lane& lane) {
  const std::uint64_t h = model.hidden;
  const NormKind kind = model.norm;
  const Tensor x = tensor(tokens, h, lane), y = tensor(tokens, h, lane), dx = tensor(tokens, h, lane);
  const layers::NormParameters gain{tensor(1, h, lane), tensor(1, h, lane)};
  const layers::NormParameters gradients{wide(1, h), wide(1, h)};
  const layers::NormStatistics statistics{static_cast<float*>(wide(1, tokens).data),
                                          static_cast<float*>(wide(1, tokens).data)};
  const layers::Scratch sums = scratch(layers::norm_scratch(kind, h, lane.multiprocessors()));
  work_["memory"].emplace_back([=](const Lane& l) { norm_forward(l, kind, x, gain, y, statistics); });
  work_["memory"].emplace_back(
      [=](const Lane& l) { norm_backward(l, sums, kind, y, x, gain, statistics, x, dx, gradients); });
}

void ClassWork::add_attention(const ModelShape& model, const Layout& layout, const Lane& lane) {
  const std::uint64_t tokens = layout.tokens();
  const layers::AttentionSize size{type_,
                                   layout.micro_batch_size,
                                   layout.sequence,
                                   model.attention.heads,
                                   model.attention.key_value_heads,
                                   model.attention.head_dim};
  const Tensor qkv = tensor(tokens, size.width(), lane), d_qkv = tensor(tokens, size.width(), lane);
  const Tensor o = tensor(tokens, size.heads * size.head_dim, lane);
  const Tensor d_o = tensor(tokens, size.heads * size.head_dim, lane);
  auto* const log_sum_exp = static_cast<float*>(wide(tokens, size.heads).data);
  attention_.emplace(size, lane);
  const layers::Scratch sums = scratch(attention_->scratch());
  work_["attention"].emplace_back(
      [=, this](const Lane& l) { attention_->forward(l, sums, qkv, o, log_sum_exp); });
  work_["attention_backward"].emplace_back(
      [=, this](const Lane& l) { attention_->backward(l, sums, d_o, qkv, o, log_sum_exp, d_qkv); });
  launch("attention", lane);  // what backward reads is a forward's
}

Tensor ClassWork::tensor(std::uint64_t rows, std::uint64_t columns, const Lane& lane) {
  Tensor t{nullptr, type_, rows, columns};
  buffers_.emplace_back(t.bytes());
  t.data = buffers_.back().data();
  fill_uniform(lane, t, buffers_.size(), 1);
  return t;
}

Tensor ClassWork::wide(std::uint64_t rows, std::uint64_t columns) {
  Tensor t{nullptr, DataType::fp32, rows, columns};
  buffers_.emplace_back(t.bytes());
  t.data = buffers_.back().data();
  return t;
}

layers::Scratch ClassWork::scratch(Bytes bytes) {
  buffers_.emplace_back(layers::Scratch::rounded(bytes));
  return {buffers_.back().data(), buffers_.back().bytes()};
}

void ClassWork::launch(const std::string& work_class, const Lane& lane) const {
  for (const Launch& piece : work_.at(work_class)) piece(lane);
}

void ClassWork::launch_one(const std::string& work_class, const Lane& lane) const {
  work_.at(work_class).front()(lane);
}

}  // namespace plumb::measure
