// A stage as a whole: against the textbook's layers put together on the host, and against the formulas of its
// bytes.
#include "runtime/layers/model_stage.hpp"

#include "schedules/model/layer_costs.hpp"
#include "schedules/model/parameters.hpp"
#include "tests/runtime/layers/on_device.hpp"
#include "tests/runtime/layers/textbook.hpp"

#include <map>
#include <string>
#include <vector>

namespace plumb::layers {
namespace {

using textbook::Matrix;

struct Case {
  const char* name;
  Architecture architecture = Architecture::transformer;
  NormKind norm = NormKind::rms_norm;
  FfnKind ffn = FfnKind::swiglu;
  PositionKind position = PositionKind::rotary;
  DataType type = DataType::bf16;
  bool head_norms = false;  // of queries and keys: Qwen3
  bool biases = false;      // of all linears, and the head is the embedding's matrix: GPT-2
};

ModelShape model_of(const Case& c) {
  ModelShape m;
  m.architecture = c.architecture;
  m.hidden = 128;
  m.layers = 3;
  m.ffn = 320;
  m.norm = c.norm;
  m.ffn_kind = c.ffn;
  m.position = c.position;
  if (c.architecture == Architecture::mlp) {
    m.position = PositionKind::none;
    return m;
  }
  m.vocab = 264;
  m.attention.heads = 4;
  m.attention.key_value_heads = 2;
  m.attention.head_dim = 64;  // not hidden / heads, on purpose
  if (c.position == PositionKind::learned) m.learned_positions = 128;
  m.attention.query_key_norm = c.head_norms;
  m.attention.qkv_bias = m.attention.output_bias = m.ffn_bias = m.tied_embeddings = c.biases;
  return m;
}

Layout layout_of(const Case& c, const std::vector<StageContent>& stages) {
  Layout layout;
  layout.parallelism.pipeline = static_cast<std::uint32_t>(stages.size());
  layout.numerics.weights = c.type == DataType::fp32 ? WeightType::fp32 : WeightType::bf16;
  layout.micro_batch_size = 2;
  layout.sequence = 128;
  layout.stages = stages;
  return layout;
}

// The whole model on the host: losses and gradients of everything, by name; the hidden states between layers
// too.
class OnHost {
 public:
  OnHost(const ModelShape& model, const Layout& layout, std::map<std::string, Matrix> weights)
      : m(model), tokens(layout.tokens()), w(std::move(weights)) {
    heads = {layout.micro_batch_size, layout.sequence, m.attention.heads, m.attention.key_value_heads,
             m.attention.head_dim};
  }

