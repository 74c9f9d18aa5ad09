#include "runtime/layers/model_stage.hpp"

#include "runtime/device/buffer.hpp"
#include "runtime/layers/activation.hpp"
#include "runtime/layers/bias.hpp"
#include "runtime/layers/embedding.hpp"
#include "runtime/layers/head_norm.hpp"
#include "runtime/layers/loss.hpp"
#include "runtime/layers/rope.hpp"
#include "runtime/layers/stage_kept.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace plumb::layers {
namespace {

constexpr float rope_base = 10000.0F;

/// The three products of a linear.
struct Linear {
  Product forward;
  Product input_gradient;
  Product weight_gradient;
  Linear(std::uint64_t tokens, std::uint64_t inputs, std::uint64_t outputs, DataType type, bool adds,
         bool bias, ProductAlgorithms& algorithms, const Lane& lane)
      : forward({ProductForm::forward, type, tokens, inputs, outputs, adds, lane.multiprocessors(), bias},
                algorithms, lane),
        input_gradient(
            {ProductForm::input_gradient, type, tokens, inputs, outputs, false, lane.multiprocessors()},
            algorithms, lane),
        weight_gradient(
            {ProductForm::weight_gradient, type, tokens, inputs, outputs, true, lane.multiprocessors()},
            algorithms, lane) {}
};

struct LayerParameters {
  NormParameters norm_1, norm_2, norm_1_gradients, norm_2_gradients;
  Parameter qkv, output, up, down;
  HeadNormParameters heads, heads_gradients;            // with norms of queries and keys
  Parameter qkv_bias, output_bias, up_bias, down_bias;  // empty where the model has none
};

StageShape shape_of(const ModelShape& model, const Layout& layout, plumb::Stage stage) {
  const DataType type = layout.numerics.weights == WeightType::fp32 ? DataType::fp32 : DataType::bf16;
  return {model,
          layout.stages.at(stage.value),
          type,
          {type, layout.micro_batch_size, layout.sequence, model.attention.heads,
           model.attention.key_value_heads, model.attention.head_dim},
          layout.tokens()};
}

void refuse(bool unsupported, const char* what) {
  if (unsupported) throw BadInput(what, "the runtime does not compute this");
}

}  // namespace

struct ModelStage::Implementation : StageShape {
  std::uint32_t multiprocessors = 0;

  std::vector<LayerParameters> layers;
  Parameter embedding, positions, head;
  NormParameters final_norm, final_norm_gradients;

  std::optional<Linear> qkv, output, up, down, logits;
  std::optional<Attention> attention;
  device::Buffer rope_table;

  StageKept kept;
  StageNeeds needs;

  bool rotary() const { return model.position == PositionKind::rotary; }
  const char* activation_name() const { return gated() ? "swiglu" : "gelu"; }
  const char* up_name() const { return is_mlp() ? "linear_1" : gated() ? "gate_up" : "up"; }
  const char* down_name() const { return is_mlp() ? "linear_2" : "down"; }
  std::uint64_t sequence() const { return attention_size.sequence; }
  Bytes hidden_bytes() const { return hidden(nullptr).bytes(); }

  Implementation(const ModelShape& shape, const Layout& layout, plumb::Stage stage,
                 std::span<const Parameter> parameters, ProductAlgorithms& algorithms, const Lane& lane)
      : StageShape(shape_of(shape, layout, stage)), multiprocessors(lane.multiprocessors()), kept(*this) {
    refuse(shape.experts.has_value(), "a mixture of experts");
    refuse(shape.attention.latent.has_value(), "multi-head latent attention");
    refuse(is_mlp() && shape.ffn_bias, "a bias of an mlp");
    refuse(content.multi_token_layers > 0, "an MTP module");
    refuse(content.recompute != Recompute::none, "recompute");
    refuse(layout.parallelism.tensor > 1, "a tensor-parallel group");
    refuse(layout.numerics.weights == WeightType::fp8, "fp8");
    refuse(layout.numerics.gradients != GradientType::fp32, "gradients in other than float32");
    refuse(layout.numerics.dropout, "dropout");
    refuse(content.layers == 0, "a stage without a layer");
    bind(parameters);
    plan(algorithms, lane);
    measure();
  }

