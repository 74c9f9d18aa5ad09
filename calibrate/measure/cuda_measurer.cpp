// Measures on one GPU: whole, or cut into shares that stand for ranks, all in this process.
#include "calibrate/measure/background.hpp"
#include "calibrate/measure/class_work.hpp"
#include "calibrate/measure/part_timer.hpp"
#include "calibrate/measure/sampler.hpp"
#include "calibrate/measure/stage_rig.hpp"
#include "calibrate/measurer.hpp"
#include "calibrate/work.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/green_context.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace plumb {
namespace {

using measure::Background;
using measure::ClassWork;
using measure::PartTimer;
using measure::Sampled;
using measure::StageRig;
using measure::WarmUp;

constexpr Bytes largest_message{64 << 20};
constexpr std::size_t most_at_once = 4;

/// A rank's streams: two for its ops, one for what it sends. Copies run in an ordinary stream of the primary
/// context, where they do not queue behind the ops' waves of blocks.
struct RankStreams {
  device::Stream main, beside, copies;
  layers::Lane main_lane, beside_lane, copy_lane;
  RankStreams(device::Stream a, device::Stream b, std::uint32_t multiprocessors)
      : main(std::move(a)),
        beside(std::move(b)),
        main_lane(main, multiprocessors),
        beside_lane(beside, multiprocessors),
        copy_lane(copies, multiprocessors) {}
};

/// A layer of the model alone: neither first nor last, so that it has messages on both sides.
Layout layout_of_one_layer(const ModelShape& model, const Layout& layout, std::uint64_t layer) {
  Layout alone = layout;
  alone.stages = {{layer, 1, 0, false, false, Recompute::none}};
  // An mlp's first layer computes no gradient of its input; this one, not being called the first, does.
  PLUMB_CHECK(layer < model.layers);
  return alone;
}

class LocalMeasurer final : public Measurer {
 public:
  explicit LocalMeasurer(const CalibrationRequest& request)
      : request_(request),
        info_(device::device_info()),
        algorithms_(layers::ProductAlgorithms::from_text(request.algorithms)) {
    if (request.layout.stages.empty()) throw BadInput("calibrate", "the layout has no stages");
    if (request.ranks > 1) shares_ = device::partition(request.ranks);
    setting_.share = request.ranks > 1 ? Share::partition : Share::whole_gpu;
    setting_.sms = request.ranks > 1 ? shares_[0].multiprocessors() : 0;
    setting_.of = request.ranks;
    setting_.others_busy = request.ranks > 1;
    for (std::uint32_t r = 0; r < request.ranks; ++r) {
      if (request.ranks == 1) {
        ranks_.push_back(
            std::make_unique<RankStreams>(device::Stream(), device::Stream(), info_.multiprocessors));
      } else {
        ranks_.push_back(
            std::make_unique<RankStreams>(shares_[r].stream(), shares_[r].stream(), setting_.sms));
      }
    }
    // Rank 0 is measured: it has every kind of stage. The others keep busy with a layer.
    const ModelShape& model = request.model;
    RankStreams& own = *ranks_.front();
    for (std::uint32_t s = 0; s < request.layout.stages.size(); ++s) {
      const WorkKey key = stage_work(model, request.layout, Stage{s}, WorkKind::forward);
      if (!rigs_.contains(key)) rigs_.emplace(key, make_rig(request.layout, Stage{s}, own));
    }
    const Layout one = layout_of_one_layer(model, request.layout, 0);
    rigs_.emplace(layer_work(model, request.layout, 0, WorkKind::forward), make_rig(one, Stage{0}, own));
    find_parts();
    for (const auto& rank : ranks_) layer_rigs_.push_back(make_rig(one, Stage{0}, *rank));
    class_work_.emplace(model, request.layout, algorithms_, own.main_lane);
    class_work_beside_.emplace(model, request.layout, algorithms_, own.main_lane);
    for (auto* block : {&sent_, &received_}) *block = device::Buffer(largest_message * most_at_once);
    for (std::size_t i = 0; i < most_at_once; ++i) copy_streams_.emplace_back();
    device::synchronize();
  }

  Provenance provenance() const override {
    Provenance p;
    p.gpu = info_.name;
    p.gpus = 1;
    p.sms = info_.multiprocessors;
    p.gpu_memory = info_.memory;
    p.driver = info_.driver;
    p.cuda = info_.cuda_runtime;
    p.nccl_header = info_.nccl_built_with;
    p.nccl_library = info_.nccl;
    p.cudnn = info_.cudnn;
    p.cublas = info_.cublas;
    p.most_sm_clock_mhz = sampler_.clock().most_mhz();
    p.memory_clock_mhz = sampler_.clock().memory_mhz();
    return p;
  }