  Matrix embed(const std::vector<std::int32_t>& ids) {
    Matrix x(tokens * m.hidden);
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t i = 0; i < m.hidden; ++i) {
        x[t * m.hidden + i] = w["embedding.weight"][static_cast<std::size_t>(ids[t]) * m.hidden + i];
        if (m.position == PositionKind::learned) {
          x[t * m.hidden + i] += w["embedding.positions"][t % heads.sequence * m.hidden + i];
        }
      }
    }
    return x;
  }
  void embed_gradient(const std::vector<std::int32_t>& ids, const Matrix& dx) {
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t i = 0; i < m.hidden; ++i) {
        grow("embedding.weight")[static_cast<std::size_t>(ids[t]) * m.hidden + i] += dx[t * m.hidden + i];
        if (m.position == PositionKind::learned) {
          grow("embedding.positions")[t % heads.sequence * m.hidden + i] += dx[t * m.hidden + i];
        }
      }
    }
  }

  Matrix layer(std::size_t l, const Matrix& x) {
    const std::string p = "layers." + std::to_string(l) + ".";
    Saved& s = saved[l];
    s.x_1 = x;
    if (m.architecture == Architecture::mlp) {
      s.up = textbook::linear(x, w[p + "up.weight"], tokens, m.ffn, m.hidden);
      s.activated = textbook::gelu(s.up);
      return textbook::linear(s.activated, w[p + "down.weight"], tokens, m.hidden, m.ffn);
    }
    const bool centred = m.norm == NormKind::layer_norm;
    const std::size_t width = heads.heads * heads.head_dim;
    s.n_1 = textbook::norm(x, w[p + "norm_1.gain"], w[p + "norm_1.bias"], tokens, centred);
    s.qkv = linear(p + "qkv", s.n_1, heads.width(), m.hidden);
    if (m.attention.query_key_norm) {
      s.raw_qkv = s.qkv;
      each_head_norm(p, [&](const std::string& name, std::size_t from, std::size_t count) {
        const Matrix out =
            textbook::norm(heads_of(s.raw_qkv, from, count), w[name], {}, tokens * count, false);
        put_heads(out, from, count, s.qkv);
      });
    }
    if (m.position == PositionKind::rotary) s.qkv = textbook::rope(s.qkv, heads, 1);
    s.o = textbook::attention(s.qkv, heads);
    s.x_2 = sum(x, linear(p + "output", s.o, m.hidden, width));
    s.n_2 = textbook::norm(s.x_2, w[p + "norm_2.gain"], w[p + "norm_2.bias"], tokens, centred);
    s.up = linear(p + up_name(), s.n_2, up_width(), m.hidden);
    s.activated = gated() ? textbook::swiglu(s.up, tokens, m.ffn) : textbook::gelu(s.up);
    return sum(s.x_2, linear(p + "down", s.activated, m.hidden, m.ffn));
  }
  Matrix layer_gradient(std::size_t l, const Matrix& dy) {
    const std::string p = "layers." + std::to_string(l) + ".";
    const Saved& s = saved[l];
    linear_weight(p + "down", dy, s.activated, m.hidden, m.ffn);
    const Matrix d_activated = textbook::linear_input(dy, w[p + "down.weight"], tokens, m.hidden, m.ffn);
    const Matrix d_up = gated() ? textbook::swiglu_gradient(d_activated, s.up, tokens, m.ffn)
                                : textbook::gelu_gradient(d_activated, s.up);
    if (m.architecture == Architecture::mlp) {
      linear_weight(p + "up", d_up, s.x_1, m.ffn, m.hidden);
      return textbook::linear_input(d_up, w[p + "up.weight"], tokens, m.ffn, m.hidden);
    }
    const std::size_t width = heads.heads * heads.head_dim;
    linear_weight(p + up_name(), d_up, s.n_2, up_width(), m.hidden);
    const Matrix d_x_2 = sum(dy, norm_gradient(p + "norm_2", s.x_2,
                                               textbook::linear_input(d_up, w[p + up_name() + ".weight"],
                                                                      tokens, up_width(), m.hidden)));
    linear_weight(p + "output", d_x_2, s.o, m.hidden, width);
    Matrix d_qkv = textbook::attention_gradient(
        textbook::linear_input(d_x_2, w[p + "output.weight"], tokens, m.hidden, width), s.qkv, heads);
    if (m.position == PositionKind::rotary) d_qkv = textbook::rope(d_qkv, heads, -1);
    if (m.attention.query_key_norm) {
      each_head_norm(p, [&](const std::string& name, std::size_t from, std::size_t count) {
        const auto g = textbook::norm_gradients(
            heads_of(d_qkv, from, count), heads_of(s.raw_qkv, from, count), w[name], tokens * count, false);
        put_heads(g.x, from, count, d_qkv);
        add(name, g.gain);
      });
    }
    linear_weight(p + "qkv", d_qkv, s.n_1, heads.width(), m.hidden);
    return sum(d_x_2, norm_gradient(p + "norm_1", s.x_1,
                                    textbook::linear_input(d_qkv, w[p + "qkv.weight"], tokens, heads.width(),
                                                           m.hidden)));
  }
  // The mean loss; the gradient of `scale` times it in dx.
  double head(const Matrix& x, const std::vector<std::int32_t>& targets, double scale, Matrix& dx) {
    const bool centred = m.norm == NormKind::layer_norm;
    const Matrix n = textbook::norm(x, w["final_norm.gain"], w["final_norm.bias"], tokens, centred);
    const std::string head = head_name(m);
    const Matrix logits = textbook::linear(n, w[head], tokens, m.vocab, m.hidden);
    double loss = 0;
    for (const double one : textbook::cross_entropy(logits, targets))
      loss += one / static_cast<double>(tokens);
    const Matrix d = textbook::cross_entropy_gradient(logits, targets, scale / static_cast<double>(tokens));
    add(head, textbook::linear_weight(d, n, tokens, m.vocab, m.hidden));
    dx = norm_gradient("final_norm", x, textbook::linear_input(d, w[head], tokens, m.vocab, m.hidden));
    return loss;
  }

  std::map<std::string, Matrix> gradients;

 private:
  struct Saved {
    Matrix x_1, n_1, raw_qkv, qkv, o, x_2, n_2, up, activated;
  };
  bool gated() const { return m.architecture != Architecture::mlp && m.ffn_kind == FfnKind::swiglu; }
  std::size_t up_width() const { return gated() ? 2 * m.ffn : m.ffn; }
  std::string up_name() const { return gated() ? "gate_up" : "up"; }
  Matrix linear(const std::string& name, const Matrix& x, std::size_t outputs, std::size_t inputs) {
    Matrix y = textbook::linear(x, w[name + ".weight"], tokens, outputs, inputs);
    const auto bias = w.find(name + ".bias");
    if (bias == w.end()) return y;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias->second[i % outputs];
    return y;
  }
  void linear_weight(const std::string& name, const Matrix& dy, const Matrix& x, std::size_t outputs,
                     std::size_t inputs) {
    add(name + ".weight", textbook::linear_weight(dy, x, tokens, outputs, inputs));
    if (!w.contains(name + ".bias")) return;
    Matrix& bias = grow(name + ".bias");
    for (std::size_t i = 0; i < dy.size(); ++i) bias[i % outputs] += dy[i];
  }
  // Queries, then keys: the gain's name, the first head and how many there are.
  template <class Act>
  void each_head_norm(const std::string& prefix, Act act) const {
    act(prefix + "q_norm.gain", 0, heads.heads);
    act(prefix + "k_norm.gain", heads.heads, heads.key_value_heads);
  }
  Matrix heads_of(const Matrix& qkv, std::size_t from, std::size_t count) const {
    Matrix rows;
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto at = qkv.begin() + static_cast<std::ptrdiff_t>(t * heads.width() + from * heads.head_dim);
      rows.insert(rows.end(), at, at + static_cast<std::ptrdiff_t>(count * heads.head_dim));
    }
    return rows;
  }
  void put_heads(const Matrix& rows, std::size_t from, std::size_t count, Matrix& qkv) const {
    const std::size_t length = count * heads.head_dim;
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t i = 0; i < length; ++i)
        qkv[t * heads.width() + from * heads.head_dim + i] = rows[t * length + i];
    }
  }
  static Matrix sum(Matrix a, const Matrix& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  }
  Matrix& grow(const std::string& name) {
    Matrix& g = gradients[name];
    g.resize(w[name].size());
    return g;
  }
  void add(const std::string& name, const Matrix& g) { grow(name) = sum(grow(name), g); }
  Matrix norm_gradient(const std::string& name, const Matrix& x, const Matrix& dy) {
    const bool centred = m.norm == NormKind::layer_norm;
    auto g = textbook::norm_gradients(dy, x, w[name + ".gain"], tokens, centred);
    add(name + ".gain", g.gain);
    if (centred) add(name + ".bias", g.bias);
    return g.x;
  }

  const ModelShape& m;
  std::size_t tokens;
  textbook::Heads heads{};
  std::map<std::string, Matrix> w;
  std::map<std::size_t, Saved> saved;
};

