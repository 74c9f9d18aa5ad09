// Mixes and message sizes that a calibration never saw, predicted from it and measured.
//   held_out CALIBRATION KIND HIDDEN HEADS SEQUENCE LAYERS RANKS [VOCABULARY]
// KIND, sizes and ranks are those of the calibration. Raw figures go to standard output as JSON lines.
#include "calibrate/calibration.hpp"
#include "calibrate/lookup.hpp"
#include "calibrate/measure/background.hpp"
#include "calibrate/measure/sampler.hpp"
#include "calibrate/measure/stage_rig.hpp"
#include "calibrate/measurer.hpp"
#include "calibrate/work.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/layers/activation.hpp"
#include "runtime/layers/attention.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/random.hpp"
#include "schedules/model/layer_costs.hpp"

#include <cstdio>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

using namespace plumb;
using namespace plumb::measure;
using OpLane = layers::Lane;
using layers::Tensor;

namespace {

/// One rank: streams for its ops and for copies.
struct RankLanes {
  device::Stream main, beside, copies;
  OpLane main_lane, beside_lane;
  RankLanes(device::Stream a, device::Stream b, std::uint32_t sms)
      : main(std::move(a)), beside(std::move(b)), main_lane(main, sms), beside_lane(beside, sms) {}
};

/// Single parts of a layer on tensors of their own.
class Pieces {
 public:
  struct Piece {
    std::string part;
    WorkKind kind;
    std::function<void(const OpLane&)> launch;
  };

  Pieces(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
         const OpLane& lane)
      : tokens_(layout.tokens()), sms_(lane.multiprocessors()) {
    const std::uint64_t h = model.hidden;
    const bool mlp = model.architecture == Architecture::mlp;
    const bool gated = !mlp && model.ffn_kind == FfnKind::swiglu;
    const std::uint64_t wide = gated ? 2 * model.ffn : model.ffn;
    linear(mlp ? "linear_1" : gated ? "gate_up" : "up", h, wide, false, algorithms, lane);
    linear(mlp ? "linear_2" : "down", model.ffn, h, !mlp, algorithms, lane);
    const Tensor up = tensor(wide, lane), d_up = tensor(wide, lane), s = tensor(model.ffn, lane);
    const std::string activation = gated ? "swiglu" : "gelu";
    add(activation, WorkKind::forward,
        [=](const OpLane& l) { gated ? swiglu_forward(l, up, s) : gelu_forward(l, up, s); });
    add(activation, WorkKind::backward_input,
        [=](const OpLane& l) { gated ? swiglu_backward(l, s, up, d_up) : gelu_backward(l, s, up, d_up); });
    if (mlp) return;
    const layers::AttentionSize size{
        layers::DataType::bf16, layout.micro_batch_size,         layout.sequence,
        model.attention.heads,  model.attention.key_value_heads, model.attention.head_dim};
    linear("qkv", h, size.width(), false, algorithms, lane);
    linear("output", size.heads * size.head_dim, h, true, algorithms, lane);
    attention_.emplace(size, lane);
    const Tensor qkv = tensor(size.width(), lane), d_qkv = tensor(size.width(), lane);
    const Tensor o = tensor(size.heads * size.head_dim, lane), d_o = tensor(size.heads * size.head_dim, lane);
    float* sums = floats(tokens_ * size.heads);
    const layers::Scratch scratch = scratch_of(attention_->scratch());
    add("attention", WorkKind::forward,
        [=, this](const OpLane& l) { attention_->forward(l, scratch, qkv, o, sums); });
    add("attention", WorkKind::backward_input,
        [=, this](const OpLane& l) { attention_->backward(l, scratch, d_o, qkv, o, sums, d_qkv); });
    const Tensor x = tensor(h, lane), y = tensor(h, lane), dx = tensor(h, lane);
    const layers::NormParameters gain{row(h, lane), row(h, lane)};
    const layers::NormParameters gradients{wide_row(h), wide_row(h)};
    const layers::NormStatistics statistics{floats(tokens_), floats(tokens_)};
    const layers::Scratch norm_scratch = scratch_of(layers::norm_scratch(model.norm, h, sms_));
    const NormKind kind = model.norm;
    add("norm_1", WorkKind::forward, [=](const OpLane& l) { norm_forward(l, kind, x, gain, y, statistics); });
    add("norm_1", WorkKind::backward_input, [=](const OpLane& l) {
      norm_backward(l, norm_scratch, kind, y, x, gain, statistics, x, dx, gradients);
    });
  }
  Pieces(Pieces&&) = delete;
  const std::vector<Piece>& all() const { return pieces_; }