  // By these a run does what was measured.
  std::map<std::string, std::string> algorithms() const override { return algorithms_.to_text(); }

  Setting setting() const override { return setting_; }

  std::vector<std::vector<std::uint32_t>> message_pairs() const override {
    if (request_.ranks == 1) return {};
    return {{0, 1}};  // one GPU: all pairs are alike
  }

  bool can_measure(const Target& target) const override {
    if (const auto* work = std::get_if<WorkTarget>(&target))
      return rigs_.contains(as_forward(work->work)) || parts_.contains(work->work);
    if (const auto* memory = std::get_if<MemoryTarget>(&target))
      return rigs_.contains(as_forward(memory->work));
    if (const auto* transfer = std::get_if<TransferTarget>(&target)) {
      const TransferKind kind = transfer->key.kind;
      const bool message = kind == TransferKind::hop || kind == TransferKind::one_way ||
                           kind == TransferKind::both_ways || kind == TransferKind::at_once;
      return message && transfer->key.at_once <= most_at_once && transfer->size <= largest_message;
    }
    // A copy between ranks of one GPU takes no multiprocessors away from anybody.
    const SlowdownKey& key = std::get<SlowdownTarget>(target).key;
    return key.communication_sms == 0 && class_work_->has(key.work_class) && class_work_->has(key.beside);
  }

  std::vector<Measurement> measure(const Target& target, const StoppingRule& rule) override {
    return {std::visit([&](const auto& one) { return measure_one(one, rule); }, target)};
  }

 private:
  static WorkKey as_forward(WorkKey key) {
    key.kind = WorkKind::forward;
    // Only a whole backward's key tells whether it recomputes; nothing here does.
    key.shape.erase("recompute");
    return key;
  }

  std::unique_ptr<StageRig> make_rig(const Layout& layout, Stage stage, RankStreams& rank) {
    return std::make_unique<StageRig>(request_.model, layout, stage, algorithms_, rank.main_lane,
                                      rank.beside_lane);
  }

  /// The ranks from `first` on compute forwards and backwards of a layer until this is destroyed.
  std::vector<Background> busy_ranks(std::size_t first) {
    std::vector<Background> busy;
    for (std::size_t r = first; r < ranks_.size(); ++r) {
      StageRig& rig = *layer_rigs_[r];
      busy.emplace_back(ranks_[r]->main, [&rig] {
        rig.launch(WorkKind::forward);
        rig.launch(WorkKind::backward);
      });
    }
    return busy;
  }

  // Where a part's work is met: in which op of which rig.
  struct Place {
    StageRig* rig = nullptr;
    Part part;
  };

  /// Parts of layers are timed in a layer, others in the stage that has them.
  void find_parts() {
    const ModelShape& model = request_.model;
    const Layout& layout = request_.layout;
    for (std::uint32_t s = 0; s < layout.stages.size(); ++s) {
      StageRig& stage = *rigs_.at(stage_work(model, layout, Stage{s}, WorkKind::forward));
      for (const PartGroup& group : stage_groups(model, layout, Stage{s})) {
        StageRig& rig =
            group.name == "layer" ? *rigs_.at(layer_work(model, layout, 0, WorkKind::forward)) : stage;
        for (const Part& part : group.parts) {
          for (const WorkKind kind : {WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight})
            parts_.emplace(part_work(part, model, layout, kind), Place{&rig, part});
        }
      }
    }
  }

  /// All parts of the op that this one is met in are timed at once; those that nobody asked for yet wait for
  /// it.
  Measurement measure_part(const WorkTarget& target, const StoppingRule& rule) {
    if (!timed_parts_.contains(target)) time_parts(*parts_.at(target.work).rig, target, rule);
    return std::move(timed_parts_.extract(target).mapped());
  }

  void time_parts(StageRig& rig, const WorkTarget& target, const StoppingRule& rule) {
    RankStreams& own = *ranks_.front();
    const WorkKind kind = target.work.kind;
    const auto busy = busy_ranks(target.setting.others_busy ? 1 : ranks_.size());
    PartTimer timer(own.main_lane, own.main);
    sampler_.sample({own.main, begin_, end_,
                     [&] {
                       begin_.record(own.main);
                       timer.begin();
                       rig.launch(kind);
                       end_.record(own.main);
                     },
                     [&](const Sample& sample) { timer.take(sample.sm_clock_mhz); }},
                    WarmUp::until_the_clock_settles, rule);
    for (const auto& [key, place] : parts_) {
      if (place.rig != &rig || key.kind != kind) continue;
      TimedWork work;
      work.work = key;
      work.setting = target.setting;
      work.work_class = place.part.part_class == PartClass::gemm        ? "gemm"
                        : place.part.part_class == PartClass::attention ? "attention"
                                                                        : "memory";
      // A residual sum is in the product before it: it takes nothing more.
      std::vector<Sample> samples{Sample{}};
      if (const SampleSet* timed = timer.samples(place.part.name)) samples = timed->samples();
      work.time = summary_of(samples);
      timed_parts_.insert_or_assign(WorkTarget{key, target.setting}, Measurement{work, std::move(samples)});
    }
  }