  void bind(std::span<const Parameter> parameters) {
    std::map<std::string, const Parameter*> by_name;
    for (const Parameter& parameter : parameters) by_name[parameter.name] = &parameter;
    const auto find = [&](const std::string& name, std::uint64_t rows, std::uint64_t columns) {
      const auto at = by_name.find(name);
      if (at == by_name.end()) throw BadInput(name, "this parameter of the stage was not given");
      const Parameter& p = *at->second;
      PLUMB_CHECK(p.weights.rows == rows && p.weights.columns == columns && p.weights.type == type);
      PLUMB_CHECK(p.gradients.elements() == p.weights.elements() && p.gradients.type == DataType::fp32);
      return p;
    };
    const auto norm = [&](const std::string& name, NormParameters& weights, NormParameters& gradients) {
      const Parameter gain = find(name + ".gain", 1, model.hidden);
      weights.gain = gain.weights;
      gradients.gain = gain.gradients;
      if (model.norm == NormKind::layer_norm) {
        const Parameter bias = find(name + ".bias", 1, model.hidden);
        weights.bias = bias.weights;
        gradients.bias = bias.gradients;
      }
    };
    const std::uint64_t h = model.hidden;
    if (looks_up()) {
      embedding = find("embedding.weight", model.vocab, h);
      if (model.position == PositionKind::learned)
        positions = find("embedding.positions", model.learned_positions, h);
    }
    for (std::uint64_t l = content.first_layer; l < content.first_layer + content.layers; ++l) {
      const std::string prefix = "layers." + std::to_string(l) + ".";
      LayerParameters& layer = layers.emplace_back();
      layer.up = find(prefix + (gated() ? "gate_up.weight" : "up.weight"), up_width(), h);
      layer.down = find(prefix + "down.weight", h, model.ffn);
      if (is_mlp()) continue;
      norm(prefix + "norm_1", layer.norm_1, layer.norm_1_gradients);
      norm(prefix + "norm_2", layer.norm_2, layer.norm_2_gradients);
      layer.qkv = find(prefix + "qkv.weight", attention_size.width(), h);
      layer.output = find(prefix + "output.weight", h, attention_size.heads * attention_size.head_dim);
      if (norms_heads()) {
        const Parameter q = find(prefix + "q_norm.gain", 1, model.attention.head_dim);
        const Parameter k = find(prefix + "k_norm.gain", 1, model.attention.head_dim);
        layer.heads = {q.weights, k.weights};
        layer.heads_gradients = {q.gradients, k.gradients};
      }
      if (model.attention.qkv_bias) layer.qkv_bias = find(prefix + "qkv.bias", 1, attention_size.width());
      if (model.attention.output_bias) layer.output_bias = find(prefix + "output.bias", 1, h);
      if (model.ffn_bias) {
        layer.up_bias = find(prefix + (gated() ? "gate_up.bias" : "up.bias"), 1, up_width());
        layer.down_bias = find(prefix + "down.bias", 1, h);
      }
    }
    if (content.head && !is_mlp()) {
      norm("final_norm", final_norm, final_norm_gradients);
      head = find(head_name(model), model.vocab, h);
    }
  }

  void plan(ProductAlgorithms& algorithms, const Lane& lane) {
    choose_products(algorithms, lane);
    if (is_mlp()) return;
    attention.emplace(attention_size, lane);
    if (rotary()) {
      rope_table = device::Buffer(rope_table_bytes(attention_size));
      make_rope_table(lane, attention_size, rope_base, rope_table.as<float>());
    }
    lane.stream().synchronize();
  }