 private:
  void add(const std::string& part, WorkKind kind, std::function<void(const OpLane&)> launch) {
    pieces_.push_back({part, kind, std::move(launch)});
  }
  Tensor place(std::uint64_t rows, std::uint64_t columns, layers::DataType type) {
    Tensor t{nullptr, type, rows, columns};
    buffers_.emplace_back(t.bytes());
    t.data = buffers_.back().data();
    return t;
  }
  Tensor filled(Tensor t, const OpLane& lane) {
    fill_uniform(lane, t, buffers_.size(), 1);
    return t;
  }
  Tensor tensor(std::uint64_t columns, const OpLane& lane) {
    return filled(place(tokens_, columns, layers::DataType::bf16), lane);
  }
  Tensor row(std::uint64_t columns, const OpLane& lane) {
    return filled(place(1, columns, layers::DataType::bf16), lane);
  }
  Tensor wide_row(std::uint64_t columns) { return place(1, columns, layers::DataType::fp32); }
  float* floats(std::uint64_t count) {
    return static_cast<float*>(place(1, count, layers::DataType::fp32).data);
  }
  layers::Scratch scratch_of(Bytes bytes) {
    buffers_.emplace_back(Bytes{bytes.count + 4096});
    return {buffers_.back().data(), buffers_.back().bytes()};
  }
  void linear(const std::string& name, std::uint64_t inputs, std::uint64_t outputs, bool adds,
              layers::ProductAlgorithms& algorithms, const OpLane& lane) {
    using layers::ProductForm;
    const Tensor x = tensor(inputs, lane), y = tensor(outputs, lane), stream = tensor(outputs, lane);
    const Tensor w = filled(place(outputs, inputs, layers::DataType::bf16), lane);
    const Tensor dw = place(outputs, inputs, layers::DataType::fp32);
    for (const auto& [form, kind] : {std::pair{ProductForm::forward, WorkKind::forward},
                                     std::pair{ProductForm::input_gradient, WorkKind::backward_input},
                                     std::pair{ProductForm::weight_gradient, WorkKind::backward_weight}}) {
      const bool more = form == ProductForm::weight_gradient || (adds && form == ProductForm::forward);
      products_.push_back(std::make_unique<layers::Product>(
          layers::ProductShape{form, layers::DataType::bf16, tokens_, inputs, outputs, more, sms_},
          algorithms, lane));
      const layers::Product* product = products_.back().get();
      add(name, kind, [=](const OpLane& l) {
        if (form == ProductForm::forward)
          product->run(l, x.data, w.data, y.data, adds ? stream.data : nullptr);
        else if (form == ProductForm::input_gradient)
          product->run(l, y.data, w.data, x.data);
        else
          product->run(l, y.data, x.data, dw.data);
      });
    }
  }

  std::uint64_t tokens_;
  std::uint32_t sms_;
  std::vector<device::Buffer> buffers_;
  std::vector<std::unique_ptr<layers::Product>> products_;
  std::optional<layers::Attention> attention_;
  std::vector<Piece> pieces_;
};

class Bench {
 public:
  Bench(const ModelShape& model, const Layout& layout, std::uint32_t ranks, const Calibration& calibration)
      : model_(model),
        layout_(layout),
        calibration_(calibration),
        algorithms_(layers::ProductAlgorithms::from_text(calibration.algorithms)) {
    if (ranks > 1) shares_ = device::partition(ranks);
    for (std::uint32_t r = 0; r < ranks; ++r) {
      if (ranks == 1)
        ranks_.push_back(std::make_unique<RankLanes>(device::Stream(), device::Stream(),
                                                     device::device_info().multiprocessors));
      else
        ranks_.push_back(std::make_unique<RankLanes>(shares_[r].stream(), shares_[r].stream(),
                                                     shares_[r].multiprocessors()));
    }
    Layout one = layout;
    one.stages = {{0, 1, 0, false, false, Recompute::none}};
    for (const auto& rank : ranks_)
      layer_rigs_.push_back(
          std::make_unique<StageRig>(model, one, Stage{0}, algorithms_, rank->main_lane, rank->beside_lane));
    other_ =
        std::make_unique<StageRig>(model, one, Stage{0}, algorithms_, own().beside_lane, own().main_lane);
    pieces_.emplace(model, layout, algorithms_, own().main_lane);
    pieces_beside_.emplace(model, layout, algorithms_, own().main_lane);
    for (auto* block : {&from_, &to_}) *block = device::Buffer(Bytes{64 << 20});
    device::synchronize();
  }

