// Measures on one GPU: whole, or cut into shares that stand for ranks, all in this process.
#include "calibrate/measure/local_measurer.hpp"

#include "calibrate/measure/background.hpp"
#include "calibrate/measure/class_bench.hpp"
#include "calibrate/measure/rank_bench.hpp"
#include "calibrate/measure/sampler.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/layers/gradient_sum.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace plumb::measure {
namespace {

constexpr Bytes largest_message{64 << 20};
constexpr std::size_t most_at_once = 4;
constexpr Bytes largest_sum{std::int64_t{1} << 30};

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
    // Rank 0 is measured: it has every kind of stage. Each other keeps busy with its own.
    for (std::uint32_t r = 0; r < request.ranks; ++r) {
      const auto stage = static_cast<std::uint32_t>(r % request_.layout.stages.size());
      const CutStage own{&request_.layout, Stage{stage}};
      ranks_.push_back(
          std::make_unique<RankBench>(request_, r == 0 ? stages_of(request_) : std::vector<CutStage>{own},
                                      request.ranks > 1 ? &shares_[r] : nullptr,
                                      request.ranks > 1 ? setting_.sms : info_.multiprocessors, algorithms_));
      ranks_.back()->be_a_neighbour_with(request_.model, own);
    }
    if (request.ranks > 1) {
      const Bytes message = stage_bytes(request.model, request.layout, Stage{0}).activation_message;
      for (const auto& rank : ranks_) rank->send_messages(message);
    }
    classes_.emplace(request_, algorithms_, ranks_.front()->streams());
    for (auto* block : {&sent_, &received_}) *block = device::Buffer(largest_message * most_at_once);
    for (std::size_t i = 0; i < most_at_once; ++i) copy_streams_.emplace_back();
    busy_.resize(ranks_.size());
    device::synchronize();
  }

  Provenance provenance() const override { return provenance_of(info_, sampler_.clock()); }

  // By these a run does what was measured.
  std::map<std::string, std::string> algorithms() const override { return algorithms_.to_text(); }

  Setting setting() const override { return setting_; }

  bool goes_on_after_failure() const override { return true; }

  std::vector<std::vector<std::uint32_t>> message_pairs() const override {
    if (request_.ranks == 1) return {};
    return {{0, 1}};  // one GPU: all pairs are alike
  }

  bool can_measure(const Target& target) const override {
    if (const auto* work = std::get_if<WorkTarget>(&target)) return ranks_.front()->has(work->work);
    if (const auto* memory = std::get_if<MemoryTarget>(&target))
      return ranks_.front()->has_memory(memory->work);
    if (const auto* transfer = std::get_if<TransferTarget>(&target)) {
      const TransferKind kind = transfer->key.kind;
      if (kind == TransferKind::all_reduce)
        return transfer->key.ranks.size() == 2 && transfer->key.setting == setting_ &&
               transfer->size <= largest_sum;
      const bool message = kind == TransferKind::hop || kind == TransferKind::one_way ||
                           kind == TransferKind::both_ways || kind == TransferKind::at_once;
      return message && transfer->key.at_once <= most_at_once && transfer->size <= largest_message;
    }
    // A copy between ranks of one GPU takes no multiprocessors away from anybody.
    const SlowdownKey& key = std::get<SlowdownTarget>(target).key;
    return key.communication_sms == 0 && classes_->has(key.work_class) && classes_->has(key.beside);
  }

  std::vector<Measurement> measure(const Target& target, const StoppingRule& rule) override {
    return {std::visit([&](const auto& one) { return measure_one(one, rule); }, target)};
  }

  bool in_turns(const Target& a, const Target& b) const override { return have_one_company(a, b); }

  std::vector<Measurement> measure_in_turns(const std::vector<Target>& targets,
                                            const StoppingRule& rule) override {
    const std::vector<WorkTarget> work = work_of(targets);
    keep_company(work.front());
    return ranks_.front()->time_in_turns(work, rule, sampler_.load());
  }

 private:
  /// From here on the ranks from `first` on compute their stages, and nobody else does. A load that goes on
  /// from one figure to the next keeps the clock where it is.
  void keep_busy(std::size_t first, Company company = Company::forwards_and_backwards) {
    const auto stays = [&](std::size_t r) { return busy_[r] && r >= first && company == company_; };
    bool changed = false;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (busy_[r] && !stays(r)) busy_[r]->stop();
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (stays(r) || (!busy_[r] && r < first)) continue;
      changed = true;
      busy_[r].reset();
      if (r >= first) busy_[r].emplace(ranks_[r]->busy(company));
    }
    company_ = company;
    if (changed) sampler_.load().changes();
  }

  void keep_company(const WorkTarget& target) {
    keep_busy(target.setting.others_busy ? 1 + target.setting.idle_others : ranks_.size(),
              company_of(target));
  }

  Measurement measure_one(const WorkTarget& target, const StoppingRule& rule) {
    keep_company(target);
    return ranks_.front()->time_work(target, rule, sampler_.load());
  }

  Measurement measure_one(const TransferTarget& target, const StoppingRule& rule) {
    const SampleSet sampled =
        target.key.kind == TransferKind::hop ? time_hop(target.size, rule)
        : target.key.kind == TransferKind::all_reduce
            ? time_sum(target.size, rule)
            : time_copies(target.key.kind == TransferKind::both_ways ? 2 : target.key.at_once, target.size,
                          rule);
    TransferKey key = target.key;
    return {Transfer{key, {target.size, sampled.summary()}}, sampled.samples()};
  }

  std::byte* message(const device::Buffer& buffer, std::size_t which) const {
    return buffer.as<std::byte>() + which * static_cast<std::size_t>(largest_message.count);
  }

  /// From the end of rank 0's op to the begin of rank 1's, which waits for the message; both have other work
  /// before, rank 0 has other work after. Events are noted and waited for as in a pipeline, each of which
  /// takes some microseconds: the place in rank 1's memory has to be free, and the copy's begin and end are
  /// timed. Meanwhile both ranks have a stream that waits for what they will send next.
  SampleSet time_hop(Bytes size, const StoppingRule& rule) {
    RankStreams& from = ranks_[0]->streams();
    RankStreams& to = ranks_[1]->streams();
    StageRig& producer = ranks_[0]->layer();
    StageRig& consumer = ranks_[1]->layer();
    keep_busy(2);
    // Behind the gate the producer has one op more to do than the consumer, which therefore waits for the
    // message.
    return sampler_.sample({from.main, begin_, end_,
                            [&] {
                              free_.record(to.main);
                              producer.launch(WorkKind::forward);
                              begin_.record(from.main);
                              from.copies.wait(begin_);
                              from.copies.wait(free_);
                              moving_.record(from.copies);
                              device::copy(from.copies, message(received_, 0), message(sent_, 0),
                                           static_cast<std::size_t>(size.count));
                              arrived_.record(from.copies);
                              to.main.wait(arrived_);
                              end_.record(to.main);
                              consumer.launch(WorkKind::forward);
                              ranks_[1]->send(WorkKind::forward);
                              producer.launch(WorkKind::forward);
                              ranks_[0]->send(WorkKind::forward);
                            }},
                           WarmUp::until_the_clock_settles, rule);
  }

  /// What two ranks hold of one stage's gradients, added up while all compute.
  SampleSet time_sum(Bytes size, StoppingRule rule) {
    keep_busy(0);
    if (summands_[0].bytes() < size) {
      for (device::Buffer& one : summands_) {
        one = device::Buffer(size);
        device::fill(sums_, one.data(), 0, static_cast<std::size_t>(size.count));
      }
    }
    const std::array<float*, 2> both{summands_[0].as<float>(), summands_[1].as<float>()};
    const auto count = static_cast<std::uint64_t>(size.count) / sizeof(float);
    return sampler_.sample({sums_, begin_, end_,
                            [&] {
                              begin_.record(sums_);
                              layers::sum_copies(sums_, both, count);
                              end_.record(sums_);
                            }},
                           WarmUp::until_the_clock_settles, rule);
  }

  /// `count` copies at the same time, from the first begin to the last end; nobody computes.
  SampleSet time_copies(std::size_t count, Bytes size, StoppingRule rule) {
    keep_busy(ranks_.size());
    rule.budget = Duration{rule.budget.ns / 4};  // hundreds of microseconds; there is no clock to wait for
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
    keep_busy(target.key.setting.others_busy ? 1 : ranks_.size());
    return classes_->time(target, rule, sampler_);
  }

  Measurement measure_one(const MemoryTarget& target, const StoppingRule& /*there is nothing to time*/) {
    return ranks_.front()->memory_of(target);
  }

  CalibrationRequest request_;
  device::DeviceInfo info_;
  Setting setting_;
  std::vector<device::GreenContext> shares_;
  layers::ProductAlgorithms algorithms_;
  std::vector<std::unique_ptr<RankBench>> ranks_;
  std::optional<ClassBench> classes_;  // rank 0's
  device::Buffer sent_, received_;
  std::vector<device::Stream> copy_streams_;
  std::array<device::Event, most_at_once> copied_;
  std::array<device::Buffer, 2> summands_;
  device::Stream sums_{device::Priority::low};
  device::Event begin_{device::EventKind::timing}, end_{device::EventKind::timing};
  device::Event free_;
  device::Event moving_{device::EventKind::timing}, arrived_{device::EventKind::timing};
  Sampler sampler_;
  std::vector<std::optional<Background>> busy_;        // [rank]
  Company company_ = Company::forwards_and_backwards;  // of those that are
};

}  // namespace

std::unique_ptr<Measurer> make_local_measurer(const CalibrationRequest& request) {
  return std::make_unique<LocalMeasurer>(request);
}

}  // namespace plumb::measure