  void choose_products(ProductAlgorithms& algorithms, const Lane& lane) {
    const std::uint64_t h = model.hidden;
    const auto linear = [&](std::uint64_t inputs, std::uint64_t outputs, bool adds, bool bias) {
      return Linear(tokens, inputs, outputs, type, adds, bias, algorithms, lane);
    };
    // The products that close a residual branch add the stream themselves.
    up.emplace(linear(h, up_width(), false, model.ffn_bias));
    down.emplace(linear(model.ffn, h, !is_mlp(), model.ffn_bias));
    if (is_mlp()) return;
    qkv.emplace(linear(h, attention_size.width(), false, model.attention.qkv_bias));
    output.emplace(
        linear(attention_size.heads * attention_size.head_dim, h, true, model.attention.output_bias));
    if (content.head) logits.emplace(linear(h, model.vocab, false, false));
  }

  LayerKept layer_kept(std::uint64_t layer, const StageBuffers& b) const {
    return kept.layer(layer, b.kept_for_input, b.kept_for_weight);
  }
  HeadKept head_kept(const StageBuffers& b) const { return kept.head(b.kept_for_input, b.kept_for_weight); }
  LayerGradients gradients_of(std::uint64_t layer, const StageBuffers& b) const {
    return kept.layer_gradients(layer, b.gradients_kept);
  }
  Tensor logit_gradients(const StageBuffers& b) const { return kept.logit_gradients(b.gradients_kept); }

  void measure() {
    needs.kept_for_input = kept.for_input();
    needs.kept_for_weight = kept.for_weight();
    needs.gradients_kept = kept.gradients();
    needs.input = looks_up() ? Bytes{static_cast<std::int64_t>(4 * tokens)} : hidden_bytes();
    if (!content.head) needs.output = hidden_bytes();

    const auto sum = [](std::initializer_list<Bytes> parts) {
      Bytes all;
      for (const Bytes part : parts) all += Scratch::rounded(part);
      return all;
    };
    const Bytes logit_bytes = is_mlp() ? Bytes{} : logits_at(nullptr).bytes();
    const Bytes losses{static_cast<std::int64_t>(4 * tokens)};
    const Bytes sums = norm_scratch(model.norm, model.hidden, multiprocessors);
    const Bytes attended = is_mlp() ? Bytes{} : Scratch::rounded(attention->scratch());
    if (attention) needs.forward_scratch = attended;
    if (content.head) {
      needs.forward_scratch = std::max(needs.forward_scratch, is_mlp() ? sum({loss_scratch(multiprocessors)})
                                                                       : sum({logit_bytes, losses}));
    }
    Bytes inside;  // of a layer's backward_input
    if (!is_mlp()) {
      const Bytes heads{static_cast<std::int64_t>(tokens * attention_size.heads * attention_size.head_dim *
                                                  bytes_of(type))};
      const Bytes activated{static_cast<std::int64_t>(tokens * model.ffn * bytes_of(type))};
      const Bytes normed = norms_heads() ? head_norm_scratch(attention_size, multiprocessors) : Bytes{};
      inside = std::max({sum({normed}), gated() ? sum({activated}) : Bytes{}, sum({hidden_bytes(), sums}),
                         sum({heads, attended})});
    }
    needs.backward_input_scratch = inside;
    Bytes between = sum({hidden_bytes(), hidden_bytes()});  // a layer's output gradient and its input's
    Bytes own = sum({Tensor{nullptr, type, tokens, up_width()}.bytes()});
    if (!is_mlp())
      own += sum({hidden_bytes(), Tensor{nullptr, type, tokens, attention_size.width()}.bytes()});
    needs.backward_scratch = between + own + inside;
    if (content.head && !is_mlp()) {
      needs.backward_scratch =
          std::max(needs.backward_scratch, between + sum({logit_bytes, hidden_bytes(), sums}));
    }
  }

  static void copy(const Lane& lane, void* to, const void* from, Bytes bytes) {
    device::copy(lane.stream(), to, from, static_cast<std::size_t>(bytes.count));
  }

  // ---- forward ----

