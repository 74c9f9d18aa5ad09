// Mixes and message sizes that a calibration never saw, predicted from it and measured.
//   held_out CALIBRATION KIND HIDDEN HEADS SEQUENCE LAYERS RANKS [VOCABULARY] [messages]
// KIND (mlp, llama, gpt), sizes and ranks are those of the calibration; at least three layers. Exits with 1
// where a mix is off by more than 5 %, or more than a tenth of the message sizes by more than 10 %. What is
// alone (-) is in the calibration and only shows what has changed since.
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
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"
#include "sim/estimate.hpp"
#include "sim/overlap.hpp"

#include <algorithm>
#include <array>
#include <cmath>
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

const DeviceDescription& device_of(const Calibration& calibration) {
  const DeviceDescription* device = measured_device(calibration);
  if (device == nullptr) throw BadInput(calibration.provenance.gpu, "there is no data sheet of this GPU");
  return *device;
}

class Bench {
 public:
  Bench(const ModelShape& model, const Layout& layout, std::uint32_t ranks, const Calibration& calibration)
      : model_(model),
        layout_(layout),
        calibration_(calibration),
        cost_(estimate(calibration, device_of(calibration), model, layout)),
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
    layers_together();
    layers_beside_copies();
    pieces_together();
    busy_.clear();
  }

  /// Whether all predictions are within the limit.
  bool good() const { return worst_ <= limit; }

 private:
  using Launch = std::function<void(const OpLane&)>;
  static constexpr double limit = 0.05;
  static constexpr std::array<WorkKind, 4> kinds{WorkKind::forward, WorkKind::backward_input,
                                                 WorkKind::backward_weight, WorkKind::backward};

  RankLanes& own() { return *ranks_.front(); }
  /// An op of the layer as it was calibrated, or (with a clock) as long as it lasts at that one: matrix units
  /// follow the multiprocessors' clock, memory does not.
  OpCost op(WorkKind kind, std::uint32_t clock_mhz) const {
    const StageCost& stage = cost_.stages.at(middle.value);
    OpCost cost = kind == WorkKind::forward           ? stage.forward
                  : kind == WorkKind::backward_input  ? stage.backward_input
                  : kind == WorkKind::backward_weight ? stage.backward_weight
                                                      : stage.backward;
    for (Segment& segment : cost.recipe)
      segment = at_clock(segment, clock_of(stage_work(model_, layout_, middle, kind)), clock_mhz);
    return cost;
  }
  Segment at_clock(Segment segment, std::uint32_t from_mhz, std::uint32_t to_mhz) const {
    if (from_mhz != 0 && to_mhz != 0 && cost_.classes.at(segment.work_class.value) != "memory")
      segment.duration.ns = segment.duration.ns * from_mhz / to_mhz;
    return segment;
  }
  /// At which the work was calibrated; 0: not known.
  std::uint32_t clock_of(const WorkKey& work) const {
    for (const TimedWork& one : calibration_.work) {
      if (one.work == work && one.setting == main_setting(calibration_)) return one.time.sm_clock_mhz;
    }
    return 0;
  }

  /// Two ops of a layer on two streams of one share.
  void layers_together() {
    for (const WorkKind a : kinds) {
      const auto first = [&, a](const OpLane&) { layer_rigs_[0]->launch(a); };
      report(
          "layer alone", words(a), "", [&](auto clock) { return total(op(a, clock)); }, time_alone(first),
          false);
      for (const WorkKind b : kinds) {
        if (b < a) continue;
        report(
            "two layers", words(a), words(b),
            [&](auto clock) { return derive_pair(op(a, clock), op(b, clock), cost_).duration; },
            time_both(first, [&, b](const OpLane&) { other_->launch(b); }));
      }
    }
  }

  /// A layer while copies between ranks go on and on.
  void layers_beside_copies() {
    for (const std::int64_t size : {std::int64_t{4} << 20, std::int64_t{16} << 20}) {
      const Background copying(own().copies, [&, size] {
        device::copy(own().copies, to_.data(), from_.data(), static_cast<std::size_t>(size));
      });
      for (const WorkKind a : kinds) {
        const OpCost messages{
            {{Lane::communication, total(op(a, 0)) * 4, cost_.message_class.value(), "messages", false}}, {}};
        report(
            "beside copies", words(a), std::to_string(size >> 20) + " MiB",
            [&](auto clock) { return derive_pair(op(a, clock), messages, cost_).forward_end; },
            time_alone([&, a](const OpLane&) { layer_rigs_[0]->launch(a); }));
      }
    }
  }

  /// Single parts, once and three times in a row.
  void pieces_together() {
    const bool mlp = model_.architecture == Architecture::mlp;
    using Name = std::pair<const char*, WorkKind>;
    constexpr WorkKind F = WorkKind::forward, I = WorkKind::backward_input, W = WorkKind::backward_weight;
    const std::vector<std::pair<Name, Name>> mixes =
        mlp ? std::vector<std::pair<Name, Name>>{{{"linear_1", F}, {"gelu", F}},
                                                 {{"linear_2", F}, {"gelu", I}},
                                                 {{"linear_1", W}, {"linear_2", I}}}
            : std::vector<std::pair<Name, Name>>{
                  {{"attention", F}, {"swiglu", F}}, {{"attention", F}, {"qkv", F}},
                  {{"attention", I}, {"swiglu", I}}, {{"attention", I}, {"down", W}},
                  {{"norm_1", F}, {"gate_up", F}},   {{"qkv", W}, {"output", F}},
                  {{"attention", F}, {"norm_1", I}}, {{"attention", F}, {"attention", I}}};
    for (const auto& [a, b] : mixes) {
      const Pieces::Piece& first = piece(*pieces_, a.first, a.second);
      const Pieces::Piece& second = piece(*pieces_beside_, b.first, b.second);
      for (const Pieces::Piece* piece : {&first, &second}) {
        report(
            "part alone", label(*piece), "", [&](auto clock) { return segment(*piece, clock).duration; },
            time_alone(piece->launch), false);
      }
      for (const int times : {1, 4}) {
        const auto repeated = [times](const Launch& launch) {
          return [times, &launch](const OpLane& lane) {
            for (int k = 0; k < times; ++k) launch(lane);
          };
        };
        const std::size_t count = static_cast<std::size_t>(times);
        report(
            times == 1 ? "two parts" : "two parts x 4", label(first), label(second),
            [&](auto clock) {
              const OpCost x{std::vector<Segment>(count, segment(first, clock)), {}};
              const OpCost y{std::vector<Segment>(count, segment(second, clock)), {}};
              return derive_pair(x, y, cost_).duration;
            },
            time_both(repeated(first.launch), repeated(second.launch)));
      }
    }
  }

  static const Pieces::Piece& piece(const Pieces& pieces, const std::string& part, WorkKind kind) {
    for (const Pieces::Piece& one : pieces.all()) {
      if (one.part == part && one.kind == kind) return one;
    }
    throw BadInput(part, "there is no such piece");
  }
  static std::string label(const Pieces::Piece& piece) {
    return piece.part + " " + std::string(words(piece.kind));
  }
  /// As the calibration has it, or as long as it lasts at a clock.
  Segment segment(const Pieces::Piece& piece, std::uint32_t clock_mhz) const {
    for (const Part& part : stage_parts(model_, layout_, middle)) {
      if (part.name != piece.part) continue;
      const WorkKey work = part_work(part, model_, layout_, piece.kind);
      const auto found = find_duration(calibration_, work);
      if (!found) break;
      const std::string name = part.part_class == PartClass::gemm        ? "gemm"
                               : part.part_class == PartClass::attention ? "attention"
                                                                         : "memory";
      const auto at = std::find(cost_.classes.begin(), cost_.classes.end(), name) - cost_.classes.begin();
      return at_clock(
          {Lane::compute, found->duration, WorkClass{static_cast<std::uint32_t>(at)}, part.name, false},
          clock_of(work), clock_mhz);
    }
    throw BadInput(piece.part, "the calibration does not hold it");
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

  /// `predicted(clock)` is what lasts so long at that clock, or (0) at that of the calibration. Under its
  /// power limit the card's clock swings by some percent from figure to figure, which no mix can be blamed
  /// for: what counts is the prediction at the clock of the measurement.
  template <class Predicted>
  void report(const char* what, std::string_view a, std::string_view b, const Predicted& predicted,
              const Sampled& sampled, bool counts = true) {
    const Summary s = sampled.set.summary();
    const auto off = [&](Duration one) {
      return static_cast<double>(one.ns) / static_cast<double>(s.median.ns) - 1;
    };
    const Duration as_calibrated = predicted(0U);
    const Duration at_this_clock = predicted(s.sm_clock_mhz);
    if (counts) worst_ = std::max(worst_, std::abs(off(at_this_clock)));
    std::printf(
        "%-14s %-24s %-24s measured %9.1f us at %4u MHz, predicted %9.1f us %+6.1f %%, at that clock %9.1f "
        "us "
        "%+6.1f %% %s\n",
        what, std::string(a).c_str(), std::string(b).c_str(), static_cast<double>(s.median.ns) / 1e3,
        s.sm_clock_mhz, static_cast<double>(as_calibrated.ns) / 1e3, 100 * off(as_calibrated),
        static_cast<double>(at_this_clock.ns) / 1e3, 100 * off(at_this_clock),
        !counts                                 ? "-"
        : std::abs(off(at_this_clock)) <= limit ? " "
                                                : "!");
    std::fflush(stdout);
  }

  static constexpr Stage middle{1};  // neither first nor last
  const ModelShape& model_;
  const Layout& layout_;
  const Calibration& calibration_;
  CostModel cost_;
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
  StoppingRule rule_{0.005, 11, 2000, Duration{60'000'000}};
  double worst_ = 0;
};

