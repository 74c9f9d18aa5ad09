// Mixes and message sizes that a calibration never saw, predicted from it and measured.
//   held_out CALIBRATION KIND HIDDEN HEADS SEQUENCE LAYERS RANKS [VOCABULARY] [WHAT]
// KIND (mlp, llama, gpt), sizes and ranks are those of the calibration; at least three layers. WHAT:
//   draw=SEED  the mixes that are always the same, then some drawn by chance: one to three parts a stream
//   messages   sizes instead of mixes
//   pairs      every part beside every other, without a verdict: what a model of mixes is made from
//   hops       hops of some sizes, of a measurer made twice: is it the process, or are it the streams?
//   placement  hops by which of many streams takes part in them
// What is mixed
// is timed alone and together in turns, so that all of it has one clock, and predicted from what it takes
// alone by the calibration's slowdowns: exits with 1 where such a prediction is off by more than 5 %, or more
// than a tenth of the message sizes by more than 10 %. Beside it stands what the calibration makes of the mix
// without seeing its ops again, at the clock of its own measurement.
#include "calibrate/alternation.hpp"
#include "calibrate/calibration.hpp"
#include "calibrate/lookup.hpp"
#include "calibrate/measure/background.hpp"
#include "calibrate/measure/part_work.hpp"
#include "calibrate/measure/rank_messages.hpp"
#include "calibrate/measure/sampler.hpp"
#include "calibrate/measure/stage_rig.hpp"
#include "calibrate/measurer.hpp"
#include "calibrate/work.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/green_context.hpp"
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
#include <random>
#include <sstream>
#include <string>
#include <vector>

using namespace plumb;
using namespace plumb::measure;
using OpLane = layers::Lane;

namespace {

/// One rank: streams for its ops and for copies.
struct RankLanes {
  device::Stream main, beside, copies;
  OpLane main_lane, beside_lane;
  RankLanes(device::Stream a, device::Stream b, std::uint32_t sms)
      : main(std::move(a)), beside(std::move(b)), main_lane(main, sms), beside_lane(beside, sms) {}
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

  void run(std::optional<std::uint32_t> seed) {
    busy_ranks();
    layers_together();
    layers_beside_copies();
    pieces_together();
    if (seed) drawn_together(*seed);
    busy_.clear();
    sum_up("by the ops alone", by_ops_);
    sum_up("as calibrated", as_calibrated_);
  }

  /// Every part beside every other: `pair,FIRST,SECOND` and in microseconds how long both, the first alone
  /// and the second alone take; how often they were sampled; and the clock.
  void all_pairs() {
    rule_ = {0.004, 7, 2000, Duration{50'000'000}};
    busy_ranks();
    const auto us = [](const Summary& summary) { return static_cast<double>(summary.median.ns) / 1e3; };
    for (std::size_t i = 0; i < pieces_->all().size(); ++i) {
      for (std::size_t j = i; j < pieces_->all().size(); ++j) {
        const PartPiece& first = pieces_->all()[i];
        const PartPiece& second = pieces_beside_->all()[j];
        const Alternation rounds = alone_and_together(first.launch, second.launch, second.launch);
        const Summary together = rounds.of(0).summary();
        std::printf("pair,%s,%s,%.2f,%.2f,%.2f,%zu,%u\n", label(first).c_str(), label(second).c_str(),
                    us(together), static_cast<double>(over(together.median, rounds.ratio(0, 1)).ns) / 1e3,
                    static_cast<double>(over(together.median, rounds.ratio(0, 2)).ns) / 1e3, rounds.size(),
                    together.sm_clock_mhz);
      }
      std::fflush(stdout);
    }
    busy_.clear();
  }

