// Times every layer, a whole transformer block and DualPipe's example stage on the GPU: one JSON object a
// line, for compare.py to set beside PyTorch. Usage: layers_bench HIDDEN HEADS FFN TOKENS VOCABULARY
#include "runtime/device/buffer.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/layers/activation.hpp"
#include "runtime/layers/attention.hpp"
#include "runtime/layers/embedding.hpp"
#include "runtime/layers/loss.hpp"
#include "runtime/layers/matmul.hpp"
#include "runtime/layers/model_stage.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/optimizer.hpp"
#include "runtime/layers/rope.hpp"
#include "runtime/layers/random.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

using namespace plumb;
using namespace plumb::layers;

namespace {

constexpr int rest_ms = 200;
constexpr int warm_up = 5;
constexpr int repetitions = 20;

class Bench {
 public:
  Bench() : stream(), lane(stream, device::device_info().multiprocessors) {}

  Tensor tensor(DataType type, std::uint64_t rows, std::uint64_t columns, float amplitude = 1) {
    Tensor t{nullptr, type, rows, columns};
    buffers_.emplace_back(t.bytes());
    t.data = buffers_.back().data();
    fill_uniform(lane, t, ++seed_, amplitude);
    return t;
  }
  std::int32_t* tokens(std::uint64_t count, std::uint64_t limit) {
    buffers_.emplace_back(Bytes{static_cast<std::int64_t>(4 * count)});
    auto* ids = buffers_.back().as<std::int32_t>();
    fill_tokens(lane, ids, count, ++seed_, static_cast<std::uint32_t>(limit));
    return ids;
  }
  void* block(Bytes bytes) {
    buffers_.emplace_back(bytes);
    return buffers_.back().data();
  }
  Scratch scratch(Bytes bytes) { return {block(bytes), bytes}; }
  void free_all() {
    stream.synchronize();
    buffers_.clear();
  }

  /// The median, as PyTorch's side takes it: an event before and behind each run, all queued at once.
  void time(const std::string& layer, const std::string& kind, const std::function<void()>& run) {
    // A GPU that has been busy runs at a lower clock: every measurement begins after the same rest, as
    // PyTorch's do.
    stream.synchronize();
    std::this_thread::sleep_for(std::chrono::milliseconds(rest_ms));
    for (int i = 0; i < warm_up; ++i) run();
    std::vector<device::Event> events;
    for (int i = 0; i < 2 * repetitions; ++i) events.emplace_back(device::EventKind::timing);
    stream.synchronize();
    for (int i = 0; i < repetitions; ++i) {
      events[static_cast<std::size_t>(2 * i)].record(stream);
      run();
      events[static_cast<std::size_t>(2 * i + 1)].record(stream);
    }
    stream.synchronize();
    std::vector<Duration> times;
    for (std::size_t i = 0; i < repetitions; ++i)
      times.push_back(device::between(events[2 * i], events[2 * i + 1]));
    std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
    fmt::print("{{\"layer\":\"{}\",\"kind\":\"{}\",\"ms\":{:.5f}}}\n", layer, kind,
               static_cast<double>(times[repetitions / 2].ns) * 1e-6);
    std::fflush(stdout);
  }

  device::Stream stream;
  Lane lane;
  ProductAlgorithms algorithms;