  void run() {
    busy_ranks();
    const std::vector<WorkKind> kinds{WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight,
                                      WorkKind::backward};
    for (const WorkKind a : kinds) {
      const auto first = [&](const OpLane&) { layer_rigs_[0]->launch(a); };
      report("layer", words(a), "", time_alone(first));
      for (const WorkKind b : kinds) {
        if (b < a) continue;
        report("layers", words(a), words(b), time_both(first, [&](const OpLane&) { other_->launch(b); }));
      }
      for (const std::int64_t size : {std::int64_t{1} << 20, std::int64_t{1} << 24}) {
        const Background copying(own().copies, [&, size] {
          device::copy(own().copies, to_.data(), from_.data(), static_cast<std::size_t>(size));
        });
        report("copies", words(a), std::to_string(size), time_alone(first));
      }
    }
    for (std::size_t i = 0; i < pieces_->all().size(); ++i) {
      const auto& a = pieces_->all()[i];
      report("piece", label(a), "", time_alone(a.launch));
    }
    for (std::size_t i = 0; i < pieces_->all().size(); ++i) {
      const auto& a = pieces_->all()[i];
      for (std::size_t j = i + 1; j < pieces_->all().size(); ++j) {
        if ((i * 7 + j * 3) % 4 != 0) continue;  // a quarter of them
        const auto& b = pieces_beside_->all()[j];
        report("pieces", label(a), label(b), time_both(a.launch, b.launch));
        const auto thrice = [&](const OpLane& lane) {
          for (int k = 0; k < 3; ++k) b.launch(lane);
        };
        report("pieces x3", label(a), label(b),
               time_both(
                   [&](const OpLane& lane) {
                     for (int k = 0; k < 3; ++k) a.launch(lane);
                   },
                   thrice));
      }
    }
    busy_.clear();
  }

 private:
  using Launch = std::function<void(const OpLane&)>;
  RankLanes& own() { return *ranks_.front(); }
  static std::string label(const Pieces::Piece& piece) {
    return piece.part + " " + std::string(words(piece.kind));
  }
  void busy_ranks() {
    for (std::size_t r = 1; r < ranks_.size(); ++r) {
      StageRig& rig = *layer_rigs_[r];
      busy_.push_back(std::make_unique<Background>(ranks_[r]->main, [&rig] {
        rig.launch(WorkKind::forward);
        rig.launch(WorkKind::backward);
      }));
    }
  }
  Sampled time_alone(const Launch& a) {
    return sampler_.sample({own().main, begin_, end_,
                            [&] {
                              begin_.record(own().main);
                              a(own().main_lane);
                              end_.record(own().main);
                            }},
                           WarmUp::until_the_clock_settles, rule_);
  }
  Sampled time_both(const Launch& a, const Launch& b) {
    return sampler_.sample({own().main, begin_, end_,
                            [&] {
                              begin_.record(own().main);
                              own().beside.wait(begin_);
                              a(own().main_lane);
                              b(own().beside_lane);
                              join_.record(own().beside);
                              own().main.wait(join_);
                              end_.record(own().main);
                            }},
                           WarmUp::until_the_clock_settles, rule_);
  }
  static void report(const char* what, std::string_view a, std::string_view b, const Sampled& sampled) {
    const Summary s = sampled.set.summary();
    std::printf(
        "{\"what\":\"%s\",\"a\":\"%s\",\"b\":\"%s\",\"ns\":%lld,\"q1\":%lld,\"q3\":%lld,\"n\":%u,\"mhz\":%u}"
        "\n",
        what, std::string(a).c_str(), std::string(b).c_str(), static_cast<long long>(s.median.ns),
        static_cast<long long>(s.lower_quartile.ns), static_cast<long long>(s.upper_quartile.ns), s.samples,
        s.sm_clock_mhz);
    std::fflush(stdout);
  }