  Measurement measure_one(const WorkTarget& target, const StoppingRule& rule) {
    if (!rigs_.contains(as_forward(target.work))) return measure_part(target, rule);
    StageRig& rig = *rigs_.at(as_forward(target.work));
    const auto busy = busy_ranks(target.setting.others_busy ? 1 : ranks_.size());
    const Sampled sampled = time_main([&] { rig.launch(target.work.kind); }, rule);
    TimedWork work;
    work.work = target.work;
    work.setting = target.setting;
    work.work_class = target.work.kind == WorkKind::optimizer ? "memory" : "gemm";
    work.time = sampled.set.summary();
    work.host_launch = sampled.host_launch;
    return {work, sampled.set.samples()};
  }

  /// `launch` queues into rank 0's main stream.
  template <class Launch>
  Sampled time_main(Launch launch, const StoppingRule& rule) {
    const device::Stream& stream = ranks_.front()->main;
    return sampler_.sample({stream, begin_, end_,
                            [&] {
                              begin_.record(stream);
                              launch();
                              end_.record(stream);
                            }},
                           WarmUp::until_the_clock_settles, rule);
  }

  Measurement measure_one(const TransferTarget& target, const StoppingRule& rule) {
    const Sampled sampled =
        target.key.kind == TransferKind::hop
            ? time_hop(target.size, rule)
            : time_copies(target.key.kind == TransferKind::both_ways ? 2 : target.key.at_once, target.size,
                          rule);
    TransferKey key = target.key;
    return {Transfer{key, {target.size, sampled.set.summary()}}, sampled.set.samples()};
  }

  std::byte* message(const device::Buffer& buffer, std::size_t which) const {
    return buffer.as<std::byte>() + which * static_cast<std::size_t>(largest_message.count);
  }

  /// From the end of rank 0's op to the begin of rank 1's, which waits for the message; both have other work
  /// before, rank 0 has other work after.
  Sampled time_hop(Bytes size, const StoppingRule& rule) {
    RankStreams& from = *ranks_[0];
    RankStreams& to = *ranks_[1];
    StageRig& producer = *layer_rigs_[0];
    StageRig& consumer = *layer_rigs_[1];
    const auto busy = busy_ranks(2);
    // Behind the gate the producer has one op more to do than the consumer, which therefore waits for the
    // message.
    return sampler_.sample({from.main, begin_, end_,
                            [&] {
                              producer.launch(WorkKind::forward);
                              begin_.record(from.main);
                              from.copies.wait(begin_);
                              device::copy(from.copies, message(received_, 0), message(sent_, 0),
                                           static_cast<std::size_t>(size.count));
                              arrived_.record(from.copies);
                              to.main.wait(arrived_);
                              end_.record(to.main);
                              consumer.launch(WorkKind::forward);
                              producer.launch(WorkKind::forward);
                            }},
                           WarmUp::until_the_clock_settles, rule);
  }

  /// `count` copies at the same time, from the first begin to the last end; nobody computes.
  Sampled time_copies(std::size_t count, Bytes size, const StoppingRule& rule) {
    const device::Stream& first = copy_streams_[0];
    return sampler_.sample({first, begin_, end_,
                            [&] {
                              begin_.record(first);
                              for (std::size_t i = 0; i < count; ++i) {
                                if (i > 0) copy_streams_[i].wait(begin_);
                                // The second goes the other way.
                                const device::Buffer& from = i % 2 == 0 ? sent_ : received_;
                                const device::Buffer& to = i % 2 == 0 ? received_ : sent_;
                                device::copy(copy_streams_[i], message(to, i), message(from, i),
                                             static_cast<std::size_t>(size.count));
                                if (i > 0) {
                                  copied_[i].record(copy_streams_[i]);
                                  first.wait(copied_[i]);
                                }
                              }
                              end_.record(first);
                            }},
                           WarmUp::a_few_runs, rule);
  }

