#include "runtime/cuda/local_transport.hpp"

#include "runtime/layers/gradient_sum.hpp"
#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include <fmt/format.h>

namespace plumb::cuda {

// All workers come together here, and add numbers up.
class LocalExchange::Meeting {
 public:
  Meeting(std::uint32_t workers, StepGuard& guard) : workers_(workers), guard_(guard), values_(workers) {}

  /// `last` runs in the thread that comes last, before the others go on.
  template <class Last>
  void meet(const std::string& who, Last last) {
    const std::uint32_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == workers_) {
      last();
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    guard_.wait([&] { return round_.load(std::memory_order_acquire) != round; },
                [&] {
                  return fmt::format("{}, waiting for the other ranks ({} of {} are there)", who,
                                     arrived_.load(std::memory_order_relaxed), workers_);
                });
  }

  void sum(std::uint32_t worker, std::span<double> values, const std::string& who) {
    values_[worker].assign(values.begin(), values.end());
    meet(who, [&] {
      for (std::uint32_t w = 1; w < workers_; ++w) {
        PLUMB_CHECK(values_[w].size() == values_[0].size());
        for (std::size_t i = 0; i < values_[0].size(); ++i) values_[0][i] += values_[w][i];
      }
    });
    std::copy(values_[0].begin(), values_[0].end(), values.begin());
    meet(who, [] {});  // nobody writes the next numbers before everybody has read these
  }

 private:
  std::uint32_t workers_;
  StepGuard& guard_;
  std::atomic<std::uint32_t> arrived_{0};
  std::atomic<std::uint32_t> round_{0};
  std::vector<std::vector<double>> values_;
};

// The messages from one rank to another. Both sides post them in one order, which `lower` sees to, so they
// are moved in that order, each as soon as both have posted it.
class LocalExchange::Channel {
 public:
  struct Transfer {
    device::Event begin{device::EventKind::timing};
    device::Event end{device::EventKind::timing};
    Posted sent;
    Posted received;
    std::atomic<bool> launched{false};
  };

  void add() { transfers_.push_back(std::make_unique<Transfer>()); }
  std::uint32_t size() const { return static_cast<std::uint32_t>(transfers_.size()); }
  const Transfer& at(std::uint32_t place) const { return *transfers_[place]; }

  void begin_step() {
    sent_ = received_ = moved_ = 0;
    for (const auto& transfer : transfers_) transfer->launched.store(false, std::memory_order_relaxed);
  }

  void post(const Posted& posted, bool send) {
    const std::lock_guard lock(mutex_);
    (send ? transfers_[sent_++]->sent : transfers_[received_++]->received) = posted;
    for (; moved_ < std::min(sent_, received_); ++moved_) {
      Transfer& transfer = *transfers_[moved_];
      const MessageStep& message = *transfer.sent.message;
      PLUMB_CHECK(carried_by(message.op) == carried_by(transfer.received.message->op));
      PLUMB_CHECK(message.buffer.bytes == transfer.received.message->buffer.bytes);
      stream_.wait(*transfer.sent.after);
      stream_.wait(*transfer.received.after);
      transfer.begin.record(stream_);
      if (!message.buffer.empty())
        device::copy(stream_, transfer.received.data, transfer.sent.data, message.buffer.bytes);
      transfer.end.record(stream_);
      transfer.launched.store(true, std::memory_order_release);
    }
  }

 private:
  std::mutex mutex_;
  device::Stream stream_{device::Priority::high};
  std::vector<std::unique_ptr<Transfer>> transfers_;
  std::uint32_t sent_ = 0;
  std::uint32_t received_ = 0;
  std::uint32_t moved_ = 0;
};

// One stage's gradients, summed by whoever comes last. The copies are added in the order of the pipelines
// and, in each, of the ranks.
class LocalExchange::Reduction {
 public:
  Reduction(std::uint32_t copies, const std::vector<Rank>& owners, const device::Stream& stream)
      : owners_(owners), stream_(stream), parts_(copies * owners.size()), after_(parts_.size()) {}

  void begin_step() {
    arrived_ = 0;
    launched.store(false, std::memory_order_relaxed);
  }