  /// Hops of 1 KiB by which streams take part: `placement,ROLE,STREAM,MEDIAN,LOWER QUARTILE,UPPER QUARTILE`
  /// in nanoseconds, one of many streams that are otherwise idle in each role.
  void placement() {
    PLUMB_CHECK(ranks_.size() > 2);
    std::vector<std::unique_ptr<RankMessages>> messages;
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      messages.push_back(std::make_unique<RankMessages>(
          Bytes{static_cast<std::int64_t>(2 * layout_.tokens() * model_.hidden)}));
    for (std::size_t r = 2; r < ranks_.size(); ++r) {
      StageRig& rig = *layer_rigs_[r];
      RankMessages& sent = *messages[r];
      const device::Stream& main = ranks_[r]->main;
      busy_.push_back(std::make_unique<Background>(main, [&rig, &sent, &main] {
        rig.launch(WorkKind::forward);
        sent.send_behind(main);
        rig.launch(WorkKind::backward);
        sent.send_behind(main);
      }));
    }
    device::Event arrived;
    std::vector<device::Stream> copies, senders, receivers;
    for (int k = 0; k < 40; ++k) copies.emplace_back();
    for (int k = 0; k < 8; ++k) {
      senders.push_back(shares_[0].stream());
      receivers.push_back(shares_[1].stream());
    }
    const auto hop = [&](const char* role, std::size_t which, const device::Stream& from,
                         const device::Stream& over, const device::Stream& to) {
      const OpLane from_lane(from, shares_[0].multiprocessors()), to_lane(to, shares_[1].multiprocessors());
      const PartPiece& producer = pieces_->product();
      const PartPiece& consumer = pieces_beside_->product();
      const SampleSet samples = sampler_.sample({from, begin_, end_,
                                                 [&] {
                                                   for (int k = 0; k < 4; ++k) producer.launch(from_lane);
                                                   begin_.record(from);
                                                   over.wait(begin_);
                                                   device::copy(over, to_.data(), from_.data(), 1024);
                                                   arrived.record(over);
                                                   to.wait(arrived);
                                                   end_.record(to);
                                                   consumer.launch(to_lane);
                                                   producer.launch(from_lane);
                                                 }},
                                                WarmUp::a_few_runs, {0.001, 40, 60, Duration{60'000'000}});
      const Summary s = samples.summary();
      std::printf("placement,%s,%zu,%lld,%lld,%lld\n", role, which, static_cast<long long>(s.median.ns),
                  static_cast<long long>(s.lower_quartile.ns), static_cast<long long>(s.upper_quartile.ns));
    };
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t k = 0; k < copies.size(); ++k)
        hop("copies", k, ranks_[0]->main, copies[k], ranks_[1]->main);
      for (std::size_t k = 0; k < senders.size(); ++k)
        hop("sender", k, senders[k], ranks_[0]->copies, ranks_[1]->main);
      for (std::size_t k = 0; k < receivers.size(); ++k)
        hop("receiver", k, ranks_[0]->main, ranks_[0]->copies, receivers[k]);
      std::fflush(stdout);
    }
    busy_.clear();
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
      const PartPiece& first = piece(*pieces_, a.first, a.second);
      const PartPiece& second = piece(*pieces_beside_, b.first, b.second);
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

  /// On each stream one to three parts in a row, drawn by chance.
  void drawn_together(std::uint32_t seed) {
    constexpr int mixes = 24;
    std::mt19937 random(seed);
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    for (int k = 0; k < mixes; ++k) {
      struct Drawn {
        std::string name;
        OpCost cost;
        std::vector<const PartPiece*> pieces;
      };
      const auto draw = [&](const PartWork& from) {
        Drawn drawn;
        for (std::size_t left = 1 + below(3); left > 0; --left) {
          const PartPiece& piece = from.all()[below(from.all().size())];
          drawn.name += (drawn.name.empty() ? "" : " + ") + label(piece);
          drawn.cost.recipe.push_back(segment(piece));
          drawn.pieces.push_back(&piece);
        }
        return drawn;
      };
      const Drawn first = draw(*pieces_), second = draw(*pieces_beside_);
      const auto launching = [](const Drawn& drawn) {
        return [&drawn](const OpLane& lane) {
          for (const PartPiece* piece : drawn.pieces) piece->launch(lane);
        };
      };
      two("drawn", first.name, second.name, first.cost, second.cost, launching(first), launching(second),
          launching(second));
    }
  }