class Stages : public OnDevice, public ::testing::WithParamInterface<Case> {
 protected:
  struct Held {
    Owned weights, gradients;
  };

  // Weights of the whole model in the stage's type.
  void make_weights(const ModelShape& m, DataType type) {
    const auto add = [&](const std::string& name, std::uint64_t rows, std::uint64_t columns, double deviation,
                         double mean) {
      Held& held = parameters[name];
      held.weights = random(type, rows, columns, host_weights[name], deviation, mean);
      held.gradients = upload(DataType::fp32, rows, columns, Matrix(rows * columns, 0.0));
    };
    const bool mlp = m.architecture == Architecture::mlp;
    const auto norm = [&](const std::string& name) {
      add(name + ".gain", 1, m.hidden, 0.2, 1);
      if (m.norm == NormKind::layer_norm) add(name + ".bias", 1, m.hidden, 0.2, 0);
    };
    if (!mlp) {
      // Of a head, whose logits stay small.
      add("embedding.weight", m.vocab, m.hidden, m.tied_embeddings ? 0.1 : 1, 0);
      if (m.position == PositionKind::learned)
        add("embedding.positions", m.learned_positions, m.hidden, 0.5, 0);
      norm("final_norm");
      if (!m.tied_embeddings) add("head.weight", m.vocab, m.hidden, 0.1, 0);
    }
    const bool gated = !mlp && m.ffn_kind == FfnKind::swiglu;
    for (std::uint64_t l = 0; l < m.layers; ++l) {
      const std::string p = "layers." + std::to_string(l) + ".";
      add(p + (gated ? "gate_up.weight" : "up.weight"), gated ? 2 * m.ffn : m.ffn, m.hidden, 0.08, 0);
      add(p + "down.weight", m.hidden, m.ffn, 0.08, 0);
      if (mlp) continue;
      norm(p + "norm_1");
      norm(p + "norm_2");
      const std::uint64_t width =
          (m.attention.heads + 2 * m.attention.key_value_heads) * m.attention.head_dim;
      add(p + "qkv.weight", width, m.hidden, 0.08, 0);
      add(p + "output.weight", m.hidden, m.attention.heads * m.attention.head_dim, 0.08, 0);
      if (m.attention.query_key_norm) {
        add(p + "q_norm.gain", 1, m.attention.head_dim, 0.2, 1);
        add(p + "k_norm.gain", 1, m.attention.head_dim, 0.2, 1);
      }
      if (!m.ffn_bias) continue;
      add(p + "qkv.bias", 1, width, 0.3, 0);
      add(p + "output.bias", 1, m.hidden, 0.3, 0);
      add(p + (gated ? "gate_up.bias" : "up.bias"), 1, gated ? 2 * m.ffn : m.ffn, 0.3, 0);
      add(p + "down.bias", 1, m.hidden, 0.3, 0);
    }
  }
  std::vector<Parameter> views() {
    std::vector<Parameter> all;
    for (auto& [name, held] : parameters) all.push_back({name, held.weights.tensor, held.gradients.tensor});
    return all;
  }
  void clear_gradients() {
    for (auto& [name, held] : parameters) {
      device::fill(stream, held.gradients.tensor.data, 0,
                   static_cast<std::size_t>(held.gradients.tensor.bytes().count));
    }
  }