/// Sizes between those that the calibration has, by its fits.
bool message_sizes(const CalibrationRequest& request, const Calibration& calibration) {
  const auto measurer = make_measurer(request);
  int within = 0;
  int all = 0;
  for (const TransferSeries& series : calibration.transfers) {
    for (std::size_t k = 1; series.fit && k < series.points.size(); ++k) {
      // The geometric mean of two neighbours, of whole pages as messages of models are: the rest of a page
      // costs a copy of more than 4 MiB 2 us.
      const double below = static_cast<double>(series.points[k - 1].size.count);
      const double above = static_cast<double>(series.points[k].size.count);
      const std::int64_t page = above > 8192 ? 4096 : 512;
      const Bytes size{static_cast<std::int64_t>(std::sqrt(below * above)) / page * page};
      const auto measured =
          measurer->measure(TransferTarget{series.key, size}, {0.01, 11, 2000, Duration{60'000'000}});
      const Duration median = std::get<Transfer>(measured[0].figures).point.time.median;
      const Duration fitted = duration_at(*series.fit, size).duration;
      const double off = static_cast<double>(fitted.ns) / static_cast<double>(median.ns) - 1;
      ++all;
      within += std::abs(off) <= 0.1;
      std::printf("%-10s %9lld B fitted %9.2f us measured %9.2f us %+6.1f %%\n",
                  std::string(words(series.key.kind)).c_str(), static_cast<long long>(size.count),
                  static_cast<double>(fitted.ns) / 1e3, static_cast<double>(median.ns) / 1e3, 100 * off);
    }
    std::fflush(stdout);
  }
  std::printf("held-out sizes: %d of %d within 10 %%\n", within, all);
  return within * 10 >= all * 9;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) {
    std::fprintf(stderr,
                 "held_out CALIBRATION KIND HIDDEN HEADS SEQUENCE LAYERS RANKS [VOCABULARY] [messages]\n");
    return 2;
  }
  const bool messages = std::string(argv[argc - 1]) == "messages";
  std::ifstream in(argv[1]);
  std::stringstream text;
  text << in.rdbuf();
  try {
    const Calibration calibration = parse_calibration(text.str(), argv[1]);
    const std::string kind = argv[2];
    ShortForm form;
    form.kind = kind == "mlp"   ? ShortForm::Kind::mlp
                : kind == "gpt" ? ShortForm::Kind::gpt
                                : ShortForm::Kind::llama;
    form.hidden = std::stoull(argv[3]);
    form.heads = std::stoull(argv[4]);
    form.layers = std::stoull(argv[6]);
    if (argc > 8 && std::string(argv[8]) != "messages") form.vocab = std::stoull(argv[8]);
    CalibrationRequest request;
    request.model = model_of(form);
    request.ranks = static_cast<std::uint32_t>(std::stoul(argv[7]));
    request.layout.sequence = std::stoull(argv[5]);
    // A layer a stage, whatever the ranks: the one that is looked at stands in the middle.
    request.layout.parallelism.pipeline = static_cast<std::uint32_t>(form.layers);
    request.layout.stages = even_stages(request.model, request.layout.parallelism.pipeline);
    request.algorithms = calibration.algorithms;
    if (messages) {
      request.layout.parallelism.pipeline = request.ranks;
      request.layout.stages = even_stages(request.model, request.ranks);
      return message_sizes(request, calibration) ? 0 : 1;
    }
    Bench bench(request.model, request.layout, request.ranks, calibration);
    bench.run();
    return bench.good() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "held_out: %s\n", error.what());
    return 3;
  }
}
