// cuDNN's fused attention through its frontend, whose headers take most of a minute to compile: here and
// nowhere else.
#include "runtime/layers/attention.hpp"

#include "runtime/device/check.hpp"
#include "runtime/layers/attention_plain.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include <cudnn_frontend.h>

namespace plumb::layers {
namespace {

namespace fe = cudnn_frontend;

enum Slot : std::int64_t {
  slot_q = 1,
  slot_k,
  slot_v,
  slot_o,
  slot_stats,
  slot_d_o,
  slot_d_q,
  slot_d_k,
  slot_d_v
};

// cuDNN says in words what it will not do; the caller decides whether that is an error.
bool good(const fe::error_t& status) { return status.is_good(); }

[[noreturn]] void fail(const char* what, fe::error_t status) {
  throw DeviceError(what, "runtime/layers/attention.cpp", status.get_message());
}

}  // namespace

struct Attention::Plans {
  fe::graph::Graph forward;
  fe::graph::Graph backward;
  std::int64_t workspace = 0;

  static std::shared_ptr<fe::graph::Tensor_attributes> tensor(fe::graph::Graph& graph, const char* name,
                                                              Slot slot,
                                                              const std::vector<std::int64_t>& size,
                                                              const std::vector<std::int64_t>& stride) {
    return graph.tensor(
        fe::graph::Tensor_attributes().set_name(name).set_uid(slot).set_dim(size).set_stride(stride));
  }

  // Nothing where cuDNN does not take this size.
  static std::unique_ptr<Plans> make(const AttentionSize& size, const Lane& lane) {
    if (size.type != DataType::bf16) return nullptr;
    auto plans = std::make_unique<Plans>();
    const auto b = static_cast<std::int64_t>(size.sequences);
    const auto s = static_cast<std::int64_t>(size.sequence);
    const auto h = static_cast<std::int64_t>(size.heads);
    const auto g = static_cast<std::int64_t>(size.key_value_heads);
    const auto d = static_cast<std::int64_t>(size.head_dim);
    const auto width = static_cast<std::int64_t>(size.width());
    // [sequence of the batch, head, token, element]: a head of a token lies together, a token's heads after
    // another.
    const std::vector<std::int64_t> q_size{b, h, s, d};
    const std::vector<std::int64_t> k_size{b, g, s, d};
    const std::vector<std::int64_t> in_stride{s * width, d, width, 1};
    const std::vector<std::int64_t> out_stride{s * h * d, d, h * d, 1};
    const std::vector<std::int64_t> stats_size{b, h, s, 1};
    const std::vector<std::int64_t> stats_stride{h * s, s, 1, 1};
    const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));

    for (fe::graph::Graph* graph : {&plans->forward, &plans->backward}) {
      graph->set_io_data_type(fe::DataType_t::BFLOAT16)
          .set_intermediate_data_type(fe::DataType_t::FLOAT)
          .set_compute_data_type(fe::DataType_t::FLOAT);
    }
    {
      fe::graph::Graph& graph = plans->forward;
      auto [o, stats] = graph.sdpa(tensor(graph, "q", slot_q, q_size, in_stride),
                                   tensor(graph, "k", slot_k, k_size, in_stride),
                                   tensor(graph, "v", slot_v, k_size, in_stride),
                                   fe::graph::SDPA_attributes()
                                       .set_name("attention")
                                       .set_generate_stats(true)
                                       .set_causal_mask(true)
                                       .set_attn_scale(scale));
      o->set_output(true).set_uid(slot_o).set_dim(q_size).set_stride(out_stride);
      stats->set_output(true).set_uid(slot_stats).set_data_type(fe::DataType_t::FLOAT);
      stats->set_dim(stats_size).set_stride(stats_stride);
    }
    {
      fe::graph::Graph& graph = plans->backward;
      auto stats = tensor(graph, "stats", slot_stats, stats_size, stats_stride);
      stats->set_data_type(fe::DataType_t::FLOAT);
      auto [d_q, d_k, d_v] = graph.sdpa_backward(
          tensor(graph, "q", slot_q, q_size, in_stride), tensor(graph, "k", slot_k, k_size, in_stride),
          tensor(graph, "v", slot_v, k_size, in_stride), tensor(graph, "o", slot_o, q_size, out_stride),
          tensor(graph, "d_o", slot_d_o, q_size, out_stride), stats,
          fe::graph::SDPA_backward_attributes()
              .set_name("attention backward")
              .set_causal_mask(true)
              .set_attn_scale(scale));
      d_q->set_output(true).set_uid(slot_d_q).set_dim(q_size).set_stride(in_stride);
      d_k->set_output(true).set_uid(slot_d_k).set_dim(k_size).set_stride(in_stride);
      d_v->set_output(true).set_uid(slot_d_v).set_dim(k_size).set_stride(in_stride);
    }
    for (fe::graph::Graph* graph : {&plans->forward, &plans->backward}) {
      if (!good(graph->validate()) || !good(graph->build_operation_graph(lane.dnn())) ||
          !good(graph->create_execution_plans({fe::HeurMode_t::A})) ||
          !good(graph->check_support(lane.dnn())) || !good(graph->build_plans(lane.dnn()))) {
        return nullptr;
      }
      std::int64_t bytes = 0;
      if (!good(graph->get_workspace_size(bytes))) return nullptr;
      plans->workspace = std::max(plans->workspace, bytes);
    }
    return plans;
  }
};

