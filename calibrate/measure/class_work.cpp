#include "calibrate/measure/class_work.hpp"

#include "runtime/layers/activation.hpp"
#include "runtime/layers/random.hpp"
#include "schedules/ir/error.hpp"

#include <vector>

namespace plumb::measure {

using layers::DataType;
using layers::Tensor;

ClassWork::ClassWork(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
                     const layers::Lane& lane)
    : type_(layout.numerics.weights == WeightType::fp32 ? DataType::fp32 : DataType::bf16),
      gated_(model.architecture != Architecture::mlp && model.ffn_kind == FfnKind::swiglu) {
  const std::uint64_t tokens = layout.tokens();
  const std::uint64_t width = gated_ ? 2 * model.ffn : model.ffn;
  x_ = tensor(tokens, model.hidden, lane);
  w_ = tensor(width, model.hidden, lane);
  up_ = tensor(tokens, width, lane);
  activated_ = tensor(tokens, model.ffn, lane);
  message_ = tensor(tokens, model.hidden, lane);
  received_ = tensor(tokens, model.hidden, lane);
  product_.emplace(layers::ProductShape{layers::ProductForm::forward, type_, tokens, model.hidden, width,
                                        false, lane.multiprocessors()},
                   algorithms, lane);
  if (model.architecture == Architecture::mlp) return;
  const layers::AttentionSize size{type_,
                                   layout.micro_batch_size,
                                   layout.sequence,
                                   model.attention.heads,
                                   model.attention.key_value_heads,
                                   model.attention.head_dim};
  qkv_ = tensor(tokens, size.width(), lane);
  d_qkv_ = tensor(tokens, size.width(), lane);
  o_ = tensor(tokens, size.heads * size.head_dim, lane);
  d_o_ = tensor(tokens, size.heads * size.head_dim, lane);
  buffers_.emplace_back(Bytes{static_cast<std::int64_t>(4 * tokens * size.heads)});
  log_sum_exp_ = buffers_.back().as<float>();
  attention_.emplace(size, lane);
  scratch_ = device::Buffer(layers::Scratch::rounded(attention_->scratch()));
  // What backward reads is a forward's.
  launch("attention", lane);
}

Tensor ClassWork::tensor(std::uint64_t rows, std::uint64_t columns, const layers::Lane& lane) {
  Tensor t{nullptr, type_, rows, columns};
  buffers_.emplace_back(t.bytes());
  t.data = buffers_.back().data();
  fill_uniform(lane, t, buffers_.size(), 1);
  return t;
}

bool ClassWork::has(const std::string& work_class) const {
  return work_class == "gemm" || work_class == "memory" || work_class == "send_recv" ||
         ((work_class == "attention" || work_class == "attention_backward") && attention_.has_value());
}

void ClassWork::launch(const std::string& work_class, const layers::Lane& lane) const {
  PLUMB_CHECK(has(work_class));
  if (work_class == "gemm") {
    product_->run(lane, x_.data, w_.data, up_.data);
  } else if (work_class == "memory") {
    gated_ ? swiglu_forward(lane, up_, activated_) : gelu_forward(lane, up_, activated_);
  } else if (work_class == "attention") {
    attention_->forward(lane, layers::Scratch(scratch_.data(), scratch_.bytes()), qkv_, o_, log_sum_exp_);
  } else if (work_class == "attention_backward") {
    attention_->backward(lane, layers::Scratch(scratch_.data(), scratch_.bytes()), d_o_, qkv_, o_,
                         log_sum_exp_, d_qkv_);
  } else {
    device::copy(lane.stream(), received_.data, message_.data,
                 static_cast<std::size_t>(message_.bytes().count));
  }
}

}  // namespace plumb::measure