  // x_1 is in place already, or `received` is put there on the way.
  void forward_attention(const Lane& lane, Scratch scratch, const LayerParameters& p, const LayerKept& k,
                         const void* received) const {
    norm_forward(lane, model.norm, received ? hidden(received) : k.x_1, p.norm_1, k.normed_1, k.norm_1,
                 received ? k.x_1 : Tensor{});
    lane.part("norm_1");
    qkv->forward.run(lane, k.normed_1.data, p.qkv.weights.data, k.qkv.data, nullptr, p.qkv_bias.weights.data);
    lane.part("qkv");
    if (norms_heads()) {
      head_norm_forward(lane, attention_size, p.heads, k.qkv, k.heads);
      lane.part("qk_norm");
    }
    if (rotary()) {
      rope_forward(lane, attention_size, rope_table.as<float>(), k.qkv);
      lane.part("rope");
    }
    attention->forward(lane, scratch, k.qkv, k.o, k.log_sum_exp);
    lane.part("attention");
    // The product adds the stream itself: no part is left for residual_1, nor below for residual_2.
    output->forward.run(lane, k.o.data, p.output.weights.data, k.x_2.data, k.x_1.data,
                        p.output_bias.weights.data);
    lane.part("output");
  }
  void forward_ffn(const Lane& lane, const LayerParameters& p, const LayerKept& k, void* out) const {
    norm_forward(lane, model.norm, k.x_2, p.norm_2, k.normed_2, k.norm_2);
    lane.part("norm_2");
    up->forward.run(lane, k.normed_2.data, p.up.weights.data, k.gate_and_up.data, nullptr,
                    p.up_bias.weights.data);
    lane.part(up_name());
    activate(lane, k);
    down->forward.run(lane, k.activated.data, p.down.weights.data, out, k.x_2.data, p.down_bias.weights.data);
    lane.part(down_name());
  }
  void activate(const Lane& lane, const LayerKept& k) const {
    gated() ? swiglu_forward(lane, k.gate_and_up, k.activated)
            : gelu_forward(lane, k.gate_and_up, k.activated);
    lane.part(activation_name());
  }

  Launching forward(const Lane& lane, StageBuffers b, StageTarget target) const {
    const std::uint64_t n = content.layers;
    const void* received = b.input;
    if (looks_up()) {
      const auto* ids = static_cast<const std::int32_t*>(b.input);
      copy(lane, b.kept_for_weight, ids, needs.input);
      embedding_forward(lane, ids, embedding.weights, positions.weights, sequence(), layer_kept(0, b).x_1);
      lane.part("embedding");
      received = nullptr;
    }
    for (std::uint64_t l = 0; l < n; ++l) {
      const LayerKept k = layer_kept(l, b);
      // The layer's output is written to where the next one keeps its input.
      void* out = b.output;
      if (l + 1 < n) {
        const LayerKept next = layer_kept(l + 1, b);
        out = is_mlp() ? next.normed_1.data : next.x_1.data;
      } else if (content.head) {
        out = head_kept(b).x.data;
      }
      if (is_mlp()) {
        if (l == 0) copy(lane, k.normed_1.data, b.input, hidden_bytes());
        if (l == 0) lane.part("message");
        up->forward.run(lane, k.normed_1.data, layers[l].up.weights.data, k.gate_and_up.data);
        lane.part(up_name());
        co_await Launching::pause;
        activate(lane, k);
        down->forward.run(lane, k.activated.data, layers[l].down.weights.data, out);
        lane.part(down_name());
      } else {
        forward_attention(lane, b.scratch, layers[l], k, l == 0 ? received : nullptr);
        co_await Launching::pause;
        forward_ffn(lane, layers[l], k, out);
      }
      co_await Launching::pause;
    }
    if (content.head) forward_head(lane, b.scratch, head_kept(b), target);
  }

  float loss_share() const {
    return static_cast<float>(1.0 / static_cast<double>(is_mlp() ? tokens * model.hidden : tokens));
  }