Attention::Attention(const AttentionSize& size, const Lane& lane)
    : size_(size), plans_(Plans::make(size, lane)) {
  kernel_ = plans_ ? AttentionKernel::fused : AttentionKernel::plain;
}

Attention::Attention(const AttentionSize& size, AttentionKernel kernel, const Lane& lane)
    : size_(size), kernel_(kernel) {
  if (kernel == AttentionKernel::plain) return;
  plans_ = Plans::make(size, lane);
  if (!plans_) throw DeviceError("cuDNN has no fused attention for these heads");
}

Attention::Attention(Attention&&) noexcept = default;
Attention& Attention::operator=(Attention&&) noexcept = default;
Attention::~Attention() = default;

Bytes Attention::scratch() const {
  // The plain kernels leave a float a row of the queries.
  return {plans_ ? plans_->workspace
                 : static_cast<std::int64_t>(size_.tokens() * size_.heads * sizeof(float))};
}

namespace {
std::byte* at(const Tensor& tensor, std::uint64_t elements) {
  return tensor.as<std::byte>() + elements * bytes_of(tensor.type);
}
}  // namespace

void Attention::forward(const Lane& lane, Scratch scratch, const Tensor& qkv, const Tensor& o,
                        float* log_sum_exp) const {
  if (!plans_) {
    plain_attention_forward(lane, size_, qkv, o, log_sum_exp);
    return;
  }
  std::unordered_map<std::int64_t, void*> places{
      {slot_q, qkv.data},
      {slot_k, at(qkv, size_.heads * size_.head_dim)},
      {slot_v, at(qkv, (size_.heads + size_.key_value_heads) * size_.head_dim)},
      {slot_o, o.data},
      {slot_stats, log_sum_exp}};
  const auto status = plans_->forward.execute(lane.dnn(), places, scratch.take(Bytes{plans_->workspace}));
  if (!good(status)) fail("attention forward", status);
}

void Attention::backward(const Lane& lane, Scratch scratch, const Tensor& d_o, const Tensor& qkv,
                         const Tensor& o, const float* log_sum_exp, const Tensor& d_qkv) const {
  if (!plans_) {
    plain_attention_backward(lane, size_, d_o, qkv, o, log_sum_exp,
                             static_cast<float*>(scratch.take(Attention::scratch())), d_qkv);
    return;
  }
  const std::uint64_t keys = size_.heads * size_.head_dim;
  const std::uint64_t values = (size_.heads + size_.key_value_heads) * size_.head_dim;
  std::unordered_map<std::int64_t, void*> places{
      {slot_q, qkv.data},     {slot_k, at(qkv, keys)},     {slot_v, at(qkv, values)},
      {slot_o, o.data},       {slot_d_o, d_o.data},        {slot_stats, const_cast<float*>(log_sum_exp)},
      {slot_d_q, d_qkv.data}, {slot_d_k, at(d_qkv, keys)}, {slot_d_v, at(d_qkv, values)}};
  const auto status = plans_->backward.execute(lane.dnn(), places, scratch.take(Bytes{plans_->workspace}));
  if (!good(status)) fail("attention backward", status);
}

}  // namespace plumb::layers