  // A microbatch's blocks, poisoned.
  struct Microbatch {
    device::Buffer input, output, for_input, for_weight, gradients, scratch;
    device::Buffer d_output, d_input;
    StageBuffers forward, backward;
  };
  Microbatch microbatch(const StageNeeds& n, Bytes input_gradient) {
    const Bytes scratch_bytes = std::max({n.forward_scratch, n.backward_input_scratch, n.backward_scratch});
    Microbatch m{device::Buffer(n.input),
                 device::Buffer(n.output),
                 device::Buffer(n.kept_for_input),
                 device::Buffer(n.kept_for_weight),
                 device::Buffer(n.gradients_kept),
                 device::Buffer(scratch_bytes),
                 device::Buffer(n.output),
                 device::Buffer(input_gradient),
                 {},
                 {}};
    for (const auto* b : {&m.input, &m.output, &m.for_input, &m.for_weight, &m.gradients, &m.scratch,
                          &m.d_output, &m.d_input}) {
      if (b->bytes().count > 0) poison(*b);
    }
    const auto buffers = [&](const void* in, void* out, Bytes scratch_needed) {
      return StageBuffers{in,
                          out,
                          m.for_input.data(),
                          m.for_weight.data(),
                          m.gradients.data(),
                          Scratch(m.scratch.data(), scratch_needed)};
    };
    m.forward = buffers(m.input.data(), m.output.data(), n.forward_scratch);
    m.backward = buffers(m.d_output.data(), m.d_input.data(), n.backward_input_scratch);
    return m;
  }