  void forward_head(const Lane& lane, Scratch scratch, const HeadKept& k, const StageTarget& target) const {
    if (is_mlp()) {
      if (target.loss) {
        mean_square_forward(lane, scratch, k.x, hidden(target.target), loss_share(), target.loss, k.target);
      } else {
        copy(lane, k.target.data, target.target, hidden_bytes());
      }
      lane.part("loss");
      return;
    }
    copy(lane, k.targets, target.target, Bytes{static_cast<std::int64_t>(4 * tokens)});
    norm_forward(lane, model.norm, k.x, final_norm, k.normed, k.norm);
    lane.part("final_norm");
    const Tensor scores = scratch.take(type, tokens, model.vocab);
    auto* losses = static_cast<float*>(scratch.take(Bytes{static_cast<std::int64_t>(4 * tokens)}));
    logits->forward.run(lane, k.normed.data, head.weights.data, scores.data);
    lane.part("head");
    cross_entropy_forward(lane, scores, k.targets, k.log_sum_exp, losses);
    if (target.loss) add_sum(lane, losses, tokens, loss_share(), target.loss);
    lane.part("loss");
  }

  // ---- backward ----

  // The gradient of what the activation read.
  void backward_down(const Lane& lane, Scratch scratch, const LayerParameters& p, const LayerKept& k,
                     const Tensor& d_out, const LayerGradients& g) const {
    const Tensor d_activated = gated() ? scratch.take(type, tokens, model.ffn) : g.gate_and_up;
    down->input_gradient.run(lane, d_out.data, p.down.weights.data, d_activated.data);
    lane.part(down_name());
    gated() ? swiglu_backward(lane, d_activated, k.gate_and_up, g.gate_and_up)
            : gelu_backward(lane, d_activated, k.gate_and_up, g.gate_and_up);
    lane.part(activation_name());
  }
  void backward_ffn(const Lane& lane, Scratch scratch, const LayerParameters& p, const LayerKept& k,
                    const Tensor& d_out, const LayerGradients& g) const {
    backward_down(lane, scratch, p, k, d_out, g);
    const Tensor d_normed = scratch.take(type, tokens, model.hidden);
    up->input_gradient.run(lane, g.gate_and_up.data, p.up.weights.data, d_normed.data);
    lane.part(up_name());
    norm_backward(lane, scratch, model.norm, d_normed, k.x_2, p.norm_2, k.norm_2, d_out, g.x_2,
                  p.norm_2_gradients);
    lane.part("norm_2");
  }
  // dx: the gradient of the layer's input.
  void backward_attention(const Lane& lane, Scratch scratch, const LayerParameters& p, const LayerKept& k,
                          const LayerGradients& g, void* dx) const {
    {
      Scratch here = scratch;
      const Tensor d_o = here.take(type, tokens, attention_size.heads * attention_size.head_dim);
      output->input_gradient.run(lane, g.x_2.data, p.output.weights.data, d_o.data);
      lane.part("output");
      attention->backward(lane, here, d_o, k.qkv, k.o, k.log_sum_exp, g.qkv);
      lane.part("attention");
      if (rotary()) {
        rope_backward(lane, attention_size, rope_table.as<float>(), g.qkv);
        lane.part("rope");
      }
    }
    if (norms_heads()) {
      head_norm_backward(lane, scratch, attention_size, p.heads, k.heads, g.qkv, p.heads_gradients);
      lane.part("qk_norm");
    }
    const Tensor d_normed = scratch.take(type, tokens, model.hidden);
    qkv->input_gradient.run(lane, g.qkv.data, p.qkv.weights.data, d_normed.data);
    lane.part("qkv");
    norm_backward(lane, scratch, model.norm, d_normed, k.x_1, p.norm_1, k.norm_1, g.x_2, hidden(dx),
                  p.norm_1_gradients);
    lane.part("norm_1");
  }
  // An mlp's second half. dx: nothing where nobody wants it.
  void backward_up(const Lane& lane, const LayerParameters& p, const LayerGradients& g, void* dx) const {
    if (!dx) return;
    up->input_gradient.run(lane, g.gate_and_up.data, p.up.weights.data, dx);
    lane.part(up_name());
  }