  Measurement measure_one(const SlowdownTarget& target, const StoppingRule& rule) {
    RankStreams& own = *ranks_.front();
    const SlowdownKey& key = target.key;
    const bool copies = key.work_class == "send_recv";
    const layers::Lane& lane = copies ? own.copy_lane : own.main_lane;
    const bool beside_copies = key.beside == "send_recv";
    // A second message has a stream of its own.
    const layers::Lane copy_beside(copy_streams_[1], lane.multiprocessors());
    const layers::Lane& other = !beside_copies ? own.beside_lane : copies ? copy_beside : own.copy_lane;
    const auto busy = busy_ranks(key.setting.others_busy ? 1 : ranks_.size());
    const auto run = [&](const layers::Lane& where, const ClassWork& work, const std::string& what, int times,
                         WarmUp warm_up, const StoppingRule& until) {
      return sampler_.sample({where.stream(), begin_, end_,
                              [&] {
                                begin_.record(where.stream());
                                for (int i = 0; i < times; ++i) work.launch(what, where);
                                end_.record(where.stream());
                              }},
                             warm_up, until);
    };
    // Long enough to meet several of the other's pieces, wherever between two of them it begins.
    const StoppingRule rough{1, 3, 3, rule.budget};
    const auto typical = [&](const Sampled& s) { return static_cast<double>(s.set.summary().median.ns); };
    const double once = typical(run(lane, *class_work_, key.work_class, 1, WarmUp::a_few_runs, rough));
    const double other_once =
        typical(run(other, *class_work_beside_, key.beside, 1, WarmUp::a_few_runs, rough));
    const int times = static_cast<int>(std::clamp(4 * other_once / once, 4.0, 60.0));
    const Sampled alone =
        run(lane, *class_work_, key.work_class, times, WarmUp::until_the_clock_settles, rule);
    const Background beside(other.stream(), [&] { class_work_beside_->launch(key.beside, other); });
    const Sampled together =
        run(lane, *class_work_, key.work_class, times, WarmUp::until_the_clock_settles, rule);
    return {Slowdown{key, one_of(alone, times), one_of(together, times)}, together.set.samples()};
  }

  /// Samples of so many in a row, as those of one.
  static Summary one_of(const Sampled& sampled, int times) {
    std::vector<Sample> each = sampled.set.samples();
    for (Sample& sample : each) sample.duration.ns /= times;
    return summary_of(each);
  }

  Measurement measure_one(const MemoryTarget& target, const StoppingRule& /*there is nothing to time*/) {
    const StageRig& rig = *rigs_.at(as_forward(target.work));
    const layers::StageNeeds& n = rig.needs();
    MeasuredMemory m;
    m.work = target.work;
    m.weights = rig.weight_bytes();
    m.gradients = rig.gradient_bytes();
    m.kept_by_forward = n.kept_for_input + n.kept_for_weight;
    m.freed_by_backward_input = n.kept_for_input;
    m.added_by_backward_input = n.gradients_kept;
    m.freed_by_backward_weight = n.kept_for_weight + n.gradients_kept;
    m.workspace = {{WorkKind::forward, n.forward_scratch},
                   {WorkKind::backward_input, n.backward_input_scratch},
                   {WorkKind::backward_weight, n.backward_weight_scratch},
                   {WorkKind::backward, n.backward_scratch}};
    return {m, {}};
  }

  CalibrationRequest request_;
  device::DeviceInfo info_;
  Setting setting_;
  std::vector<device::GreenContext> shares_;
  std::vector<std::unique_ptr<RankStreams>>
      ranks_;  // lanes refer to their streams, which stay where they are
  layers::ProductAlgorithms algorithms_;
  std::map<WorkKey, std::unique_ptr<StageRig>> rigs_;  // rank 0's; by the key of the forward
  std::vector<std::unique_ptr<StageRig>> layer_rigs_;  // [rank]
  std::map<WorkKey, Place> parts_;
  std::map<WorkTarget, Measurement> timed_parts_;  // that were not asked for yet
  std::optional<ClassWork> class_work_, class_work_beside_;
  device::Buffer sent_, received_;
  std::vector<device::Stream> copy_streams_;
  std::array<device::Event, most_at_once> copied_;
  device::Event begin_{device::EventKind::timing}, end_{device::EventKind::timing};
  device::Event arrived_;
  measure::Sampler sampler_;
};

}  // namespace

void require_measurer(const std::string& transport) {
  device::require_device();
  if (transport != "local") {
    throw DeviceError("this build measures ranks of one process (--transport local), not NCCL's");
  }
}

std::unique_ptr<Measurer> make_measurer(const CalibrationRequest& request) {
  require_measurer(request.transport);
  return std::make_unique<LocalMeasurer>(request);
}

}  // namespace plumb