 private:
  std::list<device::Buffer> buffers_;
  std::uint64_t seed_ = 0;
};

void time_linear(Bench& b, const std::string& name, std::uint64_t tokens, std::uint64_t inputs,
                 std::uint64_t outputs) {
  const auto product = [&](ProductForm form, bool adds) {
    return Product({form, DataType::bf16, tokens, inputs, outputs, adds, b.lane.multiprocessors()},
                   b.algorithms, b.lane);
  };
  const Tensor x = b.tensor(DataType::bf16, tokens, inputs);
  const Tensor w = b.tensor(DataType::bf16, outputs, inputs, 0.02F);
  const Tensor y = b.tensor(DataType::bf16, tokens, outputs);
  const Tensor dw = b.tensor(DataType::fp32, outputs, inputs);
  const Product forward = product(ProductForm::forward, false);
  const Product input = product(ProductForm::input_gradient, false);
  const Product weight = product(ProductForm::weight_gradient, true);
  b.time(name, "forward", [&] { forward.run(b.lane, x.data, w.data, y.data); });
  b.time(name, "backward_input", [&] { input.run(b.lane, y.data, w.data, x.data); });
  b.time(name, "backward_weight", [&] { weight.run(b.lane, y.data, x.data, dw.data); });
  b.free_all();
}

void time_stage(Bench& b, const std::string& name, const ModelShape& model, const Layout& layout, bool last) {
  std::vector<Parameter> parameters;
  const auto add = [&](const std::string& parameter, std::uint64_t rows, std::uint64_t columns,
                       float amplitude) {
    parameters.push_back({parameter, b.tensor(DataType::bf16, rows, columns, amplitude),
                          b.tensor(DataType::fp32, rows, columns, 0)});
  };
  const std::uint64_t h = model.hidden;
  const bool mlp = model.architecture == Architecture::mlp;
  const std::string p = mlp ? "layers.0." : "layers.1.";
  add(p + (mlp ? "up.weight" : "gate_up.weight"), mlp ? model.ffn : 2 * model.ffn, h, 0.02F);
  add(p + "down.weight", h, model.ffn, 0.02F);
  if (!mlp) {
    add(p + "norm_1.gain", 1, h, 1);
    add(p + "norm_2.gain", 1, h, 1);
    add(p + "qkv.weight", 3 * h, h, 0.02F);
    add(p + "output.weight", h, h, 0.02F);
  }
  const plumb::Stage which{mlp ? 0U : 1U};
  const ModelStage stage(model, layout, which, parameters, b.algorithms, b.lane);
  const StageNeeds& n = stage.needs();
  const Tensor x = b.tensor(DataType::bf16, layout.tokens(), h);
  const Tensor y = b.tensor(DataType::bf16, layout.tokens(), h);
  const Tensor dx = b.tensor(DataType::bf16, layout.tokens(), h);
  const Tensor target = b.tensor(DataType::bf16, layout.tokens(), h);
  const Tensor loss = b.tensor(DataType::fp32, 1, 4);
  const StageTarget aim{target.data, 1, last ? loss.as<float>() : nullptr};
  StageBuffers buffers{
      x.data,
      last ? nullptr : y.data,
      b.block(n.kept_for_input),
      b.block(n.kept_for_weight),
      b.block(n.gradients_kept),
      b.scratch(std::max({n.forward_scratch, n.backward_input_scratch, n.backward_scratch}))};
  StageBuffers back = buffers;
  back.input = y.data;
  back.output = dx.data;
  b.time(name, "forward", [&] { stage.forward(b.lane, buffers, aim); });
  b.time(name, "backward_input", [&] { stage.backward_input(b.lane, back, aim); });
  b.time(name, "backward_weight", [&] { stage.backward_weight(b.lane, back); });
  b.time(name, "backward", [&] { stage.backward(b.lane, back, aim); });
  b.time(name, "forward + backward_input + backward_weight", [&] {
    stage.forward(b.lane, buffers, aim);
    stage.backward_input(b.lane, back, aim);
    stage.backward_weight(b.lane, back);
  });
  b.time(name, "forward + backward", [&] {
    stage.forward(b.lane, buffers, aim);
    stage.backward(b.lane, back, aim);
  });
  b.free_all();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::cerr << "usage: layers_bench HIDDEN HEADS FFN TOKENS VOCABULARY\n";
    return 2;
  }
  const auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  const std::uint64_t h = number(1), heads = number(2), ffn = number(3), tokens = number(4),
                      vocabulary = number(5);
  Bench b;
  constexpr DataType bf16 = DataType::bf16;

  time_linear(b, "qkv", tokens, h, 3 * h);
  time_linear(b, "output", tokens, h, h);
  time_linear(b, "gate_up", tokens, h, 2 * ffn);
  time_linear(b, "down", tokens, ffn, h);