  void arrive(std::uint32_t copy, Rank rank, std::span<float> gradients, const device::Event& after) {
    const std::lock_guard lock(mutex_);
    const auto owner = std::find(owners_.begin(), owners_.end(), rank);
    PLUMB_CHECK(owner != owners_.end());
    const std::size_t part = copy * owners_.size() + static_cast<std::size_t>(owner - owners_.begin());
    parts_[part] = gradients.data();
    after_[part] = &after;
    if (++arrived_ < parts_.size()) return;
    for (const device::Event* event : after_) stream_.wait(*event);
    begin.record(stream_);
    layers::sum_copies(stream_, parts_, gradients.size());
    end.record(stream_);
    launched.store(true, std::memory_order_release);
  }

  device::Event begin{device::EventKind::timing};
  device::Event end{device::EventKind::timing};
  std::atomic<bool> launched{false};

 private:
  std::mutex mutex_;
  std::vector<Rank> owners_;
  const device::Stream& stream_;
  std::vector<float*> parts_;
  std::vector<const device::Event*> after_;
  std::size_t arrived_ = 0;
};

class LocalExchange::Side : public Transport {
 public:
  Side(LocalExchange& exchange, Rank rank, std::uint32_t copy)
      : exchange_(exchange),
        rank_(rank),
        copy_(copy),
        worker_(copy * exchange.schedule_.ranks() + rank.value) {
    std::map<const Channel*, std::uint32_t> places;
    for (const Message& message : exchange.schedule_.per_rank[rank.value].messages) {
      const bool send = is_send(message.op.kind);
      Channel& channel = exchange.channel(copy, send ? rank : message.peer, send ? message.peer : rank);
      // Sends and receives of one channel are posted by different ranks, so this counts one side of it.
      messages_.push_back({&channel, places[&channel]++});
    }
    for (const Step& step : exchange.schedule_.per_rank[rank.value].steps) {
      if (const auto* collective = std::get_if<Collective>(&step))
        reductions_.push_back(exchange.reductions_[collective->op.stage.value].get());
    }
  }

  void begin_step(std::span<const device::Stream* const> streams) override {
    const std::string who = name();
    exchange_.meeting_->meet(who, [&] {
      for (const auto& channel : exchange_.channels_) {
        if (channel) channel->begin_step();
      }
      for (const auto& reduction : exchange_.reductions_) {
        if (reduction) reduction->begin_step();
      }
      for (const auto& sum : exchange_.shared_) sum->begin_step();
      exchange_.base_->record(*exchange_.base_stream_);
    });
    for (const device::Stream* stream : streams) stream->wait(*exchange_.base_);
  }

  const device::Event& base() const override { return *exchange_.base_; }
  Duration base_time() const override { return {}; }

  void post(std::span<const Posted> messages, bool /*together*/, std::uint32_t /*step*/) override {
    for (const Posted& posted : messages) {
      messages_[posted.message->index].channel->post(posted, is_send(posted.message->op.kind));
    }
  }

  const device::Event& end_of(std::uint32_t message, std::uint32_t step) override {
    const auto& transfer = messages_[message].transfer();
    exchange_.guard_.wait([&] { return transfer.launched.load(std::memory_order_acquire); },
                          [&] { return waits_for(message, step); });
    return transfer.end;
  }

  void reduce(const ReduceStep& reduction, std::span<float> gradients, const device::Event& after,
              std::uint32_t /*step*/) override {
    reductions_[reduction.index]->arrive(copy_, rank_, gradients, after);
  }

  void finish_step() override {
    for (std::uint32_t i = 0; i < messages_.size(); ++i) {
      const auto& transfer = messages_[i].transfer();
      exchange_.guard_.wait(
          [&] { return transfer.launched.load(std::memory_order_acquire) && transfer.end.happened(); },
          [&] { return waits_for(i, no_index); }, true);
    }
    for (const Reduction* reduction : reductions_) {
      exchange_.guard_.wait(
          [&] { return reduction->launched.load(std::memory_order_acquire) && reduction->end.happened(); },
          [&] { return name() + ", waiting for the sum of a stage's gradients"; }, true);
    }
  }

  void share(std::uint32_t pair, std::span<float> gradients, const device::Event& after) override {
    Reduction& sum = *exchange_.shared_[copy_ * exchange_.pairs_ + pair];
    sum.arrive(0, rank_, gradients, after);
    exchange_.guard_.wait(
        [&] { return sum.launched.load(std::memory_order_acquire) && sum.end.happened(); },
        [&] { return name() + ", waiting for the other half of the gradients of the tied head"; }, true);
  }

  MessageTimes message_times(std::uint32_t message) override {
    const auto& transfer = messages_[message].transfer();
    return {TimePoint{}, TimePoint{} + between(base(), transfer.begin),
            TimePoint{} + between(base(), transfer.end)};
  }