  void expect_gradients(const std::map<std::string, Matrix>& host, double limit) {
    double worst = 0;
    std::string which;
    for (auto& [name, held] : parameters) {
      const auto at = host.find(name);
      ASSERT_NE(at, host.end()) << name;
      const double error = relative_error(download(held.gradients.tensor), at->second);
      // The gains of queries' and keys' norms get what has passed the softmax's gradient, P (dP - D), a
      // difference of neighbours: about twice the error of everything else.
      const bool behind_softmax = name.ends_with("q_norm.gain") || name.ends_with("k_norm.gain");
      EXPECT_LE(error, behind_softmax ? 2 * limit : limit) << name;
      if (error > worst) {
        worst = error;
        which = name;
      }
    }
    std::printf("    worst gradient %s: error %.2e\n", which.c_str(), worst);
  }

  std::map<std::string, Held> parameters;
  std::map<std::string, Matrix> host_weights;
  ProductAlgorithms algorithms;
};

INSTANTIATE_TEST_SUITE_P(
    Models, Stages,
    ::testing::Values(Case{.name = "llama_bf16"}, Case{.name = "llama_fp32", .type = DataType::fp32},
                      Case{.name = "gpt_bf16",
                           .norm = NormKind::layer_norm,
                           .ffn = FfnKind::gelu,
                           .position = PositionKind::learned},
                      Case{.name = "gpt_fp32",
                           .norm = NormKind::layer_norm,
                           .ffn = FfnKind::gelu,
                           .position = PositionKind::learned,
                           .type = DataType::fp32},
                      Case{.name = "gpt2_bf16",
                           .norm = NormKind::layer_norm,
                           .ffn = FfnKind::gelu,
                           .position = PositionKind::learned,
                           .biases = true},
                      Case{.name = "gpt2_fp32",
                           .norm = NormKind::layer_norm,
                           .ffn = FfnKind::gelu,
                           .position = PositionKind::learned,
                           .type = DataType::fp32,
                           .biases = true},
                      Case{.name = "qwen3_bf16", .head_norms = true},
                      Case{.name = "qwen3_fp32", .type = DataType::fp32, .head_norms = true},
                      Case{.name = "mlp_bf16", .architecture = Architecture::mlp},
                      Case{.name = "mlp_fp32", .architecture = Architecture::mlp, .type = DataType::fp32}),
    [](const auto& instance) { return instance.param.name; });