  for (const NormKind kind : {NormKind::rms_norm, NormKind::layer_norm}) {
    const std::string name = kind == NormKind::rms_norm ? "rms_norm" : "layer_norm";
    const bool centred = kind == NormKind::layer_norm;
    const Tensor x = b.tensor(bf16, tokens, h), y = b.tensor(bf16, tokens, h), dx = b.tensor(bf16, tokens, h);
    const NormParameters p{b.tensor(bf16, 1, h), centred ? b.tensor(bf16, 1, h) : Tensor{}};
    const NormParameters g{b.tensor(DataType::fp32, 1, h),
                           centred ? b.tensor(DataType::fp32, 1, h) : Tensor{}};
    const NormStatistics s{b.tensor(DataType::fp32, 1, tokens).as<float>(),
                           b.tensor(DataType::fp32, 1, tokens).as<float>()};
    const Scratch scratch = b.scratch(Scratch::rounded(norm_scratch(kind, h, b.lane.multiprocessors())));
    b.time(name, "forward", [&] { norm_forward(b.lane, kind, x, p, y, s); });
    b.time(name, "backward_input", [&] { norm_backward(b.lane, scratch, kind, y, x, p, s, {}, dx, g); });
    b.free_all();
  }
  {
    const AttentionSize size{bf16, 1, tokens, heads, heads, h / heads};
    const Attention attention(size, b.lane);
    const Tensor qkv = b.tensor(bf16, tokens, size.width()), d_qkv = b.tensor(bf16, tokens, size.width());
    const Tensor o = b.tensor(bf16, tokens, h), d_o = b.tensor(bf16, tokens, h);
    float* log_sum_exp = b.tensor(DataType::fp32, heads, tokens).as<float>();
    float* table = static_cast<float*>(b.block(rope_table_bytes(size)));
    make_rope_table(b.lane, size, 10000.0F, table);
    const Scratch scratch = b.scratch(Scratch::rounded(attention.scratch()));
    b.time("rope", "forward", [&] { rope_forward(b.lane, size, table, qkv); });
    b.time("rope", "backward_input", [&] { rope_backward(b.lane, size, table, d_qkv); });
    b.time("attention", "forward", [&] { attention.forward(b.lane, scratch, qkv, o, log_sum_exp); });
    b.time("attention", "backward_input",
           [&] { attention.backward(b.lane, scratch, d_o, qkv, o, log_sum_exp, d_qkv); });
    b.free_all();
  }
  {
    const Tensor in = b.tensor(bf16, tokens, 2 * ffn), d_in = b.tensor(bf16, tokens, 2 * ffn);
    const Tensor s = b.tensor(bf16, tokens, ffn), ds = b.tensor(bf16, tokens, ffn);
    b.time("swiglu", "forward", [&] { swiglu_forward(b.lane, in, s); });
    b.time("swiglu", "backward_input", [&] { swiglu_backward(b.lane, ds, in, d_in); });
    b.time("gelu", "forward", [&] { gelu_forward(b.lane, in, d_in); });
    b.time("gelu", "backward_input", [&] { gelu_backward(b.lane, d_in, in, d_in); });
    b.free_all();
  }
  {
    const Tensor table = b.tensor(bf16, vocabulary, h), d_table = b.tensor(DataType::fp32, vocabulary, h);
    const Tensor out = b.tensor(bf16, tokens, h);
    const std::int32_t* ids = b.tokens(tokens, vocabulary);
    b.time("embedding", "forward", [&] { embedding_forward(b.lane, ids, table, {}, tokens, out); });
    b.time("embedding", "backward_weight",
           [&] { embedding_backward_weight(b.lane, ids, out, tokens, d_table, {}); });
    b.free_all();
  }
  time_linear(b, "head", tokens, h, vocabulary);
  {
    const Tensor logits = b.tensor(bf16, tokens, vocabulary), d_logits = b.tensor(bf16, tokens, vocabulary);
    const std::int32_t* targets = b.tokens(tokens, vocabulary);
    float* log_sum_exp = b.tensor(DataType::fp32, 1, tokens).as<float>();
    float* losses = b.tensor(DataType::fp32, 1, tokens).as<float>();
    float* loss = b.tensor(DataType::fp32, 1, 4).as<float>();
    b.time("cross_entropy", "forward", [&] {
      cross_entropy_forward(b.lane, logits, targets, log_sum_exp, losses);
      add_sum(b.lane, losses, tokens, 1.0F / static_cast<float>(tokens), loss);
    });
    b.time("cross_entropy", "backward_input",
           [&] { cross_entropy_backward(b.lane, logits, targets, log_sum_exp, 1, d_logits); });
    b.free_all();
  }
  {
    const std::uint64_t count = 4 * h * h;
    const Tensor weights = b.tensor(bf16, 1, count);
    float* state[4];
    for (float*& one : state) one = b.tensor(DataType::fp32, 1, count).as<float>();
    b.time("adamw", "step",
           [&] { adamw_step(b.lane, {}, 1, 1, weights, state[0], state[1], state[2], state[3]); });
    b.free_all();
  }

  ModelShape block;
  block.hidden = h;
  block.layers = 3;
  block.ffn = ffn;
  block.vocab = vocabulary;
  block.attention.heads = block.attention.key_value_heads = heads;
  block.attention.head_dim = h / heads;
  Layout layout;
  layout.sequence = tokens;
  layout.parallelism.pipeline = 3;
  layout.stages = {{0, 1, 0, true, false, Recompute::none},
                   {1, 1, 0, false, false, Recompute::none},
                   {2, 1, 0, false, true, Recompute::none}};
  block.position = PositionKind::none;
  time_stage(b, "block", block, layout, false);
  block.position = PositionKind::rotary;
  time_stage(b, "block_rope", block, layout, false);
  ModelShape mlp;
  mlp.architecture = Architecture::mlp;
  mlp.hidden = h;
  mlp.ffn = 4 * h;
  mlp.layers = 1;
  layout.parallelism.pipeline = 1;
  layout.stages = {{0, 1, 0, true, true, Recompute::none}};
  time_stage(b, "mlp_stage", mlp, layout, true);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 3;
}