  static const PartPiece& piece(const PartWork& pieces, const std::string& part, WorkKind kind) {
    if (const PartPiece* found = pieces.find(part, kind)) return *found;
    throw BadInput(part, "there is no such piece");
  }
  static std::string label(const PartPiece& piece) {
    return piece.part + " " + std::string(words(piece.kind));
  }
  /// As the calibration has it.
  Segment segment(const PartPiece& piece) const {
    for (const Part& part : stage_parts(model_, layout_, middle)) {
      if (part.name != piece.part) continue;
      const auto found = find_duration(calibration_, part_work(part, model_, layout_, piece.kind));
      if (!found) break;
      const std::string_view name = class_of(part.part_class, piece.kind);
      const auto at = std::find(cost_.classes.begin(), cost_.classes.end(), name) - cost_.classes.begin();
      return {Lane::compute, found->duration, WorkClass{static_cast<std::uint32_t>(at)},
              part.name,     false,           found->tail_ppm};
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

  /// In turns both on two streams, the first alone, the second alone.
  Alternation alone_and_together(const Launch& first, const Launch& second, const Launch& second_alone) {
    const Timed one = alone(first), other = alone(second_alone), together = both(first, second);
    const std::array<std::function<Sample()>, 3> turns{[&] { return sampler_.once(together); },
                                                       [&] { return sampler_.once(one); },
                                                       [&] { return sampler_.once(other); }};
    return sampled(turns);
  }

  /// What it takes, by what its ops take alone and by the calibration. `second_alone` runs in the main
  /// stream.
  void two(const char* what, std::string_view a, std::string_view b, const OpCost& first_cost,
           const OpCost& second_cost, const Launch& first, const Launch& second, const Launch& second_alone) {
    const Alternation rounds = alone_and_together(first, second, second_alone);
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
  std::optional<PartWork> pieces_, pieces_beside_;
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

/// Samples of hops, `hop,TIME,BYTES,NANOSECONDS…`, of a measurer that is made anew each time.
void hops(const CalibrationRequest& request) {
  for (int time = 0; time < 2; ++time) {
    const auto measurer = make_measurer(request);
    const TransferKey key{TransferKind::hop, "local", "", {0, 1}, 1, measurer->setting()};
    for (const std::int64_t size : {1 << 10, 1 << 16, 1 << 20, 1 << 22, 1 << 24}) {
      const auto measured =
          measurer->measure(TransferTarget{key, {size}}, {0.001, 30, 2000, Duration{100'000'000}});
      std::printf("hop,%d,%lld", time, static_cast<long long>(size));
      for (const Sample& sample : measured[0].samples)
        std::printf(",%lld", static_cast<long long>(sample.duration.ns));
      std::printf("\n");
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) {
    std::fprintf(stderr,
                 "held_out CALIBRATION KIND HIDDEN HEADS SEQUENCE LAYERS RANKS [VOCABULARY] [WHAT]\n");
    return 2;
  }
  const auto is_number = [](const char* word) { return *word >= '0' && *word <= '9'; };
  const std::string what = is_number(argv[argc - 1]) ? "" : argv[argc - 1];
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
    if (argc > 8 && is_number(argv[8])) form.vocab = std::stoull(argv[8]);
    CalibrationRequest request;
    request.model = model_of(form);
    request.ranks = static_cast<std::uint32_t>(std::stoul(argv[7]));
    request.layout.sequence = std::stoull(argv[5]);
    // A layer a stage, whatever the ranks: the one that is looked at stands in the middle.
    request.layout.parallelism.pipeline = static_cast<std::uint32_t>(form.layers);
    request.layout.stages = even_stages(request.model, request.layout.parallelism.pipeline);
    request.algorithms = calibration.algorithms;
    if (what == "messages" || what == "hops") {
      request.layout.parallelism.pipeline = request.ranks;
      request.layout.stages = even_stages(request.model, request.ranks);
      if (what == "messages") return message_sizes(request, calibration) ? 0 : 1;
      hops(request);
      return 0;
    }
    Bench bench(request.model, request.layout, request.ranks, calibration);
    if (what == "placement") {
      bench.placement();
      return 0;
    }
    if (what == "pairs") {
      bench.all_pairs();
      return 0;
    }
    std::optional<std::uint32_t> seed;
    if (what.starts_with("draw=")) seed = static_cast<std::uint32_t>(std::stoul(what.substr(5)));
    bench.run(seed);
    return bench.good() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "held_out: %s\n", error.what());
    return 3;
  }
}