// The whole model on two stages: losses, messages and every gradient; first with the backward in two halves,
// then fused.
TEST_P(Stages, TwoStagesComputeTheModel) {
  const Case& c = GetParam();
  const ModelShape model = model_of(c);
  const bool mlp = c.architecture == Architecture::mlp;
  const Layout layout =
      layout_of(c, {{0, 2, 0, true, false, Recompute::none}, {2, 1, 0, false, true, Recompute::none}});
  make_weights(model, c.type);
  const auto all = views();
  const ModelStage first(model, layout, plumb::Stage{0}, all, algorithms, lane);
  const ModelStage last(model, layout, plumb::Stage{1}, all, algorithms, lane);
  const std::uint64_t tokens = layout.tokens();
  const float scale = 0.5F;

  Microbatch a = microbatch(first.needs(), Bytes{});
  Microbatch b = microbatch(last.needs(), last.needs().input);
  a.backward.output = nullptr;
  b.backward.input = nullptr;
  b.forward.output = nullptr;

  // The host.
  OnHost host(model, layout, host_weights);
  Matrix x, host_target, d, dx_between;
  std::vector<std::int32_t> ids, targets;
  Owned target;
  double loss = 0;
  if (mlp) {
    const Owned input = random(c.type, tokens, model.hidden, x);
    target = random(c.type, tokens, model.hidden, host_target);
    device::copy(stream, a.input.data(), input.tensor.data,
                 static_cast<std::size_t>(input.tensor.bytes().count));
    stream.synchronize();
  } else {
    ids = random_ids(tokens, static_cast<std::uint32_t>(model.vocab));
    targets = random_ids(tokens, static_cast<std::uint32_t>(model.vocab));
    put(a.input.data(), ids);
    target = empty(DataType::fp32, 1, tokens);
    put(target.tensor.data, targets);
    x = host.embed(ids);
  }
  const Matrix between = host.layer(1, host.layer(0, x));
  const Matrix top = host.layer(2, between);
  if (mlp) {
    const double elements = static_cast<double>(tokens * model.hidden);
    d.resize(top.size());
    for (std::size_t i = 0; i < top.size(); ++i) {
      loss += (top[i] - host_target[i]) * (top[i] - host_target[i]) / elements;
      d[i] = 2 * double{scale} / elements * (top[i] - host_target[i]);
    }
  } else {
    loss = host.head(top, targets, double{scale}, d);
  }
  dx_between = host.layer_gradient(2, d);
  d = host.layer_gradient(0, host.layer_gradient(1, dx_between));
  if (!mlp) host.embed_gradient(ids, d);

  // The device; the fused backward adds to cleared gradients. A rounding to bf16 leaves a relative error of
  // about 2^-9 / sqrt(3) = 1.1e-3 to 1.7e-3; the gradients at the bottom have passed some forty of them,
  // independent of each other: sqrt(40) x 1.7e-3 = 1.1e-2.
  const double limit = c.type == DataType::fp32 ? 1e-5 : 1e-2;
  const double gradient_limit = c.type == DataType::fp32 ? 1e-5 : 1.5e-2;
  for (const bool fused : {false, true}) {
    clear_gradients();
    Owned device_loss = upload(DataType::fp32, 1, 4, {0, 0, 0, 0});
    const StageTarget aim{target.tensor.data, scale, device_loss.tensor.as<float>()};
    first.forward(lane, a.forward);
    device::copy(stream, b.input.data(), a.output.data(), static_cast<std::size_t>(a.output.bytes().count));
    last.forward(lane, b.forward, aim);
    // What forward read is free now, and whoever reads it again would find this.
    stream.synchronize();
    poison(b.input);
    poison(b.scratch);
    if (fused) {
      a.backward.scratch = Scratch(a.scratch.data(), first.needs().backward_scratch);
      b.backward.scratch = Scratch(b.scratch.data(), last.needs().backward_scratch);
      poison(a.gradients);
      last.backward(lane, b.backward, aim);
      device::copy(stream, a.d_output.data(), b.d_input.data(),
                   static_cast<std::size_t>(b.d_input.bytes().count));
      first.backward(lane, a.backward);
    } else {
      last.backward_input(lane, b.backward, aim);
      device::copy(stream, a.d_output.data(), b.d_input.data(),
                   static_cast<std::size_t>(b.d_input.bytes().count));
      first.backward_input(lane, a.backward);
      stream.synchronize();
      for (const auto* freed : {&a.for_input, &b.for_input, &a.scratch, &b.scratch, &a.d_output})
        poison(*freed);
      last.backward_weight(lane, b.backward);
      first.backward_weight(lane, a.backward);
    }
    stream.synchronize();
    EXPECT_NEAR(download(device_loss.tensor)[0], loss, (c.type == DataType::fp32 ? 1e-5 : 1e-2) * loss);
    const Tensor message{a.output.data(), c.type, tokens, model.hidden};
    const Tensor gradient{b.d_input.data(), c.type, tokens, model.hidden};
    const double forward_error = relative_error(download(message), between);
    const double backward_error = relative_error(download(gradient), dx_between);
    std::printf("    %s: loss %.6f (host %.6f), message %.2e, its gradient %.2e\n", fused ? "fused" : "split",
                download(device_loss.tensor)[0], loss, forward_error, backward_error);
    EXPECT_LE(forward_error, limit);
    EXPECT_LE(backward_error, limit);
    expect_gradients(host.gradients, gradient_limit);
  }
}

// The blocks are what the formulas say, to the byte; every tensor here is a multiple of sixteen bytes.
TEST_P(Stages, KeepsWhatTheFormulasSay) {
  const Case& c = GetParam();
  const ModelShape model = model_of(c);
  const Layout layout = layout_of(c, {{0, 1, 0, true, false, Recompute::none},
                                      {1, 1, 0, false, false, Recompute::none},
                                      {2, 1, 0, false, true, Recompute::none}});
  make_weights(model, c.type);
  const auto all = views();
  for (std::uint32_t s = 0; s < 3; ++s) {
    const ModelStage stage(model, layout, plumb::Stage{s}, all, algorithms, lane);
    const StageBytes formula = stage_bytes(model, layout, plumb::Stage{s});
    EXPECT_EQ(stage.needs().kept_for_input + stage.needs().kept_for_weight, formula.kept_by_forward)
        << "stage " << s;
    EXPECT_EQ(stage.needs().kept_for_input, formula.freed_by_backward_input) << "stage " << s;
    EXPECT_EQ(stage.needs().gradients_kept, formula.added_by_backward_input) << "stage " << s;
    EXPECT_EQ(stage.needs().output, formula.activation_message) << "stage " << s;
  }
}