  // dw and, where there is a bias, its gradient.
  void weights_linear(const Lane& lane, const Linear& linear, const Tensor& dy, const Tensor& x,
                      const Parameter& weight, const Parameter& bias) const {
    linear.weight_gradient.run(lane, dy.data, x.data, weight.gradients.data);
    if (bias.gradients.data) bias_backward_weight(lane, dy, bias.gradients);
  }

  void weights_ffn(const Lane& lane, const LayerParameters& p, const LayerKept& k, const Tensor& d_out,
                   const LayerGradients& g) const {
    weights_linear(lane, *down, d_out, k.activated, p.down, p.down_bias);
    lane.part(down_name());
    weights_linear(lane, *up, g.gate_and_up, is_mlp() ? k.normed_1 : k.normed_2, p.up, p.up_bias);
    lane.part(up_name());
  }
  void weights_attention(const Lane& lane, const LayerParameters& p, const LayerKept& k,
                         const LayerGradients& g) const {
    weights_linear(lane, *output, g.x_2, k.o, p.output, p.output_bias);
    lane.part("output");
    weights_linear(lane, *qkv, g.qkv, k.normed_1, p.qkv, p.qkv_bias);
    lane.part("qkv");
  }

  // dx: the gradient of the last layer's output. d_logits: a place for the gradient of the logits.
  void backward_head(const Lane& lane, Scratch scratch, const HeadKept& k, const StageTarget& target,
                     const Tensor& d_logits, const Tensor& dx) const {
    if (is_mlp()) {
      mean_square_backward(lane, k.x, k.target, target.scale * loss_share(), dx);
      lane.part("loss");
      return;
    }
    logits->forward.run(lane, k.normed.data, head.weights.data, d_logits.data);
    lane.part("head");
    cross_entropy_backward(lane, d_logits, k.targets, k.log_sum_exp, target.scale * loss_share(), d_logits);
    lane.part("loss");
    const Tensor d_normed = scratch.take(type, tokens, model.hidden);
    logits->input_gradient.run(lane, d_logits.data, head.weights.data, d_normed.data);
    lane.part("head");
    norm_backward(lane, scratch, model.norm, d_normed, k.x, final_norm, k.norm, {}, dx, final_norm_gradients);
    lane.part("final_norm");
  }

  Launching backward_input(const Lane& lane, StageBuffers b, StageTarget target) const {
    const std::uint64_t n = content.layers;
    Tensor d_out = gradients_of(n - 1, b).output;
    if (content.head) {
      backward_head(lane, b.scratch, head_kept(b), target, is_mlp() ? Tensor{} : logit_gradients(b), d_out);
    } else {
      // backward_weight reads it when the buffer it came in is somebody else's.
      copy(lane, d_out.data, b.input, hidden_bytes());
      lane.part("message");
    }
    for (std::uint64_t l = n; l-- > 0;) {
      void* dx = b.output;
      if (l > 0) {
        dx = gradients_of(l - 1, b).output.data;
      } else if (looks_up()) {
        dx = b.gradients_kept;
      }
      const LayerGradients g = gradients_of(l, b);
      const LayerKept k = layer_kept(l, b);
      if (is_mlp()) {
        backward_down(lane, b.scratch, layers[l], k, g.output, g);
        co_await Launching::pause;
        backward_up(lane, layers[l], g, dx);
      } else {
        backward_ffn(lane, b.scratch, layers[l], k, g.output, g);
        co_await Launching::pause;
        backward_attention(lane, b.scratch, layers[l], k, g, dx);
      }
      co_await Launching::pause;
    }
  }