  Interval reduction_times(std::uint32_t index) override {
    const Reduction& reduction = *reductions_[index];
    return {TimePoint{} + between(base(), reduction.begin), TimePoint{} + between(base(), reduction.end)};
  }

  void sum(std::span<double> values) override { exchange_.meeting_->sum(worker_, values, name()); }
  void give_up(const std::string& reason) noexcept override { exchange_.guard_.give_up(reason); }

 private:
  struct Place {
    Channel* channel = nullptr;
    std::uint32_t place = 0;
    const Channel::Transfer& transfer() const { return channel->at(place); }
  };

  std::string name() const {
    return exchange_.schedule_.data_parallel > 1 ? fmt::format("rank {} of copy {}", rank_.value, copy_)
                                                 : fmt::format("rank {}", rank_.value);
  }
  std::string waits_for(std::uint32_t message, std::uint32_t step) const {
    const Message& waited = exchange_.schedule_.per_rank[rank_.value].messages[message];
    return fmt::format("{}, {}, waiting for {} {} rank {}", name(),
                       step == no_index ? "at the end of its step" : fmt::format("step {}", step),
                       to_string(waited.op), is_send(waited.op.kind) ? "to" : "from", waited.peer.value);
  }

  LocalExchange& exchange_;
  Rank rank_;
  std::uint32_t copy_;
  std::uint32_t worker_;
  std::vector<Place> messages_;         // [LoweredRank::messages]
  std::vector<Reduction*> reductions_;  // [ReduceStep::index]
};

LocalExchange::LocalExchange(const LoweredSchedule& schedule, StepGuard& guard,
                             const std::vector<SharedPair>& shared)
    : schedule_(schedule),
      guard_(guard),
      workers_(schedule.ranks() * schedule.data_parallel),
      meeting_(std::make_unique<Meeting>(workers_, guard)),
      base_(std::make_unique<device::Event>(device::EventKind::timing)),
      base_stream_(std::make_unique<device::Stream>()) {
  const std::uint32_t ranks = schedule.ranks();
  channels_.resize(std::size_t{schedule.data_parallel} * ranks * ranks);
  std::vector<std::vector<Rank>> owners(schedule.stages);
  for (std::uint32_t r = 0; r < ranks; ++r) {
    for (std::uint32_t copy = 0; copy < schedule.data_parallel; ++copy) {
      for (const Message& message : schedule.per_rank[r].messages) {
        if (!is_send(message.op.kind)) continue;
        auto& channel = channels_[(std::size_t{copy} * ranks + r) * ranks + message.peer.value];
        if (!channel) channel = std::make_unique<Channel>();
        channel->add();
      }
    }
    for (const Step& step : schedule.per_rank[r].steps) {
      if (const auto* collective = std::get_if<Collective>(&step))
        owners[collective->op.stage.value].push_back(Rank{r});
    }
  }
  // A stream for each lowest owner: stages of the same owners are summed one after another, others beside
  // them. Nobody waits for a sum before the step ends.
  reduction_streams_.resize(ranks);
  reductions_.resize(schedule.stages);
  for (std::uint32_t s = 0; s < schedule.stages; ++s) {
    if (owners[s].empty()) continue;
    auto& stream = reduction_streams_[owners[s].front().value];
    if (!stream) stream = std::make_unique<device::Stream>(device::Priority::low);
    reductions_[s] = std::make_unique<Reduction>(schedule.data_parallel, owners[s], *stream);
  }
  pairs_ = static_cast<std::uint32_t>(shared.size());
  for (std::uint32_t copy = 0; copy < schedule.data_parallel; ++copy) {
    for (const SharedPair& pair : shared)
      shared_.push_back(
          std::make_unique<Reduction>(1, std::vector<Rank>{pair.first, pair.last}, *base_stream_));
  }
}

LocalExchange::~LocalExchange() = default;

LocalExchange::Channel& LocalExchange::channel(std::uint32_t copy, Rank from, Rank to) {
  const std::uint32_t ranks = schedule_.ranks();
  const auto& channel = channels_[(std::size_t{copy} * ranks + from.value) * ranks + to.value];
  PLUMB_CHECK(channel);
  return *channel;
}

std::unique_ptr<Transport> LocalExchange::side(Rank rank, std::uint32_t copy) {
  return std::make_unique<Side>(*this, rank, copy);
}

}  // namespace plumb::cuda