// A block of the device between two others that nobody may write to.
class Guarded {
 public:
  static constexpr std::int64_t fence = 4096;
  explicit Guarded(Bytes bytes) : bytes_(bytes), buffer_(bytes + Bytes{2 * fence}) {}
  void* data() const { return buffer_.as<std::byte>() + fence; }
  Bytes bytes() const { return bytes_; }
  const device::Buffer& whole() const { return buffer_; }

 private:
  Bytes bytes_;
  device::Buffer buffer_;
};

// What calibration writes down and the arena is planned with are the bytes that kernels write: all of each
// block, nothing beside it, and of the scratch no more than was asked for. An op runs twice on blocks filled
// with two bytes; one that holds what it was filled with both times was not written. The pieces of a block
// are multiples of sixteen bytes here, so that nothing lies between them.
TEST_P(Stages, WriteTheirBlocksAndNothingElse) {
  const Case& c = GetParam();
  const ModelShape model = model_of(c);
  const bool mlp = c.architecture == Architecture::mlp;
  const Layout layout = layout_of(c, {{0, 1, 0, true, false, Recompute::none},
                                      {1, 1, 0, false, false, Recompute::none},
                                      {2, 1, 0, false, true, Recompute::none}});
  make_weights(model, c.type);
  const auto all = views();
  const std::uint64_t tokens = layout.tokens();
  for (std::uint32_t s = 0; s < 3; ++s) {
    const ModelStage stage(model, layout, plumb::Stage{s}, all, algorithms, lane);
    const StageNeeds& n = stage.needs();
    const bool first = s == 0, last = s == 2;
    Matrix ignored;
    const auto noise = [&] { return random(c.type, tokens, model.hidden, ignored); };
    const auto ids = [&] { return random_ids(tokens, static_cast<std::uint32_t>(model.vocab)); };
    // What is read: the input and the gradient that comes in; the target.
    const bool text = first && !mlp;
    Owned input = noise(), d_output = noise(), target = noise();
    if (text) put(input.tensor.data, ids());
    if (last && !mlp) put(target.tensor.data, ids());
    const Guarded output(n.output), for_input(n.kept_for_input), for_weight(n.kept_for_weight),
        gradients(n.gradients_kept), d_input(first ? Bytes{} : n.input);
    Owned loss = upload(DataType::fp32, 1, 1, {0});

    const auto run = [&](OpKind kind, Bytes scratch_bytes, std::vector<const Guarded*> written) {
      const Guarded scratch(scratch_bytes);
      const std::vector<const Guarded*> blocks{&output,    &for_input, &for_weight,
                                               &gradients, &d_input,   &scratch};
      std::map<const Guarded*, std::vector<std::uint8_t>> before, after[2];
      written.push_back(&scratch);
      for (int round = 0; round < 2; ++round) {
        const std::uint8_t filling = round == 0 ? 0x5A : 0xA5;
        for (const Guarded* block : written) {
          device::fill(stream, block->whole().data(), filling,
                       static_cast<std::size_t>(block->whole().bytes().count));
        }
        stream.synchronize();
        const auto bytes = [&](const Guarded* block) {
          return get<std::uint8_t>(block->whole().data(),
                                   static_cast<std::size_t>(block->whole().bytes().count));
        };
        for (const Guarded* block : blocks) before[block] = bytes(block);
        StageBuffers b{
            kind == OpKind::forward ? input.tensor.data
            : last                  ? nullptr
                                    : d_output.tensor.data,
            kind == OpKind::forward ? (last ? nullptr : output.data()) : (first ? nullptr : d_input.data()),
            for_input.data(),
            for_weight.data(),
            gradients.data(),
            Scratch(scratch.data(), scratch.bytes())};
        stage
            .launching(kind, lane, b,
                       {last && kind == OpKind::forward ? target.tensor.data : nullptr, 1.0F,
                        static_cast<float*>(loss.tensor.data)})
            .finish();
        stream.synchronize();
        for (const Guarded* block : blocks) after[round][block] = bytes(block);
        for (const Guarded* block : blocks) {
          const auto& was = before[block];
          const auto& is = after[round][block];
          const auto size = static_cast<std::size_t>(block->bytes().count);
          const std::size_t begin = Guarded::fence, end = begin + size;
          for (std::size_t i = 0; i < was.size(); ++i) {
            const bool inside = i >= begin && i < end;
            const bool may = inside && std::find(written.begin(), written.end(), block) != written.end();
            if (!may && was[i] != is[i]) {
              ADD_FAILURE() << words(kind) << " of stage " << s << " wrote byte "
                            << static_cast<std::int64_t>(i) - Guarded::fence << " of a block of " << size;
              break;
            }
          }
        }
      }
      // The scratch may have room for more: partial sums of more tokens, what cuDNN asked for.
      for (const Guarded* block : written) {
        if (block == &scratch) continue;
        const auto size = static_cast<std::size_t>(block->bytes().count);
        std::size_t untouched = 0;
        for (std::size_t at = Guarded::fence; at < Guarded::fence + size; ++at)
          untouched += after[0][block][at] == 0x5A && after[1][block][at] == 0xA5;
        EXPECT_EQ(untouched, 0U) << words(kind) << " of stage " << s << ", of a block of " << size;
      }
    };
    run(OpKind::forward, n.forward_scratch, {&output, &for_input, &for_weight});
    run(OpKind::backward_input, n.backward_input_scratch, {&gradients, &d_input});
    run(OpKind::backward_weight, n.backward_weight_scratch, {});
    run(OpKind::backward, n.backward_scratch, {&d_input});
  }
}