  Launching backward_weight(const Lane& lane, StageBuffers b) const {
    if (content.head && !is_mlp()) {
      logits->weight_gradient.run(lane, logit_gradients(b).data, head_kept(b).normed.data,
                                  head.gradients.data);
      lane.part("head");
      co_await Launching::pause;
    }
    for (std::uint64_t l = content.layers; l-- > 0;) {
      const LayerGradients g = gradients_of(l, b);
      const LayerKept k = layer_kept(l, b);
      weights_ffn(lane, layers[l], k, g.output, g);
      co_await Launching::pause;
      if (is_mlp()) continue;
      weights_attention(lane, layers[l], k, g);
      co_await Launching::pause;
    }
    if (looks_up()) weights_embedding(lane, b, hidden(b.gradients_kept));
  }
  void weights_embedding(const Lane& lane, const StageBuffers& b, const Tensor& d_out) const {
    embedding_backward_weight(lane, static_cast<const std::int32_t*>(b.kept_for_weight), d_out, sequence(),
                              embedding.gradients, positions.gradients);
    lane.part("embedding");
  }

  Launching backward(const Lane& lane, StageBuffers b, StageTarget target) const {
    Scratch scratch = b.scratch;
    Tensor d_out = scratch.take(type, tokens, model.hidden);
    Tensor dx = scratch.take(type, tokens, model.hidden);
    if (content.head) {
      Scratch here = scratch;
      const Tensor d_logits = is_mlp() ? Tensor{} : here.take(type, tokens, model.vocab);
      const HeadKept k = head_kept(b);
      backward_head(lane, here, k, target, d_logits, d_out);
      if (!is_mlp()) {
        logits->weight_gradient.run(lane, d_logits.data, k.normed.data, head.gradients.data);
        lane.part("head");
      }
      co_await Launching::pause;
    }
    LayerGradients g;
    if (!is_mlp()) {
      g.qkv = scratch.take(type, tokens, attention_size.width());
      g.x_2 = scratch.take(type, tokens, model.hidden);
    }
    g.gate_and_up = scratch.take(type, tokens, up_width());
    Tensor incoming = content.head ? d_out : hidden(b.input);
    for (std::uint64_t l = content.layers; l-- > 0;) {
      const LayerKept k = layer_kept(l, b);
      void* to = l == 0 && !looks_up() ? b.output : dx.data;
      if (is_mlp()) {
        backward_down(lane, scratch, layers[l], k, incoming, g);
        co_await Launching::pause;
        backward_up(lane, layers[l], g, to);
        weights_ffn(lane, layers[l], k, incoming, g);
      } else {
        backward_ffn(lane, scratch, layers[l], k, incoming, g);
        weights_ffn(lane, layers[l], k, incoming, g);
        co_await Launching::pause;
        backward_attention(lane, scratch, layers[l], k, g, to);
        weights_attention(lane, layers[l], k, g);
      }
      co_await Launching::pause;
      incoming = dx;
      std::swap(dx, d_out);
    }
    if (looks_up()) weights_embedding(lane, b, incoming);
  }
};

ModelStage::ModelStage(const ModelShape& model, const Layout& layout, plumb::Stage stage,
                       std::span<const Parameter> parameters, ProductAlgorithms& algorithms, const Lane& lane)
    : implementation_(std::make_unique<Implementation>(model, layout, stage, parameters, algorithms, lane)) {}
ModelStage::ModelStage(ModelStage&&) noexcept = default;
ModelStage& ModelStage::operator=(ModelStage&&) noexcept = default;
ModelStage::~ModelStage() = default;

const StageNeeds& ModelStage::needs() const { return implementation_->needs; }

void ModelStage::choose_products(ProductAlgorithms& algorithms, const Lane& lane) {
  implementation_->choose_products(algorithms, lane);
}

Launching ModelStage::launching(OpKind kind, const Lane& lane, const StageBuffers& buffers,
                                const StageTarget& target) const {
  switch (kind) {
    case OpKind::forward:
      return implementation_->forward(lane, buffers, target);
    case OpKind::backward_input:
      return implementation_->backward_input(lane, buffers, target);
    case OpKind::backward_weight:
      return implementation_->backward_weight(lane, buffers);
    default:
      PLUMB_CHECK(kind == OpKind::backward);
      return implementation_->backward(lane, buffers, target);
  }
}

}  // namespace plumb::layers