  const ModelShape& model_;
  const Layout& layout_;
  const Calibration& calibration_;
  layers::ProductAlgorithms algorithms_;
  std::vector<device::GreenContext> shares_;
  std::vector<std::unique_ptr<RankLanes>> ranks_;
  std::vector<std::unique_ptr<StageRig>> layer_rigs_;
  std::unique_ptr<StageRig> other_;
  std::optional<Pieces> pieces_, pieces_beside_;
  std::vector<std::unique_ptr<Background>> busy_;
  device::Buffer from_, to_;
  device::Event begin_{device::EventKind::timing}, end_{device::EventKind::timing};
  device::Event join_;
  Sampler sampler_;
  StoppingRule rule_{0.005, 15, 2000, Duration{80'000'000}};
};

void message_sizes(const CalibrationRequest& request) {
  const auto measurer = make_measurer(request);
  for (const TransferKind kind :
       {TransferKind::hop, TransferKind::one_way, TransferKind::both_ways, TransferKind::at_once}) {
    Setting setting = measurer->setting();
    setting.others_busy = kind == TransferKind::hop;
    const TransferKey key{kind, "local", "", {0, 1}, kind == TransferKind::at_once ? 4U : 1U, setting};
    for (std::int64_t k = 0; k < 33; ++k) {
      // 1 KiB to 64 MiB, powers of two and halfway between them.
      const std::int64_t size = (k % 2 == 0 ? std::int64_t{2} : std::int64_t{3}) << (9 + k / 2);
      const auto measured =
          measurer->measure(TransferTarget{key, {size}}, {0.01, 15, 2000, Duration{100'000'000}});
      const Summary s = std::get<Transfer>(measured[0].figures).point.time;
      std::printf("{\"what\":\"%s\",\"size\":%lld,\"ns\":%lld,\"q1\":%lld,\"q3\":%lld,\"n\":%u}\n",
                  std::string(words(kind)).c_str(), static_cast<long long>(size),
                  static_cast<long long>(s.median.ns), static_cast<long long>(s.lower_quartile.ns),
                  static_cast<long long>(s.upper_quartile.ns), s.samples);
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) {
    std::fprintf(stderr, "held_out CALIBRATION KIND HIDDEN HEADS SEQUENCE LAYERS RANKS [VOCABULARY]\n");
    return 2;
  }
  std::ifstream in(argv[1]);
  std::stringstream text;
  text << in.rdbuf();
  const Calibration calibration = parse_calibration(text.str(), argv[1]);
  const std::string kind = argv[2];
  ShortForm form;
  form.kind = kind == "mlp"   ? ShortForm::Kind::mlp
              : kind == "gpt" ? ShortForm::Kind::gpt
                              : ShortForm::Kind::llama;
  form.hidden = std::stoull(argv[3]);
  form.heads = std::stoull(argv[4]);
  form.layers = std::stoull(argv[6]);
  if (argc > 8 && argv[8][0] != 'm') form.vocab = std::stoull(argv[8]);
  CalibrationRequest request;
  request.model = model_of(form);
  request.ranks = static_cast<std::uint32_t>(std::stoul(argv[7]));
  request.layout.sequence = std::stoull(argv[5]);
  request.layout.parallelism.pipeline = request.ranks;
  request.layout.stages = even_stages(request.model, request.ranks);
  request.algorithms = calibration.algorithms;
  if (std::string(argv[argc - 1]) == "messages") {
    message_sizes(request);
    return 0;
  }
  Bench(request.model, request.layout, request.ranks, calibration).run();
  return 0;
}