// Two streams, a forward beside a backward of another microbatch: the same numbers as one after the other.
TEST_P(Stages, AForwardBesideABackwardChangesNothing) {
  const Case& c = GetParam();
  const ModelShape model = model_of(c);
  const Layout layout = layout_of(c, {{0, 1, 0, true, false, Recompute::none},
                                      {1, 1, 0, false, false, Recompute::none},
                                      {2, 1, 0, false, true, Recompute::none}});
  make_weights(model, c.type);
  const auto all = views();
  const ModelStage stage(model, layout, plumb::Stage{1}, all, algorithms, lane);
  const StageNeeds& needs = stage.needs();
  const device::Stream other_stream;
  const Lane other(other_stream, lane.multiprocessors());
  Microbatch a = microbatch(needs, needs.input);
  Microbatch b = microbatch(needs, needs.input);
  Matrix ignored;
  const auto fill = [&](const device::Buffer& buffer) {
    const Owned values = random(c.type, layout.tokens(), model.hidden, ignored);
    device::copy(stream, buffer.data(), values.tensor.data, static_cast<std::size_t>(buffer.bytes().count));
    stream.synchronize();
  };
  fill(a.input);
  fill(b.input);
  fill(a.d_output);
  stage.forward(lane, a.forward);
  stage.forward(lane, b.forward);
  stage.backward_input(lane, a.backward);
  stream.synchronize();
  const auto bytes = [&](const device::Buffer& buffer) {
    return get<std::uint8_t>(buffer.data(), static_cast<std::size_t>(buffer.bytes().count));
  };
  const auto output = bytes(b.output);
  const Matrix gradient = download({a.d_input.data(), c.type, layout.tokens(), model.hidden});
  for (int round = 0; round < 20; ++round) {
    poison(b.output);
    poison(a.d_input);
    poison(a.gradients);
    for (int again = 0; again < 3; ++again) {
      stage.backward_input(lane, a.backward);
      stage.forward(other, b.forward);
    }
    stream.synchronize();
    other_stream.synchronize();
    ASSERT_EQ(bytes(b.output), output) << "round " << round;
    // cuDNN's backward sums in no fixed order.
    ASSERT_LE(relative_error(download({a.d_input.data(), c.type, layout.tokens(), model.hidden}), gradient),
              c.type == DataType::fp32 ? 1e-6 : 2e-3)
        << "round " << round;
  }
}

}  // namespace
}  // namespace plumb::layers
