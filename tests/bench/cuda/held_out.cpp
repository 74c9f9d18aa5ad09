// Mixes and message sizes that a calibration never saw, predicted from it and measured.
//   held_out CALIBRATION KIND HIDDEN HEADS SEQUENCE LAYERS RANKS [VOCABULARY] [messages]
// KIND (mlp, llama, gpt), sizes and ranks are those of the calibration; at least three layers. What is mixed
// is timed alone and together in turns, so that all of it has one clock, and predicted from what it takes
// alone by the calibration's slowdowns: exits with 1 where such a prediction is off by more than 5 %, or more
// than a tenth of the message sizes by more than 10 %. Beside it stands what the calibration makes of the mix
// without seeing its ops again, at the clock of its own measurement.
#include "calibrate/alternation.hpp"
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
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
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
    sum_up("by the ops alone", by_ops_);
    sum_up("as calibrated", as_calibrated_);
  }

  /// Whether all predictions are within the limit.
  bool good() const {
    return std::all_of(by_ops_.begin(), by_ops_.end(), [](double off) { return std::abs(off) <= limit; });
  }

 private:
  using Launch = std::function<void(const OpLane&)>;
  static constexpr double limit = 0.05;
  static constexpr std::array<WorkKind, 4> kinds{WorkKind::forward, WorkKind::backward_input,
                                                 WorkKind::backward_weight, WorkKind::backward};

  RankLanes& own() { return *ranks_.front(); }
  /// An op of the layer as it was calibrated.
  OpCost op(WorkKind kind) const {
    const StageCost& stage = cost_.stages.at(middle.value);
    return kind == WorkKind::forward           ? stage.forward
           : kind == WorkKind::backward_input  ? stage.backward_input
           : kind == WorkKind::backward_weight ? stage.backward_weight
                                               : stage.backward;
  }
  /// As long, each segment alike.
  static OpCost lasting(OpCost op, Duration whole) {
    const auto ratio = static_cast<double>(whole.ns) / static_cast<double>(total(op).ns);
    for (Segment& segment : op.recipe)
      segment.duration.ns = std::llround(static_cast<double>(segment.duration.ns) * ratio);
    return op;
  }

  /// Two ops of a layer on two streams of one share.
  void layers_together() {
    for (const WorkKind a : kinds) {
      const Launch first = [&, a](const OpLane&) { layer_rigs_[0]->launch(a); };
      for (const WorkKind b : kinds) {
        if (b < a) continue;
        // Alone the second is the first one's rig: an op takes as long in either.
        two(
            "two layers", words(a), words(b), op(a), op(b), first,
            [&, b](const OpLane&) { other_->launch(b); },
            [&, b](const OpLane&) { layer_rigs_[0]->launch(b); });
      }
    }
  }

  /// A layer while copies between ranks go on and on.
  void layers_beside_copies() {
    for (const std::int64_t size : {std::int64_t{4} << 20, std::int64_t{16} << 20}) {
      for (const WorkKind a : kinds) {
        const Timed timed = alone([&, a](const OpLane&) { layer_rigs_[0]->launch(a); });
        const std::array<std::function<Sample()>, 2> turns{
            [&] { return sampler_.once(timed); },
            [&] {
              const Background copying(own().copies, [&, size] {
                device::copy(own().copies, to_.data(), from_.data(), static_cast<std::size_t>(size));
              });
              return sampler_.once(timed);
            }};
        const Alternation rounds = sampled(turns);
        const auto predicted = [&](const OpCost& cost) {
          const OpCost messages{
              {{Lane::communication, total(cost) * 4, cost_.message_class.value(), "messages", false}}, {}};
          return derive_pair(cost, messages, cost_).forward_end;
        };
        const Duration together = rounds.of(1).summary().median;
        const OpCost now = lasting(op(a), over(together, rounds.ratio(1, 0)));
        report("beside copies", words(a), std::to_string(size >> 20) + " MiB", rounds.of(1).summary(),
               predicted(now), predicted(op(a)));
      }
    }
  }

  /// Single parts, once and four times in a row.
  void pieces_together() {
    const bool mlp = model_.architecture == Architecture::mlp;
    const bool gated = model_.ffn_kind == FfnKind::swiglu;
    const char* const up = gated ? "gate_up" : "up";
    const char* const activation = gated ? "swiglu" : "gelu";
    using Name = std::pair<const char*, WorkKind>;
    constexpr WorkKind F = WorkKind::forward, I = WorkKind::backward_input, W = WorkKind::backward_weight;
    const std::vector<std::pair<Name, Name>> mixes =
        mlp ? std::vector<std::pair<Name, Name>>{{{"linear_1", F}, {"gelu", F}},
                                                 {{"linear_2", F}, {"gelu", I}},
                                                 {{"linear_1", W}, {"linear_2", I}}}
            : std::vector<std::pair<Name, Name>>{{{"attention", F}, {activation, F}},
                                                 {{"attention", F}, {"qkv", F}},
                                                 {{"attention", I}, {activation, I}},
                                                 {{"attention", I}, {"down", W}},
                                                 {{"norm_1", F}, {up, F}},
                                                 {{"qkv", W}, {"output", F}},
                                                 {{"attention", F}, {"norm_1", I}},
                                                 {{"attention", F}, {"attention", I}}};
    for (const auto& [a, b] : mixes) {
      const Pieces::Piece& first = piece(*pieces_, a.first, a.second);
      const Pieces::Piece& second = piece(*pieces_beside_, b.first, b.second);
      for (const int times : {1, 4}) {
        const auto repeated = [times](const Launch& launch) {
          return [times, &launch](const OpLane& lane) {
            for (int k = 0; k < times; ++k) launch(lane);
          };
        };
        const auto count = static_cast<std::size_t>(times);
        two(times == 1 ? "two parts" : "two parts x 4", label(first), label(second),
            {std::vector<Segment>(count, segment(first)), {}},
            {std::vector<Segment>(count, segment(second)), {}}, repeated(first.launch),
            repeated(second.launch), repeated(second.launch));
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
  /// As the calibration has it.
  Segment segment(const Pieces::Piece& piece) const {
    for (const Part& part : stage_parts(model_, layout_, middle)) {
      if (part.name != piece.part) continue;
      const auto found = find_duration(calibration_, part_work(part, model_, layout_, piece.kind));
      if (!found) break;
      const std::string_view name = class_of(part.part_class, piece.kind);
      const auto at = std::find(cost_.classes.begin(), cost_.classes.end(), name) - cost_.classes.begin();
      return {Lane::compute, found->duration, WorkClass{static_cast<std::uint32_t>(at)}, part.name, false};
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
  Timed alone(const Launch& a) const {
    return {ranks_.front()->main, begin_, end_, [this, a] {
              const RankLanes& own = *ranks_.front();
              begin_.record(own.main);
              a(own.main_lane);
              end_.record(own.main);
            }};
  }
  Timed both(const Launch& a, const Launch& b) const {
    return {ranks_.front()->main, begin_, end_, [this, a, b] {
              const RankLanes& own = *ranks_.front();
              begin_.record(own.main);
              own.beside.wait(begin_);
              a(own.main_lane);
              b(own.beside_lane);
              join_.record(own.beside);
              own.main.wait(join_);
              end_.record(own.main);
            }};
  }
  Alternation sampled(std::span<const std::function<Sample()>> turns) {
    const auto now = [] {
      return Duration{std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count()};
    };
    Alternation rounds = alternate(turns, {rule_, sampler_.load().settling(), rule_.budget}, now);
    sampler_.load().was_until_now();
    return rounds;
  }
  static Duration over(Duration whole, const Ratio& ratio) {
    return {std::llround(1e6 * static_cast<double>(whole.ns) / static_cast<double>(ratio.ppm))};
  }

  /// The first, the second, and both on two streams, in turns. `second_alone` runs in the main stream.
  void two(const char* what, std::string_view a, std::string_view b, const OpCost& first_cost,
           const OpCost& second_cost, const Launch& first, const Launch& second, const Launch& second_alone) {
    const Timed one = alone(first), other = alone(second_alone), together = both(first, second);
    const std::array<std::function<Sample()>, 3> turns{[&] { return sampler_.once(together); },
                                                       [&] { return sampler_.once(one); },
                                                       [&] { return sampler_.once(other); }};
    const Alternation rounds = sampled(turns);
    const Summary measured = rounds.of(0).summary();
    const OpCost x = lasting(first_cost, over(measured.median, rounds.ratio(0, 1)));
    const OpCost y = lasting(second_cost, over(measured.median, rounds.ratio(0, 2)));
    report(what, a, b, measured, derive_pair(x, y, cost_).duration,
           derive_pair(first_cost, second_cost, cost_).duration);
  }

  void report(const char* what, std::string_view a, std::string_view b, const Summary& measured,
              Duration by_ops, Duration as_calibrated) {
    const auto off = [&](Duration one) {
      return static_cast<double>(one.ns) / static_cast<double>(measured.median.ns) - 1;
    };
    by_ops_.push_back(off(by_ops));
    as_calibrated_.push_back(off(as_calibrated));
    std::printf(
        "%-14s %-24s %-24s measured %9.1f us (n %3u, %4u MHz), predicted by the ops alone %9.1f us %+6.1f %% "
        "%s, as calibrated %9.1f us %+6.1f %%\n",
        what, std::string(a).c_str(), std::string(b).c_str(), static_cast<double>(measured.median.ns) / 1e3,
        measured.samples, measured.sm_clock_mhz, static_cast<double>(by_ops.ns) / 1e3, 100 * off(by_ops),
        std::abs(off(by_ops)) <= limit ? " " : "!", static_cast<double>(as_calibrated.ns) / 1e3,
        100 * off(as_calibrated));
    std::fflush(stdout);
  }

  static void sum_up(const char* what, std::vector<double> off) {
    if (off.empty()) return;
    std::sort(off.begin(), off.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
    const auto within =
        std::count_if(off.begin(), off.end(), [](double one) { return std::abs(one) <= limit; });
    std::printf("%s: %zu mixes, within 5 %%: %td, median |.| %.1f %%, worst %+.1f %%\n", what, off.size(),
                within, 100 * std::abs(off[off.size() / 2]), 100 * off.back());
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
  StoppingRule rule_{0.005, 7, 2000, Duration{200'000'000}};
  std::vector<double> by_ops_, as_calibrated_;  // by mix: predicted / measured - 1
};

struct Message {
  Bytes size;
  const char* of;  // whose it is; nothing: the fit may see it
  SampleSet samples;
  Duration median() const { return samples.summary().median; }
};

/// The sizes of a series; between each two of them one in whole pages; and messages of models, hidden sizes
/// times tokens.
std::vector<Message> messages_around(const TransferSeries& series) {
  std::vector<Message> all;
  const SizedSummary* before = nullptr;
  for (const SizedSummary& point : series.points) {
    all.push_back({point.size, nullptr, {}});
    if (is_ragged(point.size)) continue;
    if (before != nullptr) {
      const double below = static_cast<double>(before->size.count);
      const double above = static_cast<double>(point.size.count);
      const std::int64_t page_size = above > 8192 ? page.count : 512;
      all.push_back(
          {{static_cast<std::int64_t>(std::sqrt(below * above)) / page_size * page_size}, "between", {}});
    }
    before = &point;
  }
  constexpr std::array<std::pair<int, int>, 16> models{{{768, 512},
                                                        {768, 1024},
                                                        {1600, 1024},
                                                        {896, 2048},
                                                        {2560, 1000},
                                                        {2048, 2048},
                                                        {5120, 1024},
                                                        {3584, 2048},
                                                        {5120, 2048},
                                                        {4096, 3000},
                                                        {6656, 2048},
                                                        {7168, 4096},
                                                        {1600, 1333},
                                                        {3584, 1025},
                                                        {5120, 2047},
                                                        {6656, 3001}}};
  for (const auto& [hidden, tokens] : models) {
    const Bytes size{std::int64_t{2} * hidden * tokens};
    all.push_back({size, is_ragged(size) ? "ragged" : "model", {}});
  }
  return all;
}

struct Within {
  int within = 0;
  int all = 0;
  void add(double off) {
    ++all;
    within += std::abs(off) <= 0.1;
  }
};

/// Sizes between those that the calibration has, by fits through what was measured in turns with them, and by
/// the calibration's, which another process measured.
bool message_sizes(const CalibrationRequest& request, const Calibration& calibration) {
  const auto measurer = make_measurer(request);
  std::map<std::string, std::array<Within, 2>> counts;  // by fits of here, of the calibration
  for (const TransferSeries& series : calibration.transfers) {
    if (!series.fit || series.points.size() < 3) continue;
    std::vector<Message> messages = messages_around(series);
    constexpr int rounds = 3;
    for (int round = 0; round < rounds; ++round) {
      for (Message& message : messages) {
        const auto measured = measurer->measure(TransferTarget{series.key, message.size},
                                                {0.01, 5, 2000, Duration{20'000'000}});
        for (const Sample& sample : measured[0].samples) message.samples.add(sample);
      }
    }
    std::vector<SizedDuration> seen;
    for (const Message& message : messages) {
      if (message.of == nullptr) seen.push_back({message.size, message.median()});
    }
    const LinkFit fit = fit_link(seen);
    const std::string kind(words(series.key.kind));
    for (const Message& message : messages) {
      const Duration median = message.median();
      const auto off = [&](const LinkFit& by) {
        return static_cast<double>(duration_at(by, message.size).duration.ns) /
                   static_cast<double>(median.ns) -
               1;
      };
      if (message.of != nullptr) {
        for (const std::string& group : {kind + ", " + message.of, std::string("all")}) {
          counts[group][0].add(off(fit));
          counts[group][1].add(off(*series.fit));
        }
      }
      std::printf(
          "%-10s %-8s %9lld B measured %9.2f us (n %3zu), fit of here %+6.1f %%, calibration's %+6.1f %%\n",
          kind.c_str(), message.of == nullptr ? "fitted" : message.of,
          static_cast<long long>(message.size.count), static_cast<double>(median.ns) / 1e3,
          message.samples.samples().size(), 100 * off(fit), 100 * off(*series.fit));
    }
    std::fflush(stdout);
  }
  for (const auto& [group, both] : counts) {
    std::printf("%s: within 10 %%: by fits of here %d of %d, by the calibration's %d of %d\n", group.c_str(),
                both[0].within, both[0].all, both[1].within, both[1].all);
  }
  const Within& all = counts["all"][0];
  return all.within * 10 >= all.all * 9;
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
    form.sequence = std::stoull(argv[5]);
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
