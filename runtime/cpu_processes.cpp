#include "runtime/cpu_processes.hpp"

#include "runtime/bootstrap/channels.hpp"
#include "runtime/bootstrap/mesh.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace plumb {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// What a frame says; its number is …
enum class Kind : std::uint32_t {
  ready,   // the message: its receiver has posted it
  data,    // the message
  part,    // the stage: the sender's gradients
  total,   // the stage: the sum of all owners' gradients
  arrive,  // the meeting: with values to add up
  depart,  // the meeting: with rank 0's clock when all had come, and the sums
  status,  // milliseconds that the rank has waited for others, + 1; 0: it waits for nobody. With what it is
           // at
  lost,    // the rank to which the sender's connection broke
  ended,   // nothing: the sender is done, and will go
  abort    // nothing: with why
};

TimePoint host_now() {
  return {
      std::chrono::duration_cast<std::chrono::nanoseconds>(steady_clock::now().time_since_epoch()).count()};
}

std::string seconds(milliseconds time) {
  return fmt::format("{:.3g} s", static_cast<double>(time.count()) / 1000.0);
}

class ProcessTransport : public CpuTransport, private FrameHandler {
 public:
  ProcessTransport(const TrainingPlan& plan, Rendezvous& rendezvous)
      : rendezvous_(rendezvous),
        own_(rendezvous.rank()),
        workers_(rendezvous.ranks()),
        ranks_(plan.schedule.ranks()),
        microbatches_(plan.schedule.microbatches),
        copies_(plan.schedule.data_parallel),
        deadline_(plan.deadline.ns / 1'000'000),
        beat_(std::clamp(deadline_ / 20, milliseconds{10}, milliseconds{500})),
        told_(workers_),
        values_(workers_) {
    PLUMB_CHECK(workers_ == ranks_ * copies_);
    clock_offset_ = rendezvous.clock_offset(host_now).offset;
    FrameHandler& handler = *this;
    channels_ = std::make_unique<Channels>(connect_all(rendezvous), handler, beat_);
    for (Told& told : told_) told.heard = steady_clock::now();
    channels_->start();
  }

  ~ProcessTransport() override {
    for (std::uint32_t worker = 0; worker < workers_; ++worker) tell(worker, Kind::ended, 0);
    channels_->stop();
  }

  void serve(const RankProgram& program) override {
    const std::lock_guard lock(mutex_);
    program_ = &program;
    messages_.resize(program.messages);
    for (const ProgramStep& step : program.steps) {
      if (const auto* comm = std::get_if<CommStep>(&step)) {
        for (const MessageStep& message : comm->messages) {
          const std::uint64_t slot = messages_[message.index] =
              message_slot(carried_by(message.op), microbatches_);
          slots_[slot].peer = own_ / ranks_ * ranks_ + message.peer.value;
        }
      } else if (const auto* reduction = std::get_if<ReduceStep>(&step)) {
        Reduction& made = reductions_[reduction->stage.value];
        for (std::uint32_t copy = 0; copy < copies_; ++copy) {
          for (const Rank owner : reduction->owners) made.owners.push_back(copy * ranks_ + owner.value);
        }
        reduced_stages_.push_back(reduction->stage.value);
      }
    }
  }

  void begin_step() override {
    {
      const std::lock_guard lock(mutex_);
      step_ = no_index;
      // Nobody begins before this rank has said that it is here, so what comes after this is of the new step.
      for (auto& [slot, message] : slots_) {
        const std::uint32_t peer = message.peer;
        message = Message{};
        message.peer = peer;
      }
      for (auto& [stage, reduction] : reductions_) {
        std::vector<std::uint32_t> owners = std::move(reduction.owners);
        reduction = Reduction{};
        reduction.owners = std::move(owners);
      }
    }
    const TimePoint all_here = meet({});
    const std::lock_guard lock(mutex_);
    epoch_ = all_here;
  }

  // Only the rank's own thread sets the epoch.
  TimePoint now() const override { return TimePoint{} + (host_now() - epoch_); }

  void at(std::uint32_t step) override {
    const std::lock_guard lock(mutex_);
    step_ = step;
    if (failure_) throw_failure();
    // More often than by the clock, so that what a rank was at when it went away is known.
    const auto now = steady_clock::now();
    if (now - told_[own_].heard > milliseconds{5}) tell_status(now);
  }

  void post(const MessageStep& step, std::byte* data) override {
    const std::lock_guard lock(mutex_);
    const std::uint64_t slot = messages_[step.index];
    Message& message = slots_.at(slot);
    message.data = {data, static_cast<std::size_t>(step.buffer.bytes)};
    message.posted = true;
    if (is_send(step.op.kind)) {
      send_if_both_are_here(slot, message);
    } else {
      tell(message.peer, Kind::ready, slot);
    }
  }

  void wait(std::uint32_t index) override {
    std::unique_lock lock(mutex_);
    const Message& message = slots_.at(messages_[index]);
    wait_until(lock, [&] { return message.done; });
  }

  void reduce(const ReduceStep& step, std::span<float> gradients) override {
    const std::lock_guard lock(mutex_);
    Reduction& reduction = reductions_.at(step.stage.value);
    reduction.gradients = gradients;
    if (reduction.owners.front() == own_) {
      add_up_if_all_are_here(step.stage.value, reduction);
    } else {
      channels_->send(reduction.owners.front(), static_cast<std::uint32_t>(Kind::part), step.stage.value,
                      std::as_bytes(gradients));
    }
  }

  void wait_reduced(std::uint32_t index) override {
    std::unique_lock lock(mutex_);
    const Reduction& reduction = reductions_.at(reduced_stages_[index]);
    wait_until(lock, [&] { return reduction.done; });
  }

  Interval moved(std::uint32_t index) override {
    const std::lock_guard lock(mutex_);
    return slots_.at(messages_[index]).time;
  }
  Interval reduced(std::uint32_t index) override {
    const std::lock_guard lock(mutex_);
    return reductions_.at(reduced_stages_[index]).time;
  }

  void sum(std::span<double> values) override { meet(values); }

  // The others learn it through the rendezvous, with the reason that stands there first.
  void give_up(const std::string& why) noexcept override {
    try {
      {
        const std::lock_guard lock(mutex_);
        if (!failure_) failure_ = why;
        changed_.notify_all();
      }
      if (std::this_thread::get_id() == owner_) rendezvous_.abort(why);
    } catch (...) {
      // No memory for a text: the others see the connections close.
    }
  }

 private:
  struct Message {
    std::uint32_t peer = 0;
    std::span<std::byte> data;
    bool posted = false;  // here
    bool ready = false;   // there
    bool done = false;
    Interval time;
  };
  struct Reduction {
    std::vector<std::uint32_t> owners;  // workers, ascending; the first adds up
    std::span<float> gradients;
    std::map<std::uint32_t, std::vector<float>> parts;  // [worker] where this one adds up
    std::size_t came = 0;                               // of the parts
    std::size_t sent = 0;                               // of the totals
    bool done = false;
    Interval time;
  };
  // What a rank has said of itself.
  struct Told {
    steady_clock::time_point heard;
    std::optional<milliseconds> waits;  // for so long
    std::string where;
    bool ended = false;
    std::optional<std::uint32_t> lost_by;
    steady_clock::time_point lost_at;
  };

  TimePoint step_time() const { return TimePoint{} + (host_now() - epoch_); }

  void tell(std::uint32_t worker, Kind kind, std::uint64_t number, std::string text = {}) {
    channels_->send_text(worker, static_cast<std::uint32_t>(kind), number, std::move(text));
  }
  void tell_all(Kind kind, std::uint64_t number, const std::string& text) {
    for (std::uint32_t worker = 0; worker < workers_; ++worker) tell(worker, kind, number, text);
  }

  // ---- What all do together. Values come to rank 0, sums go from there.

  TimePoint meet(std::span<double> values) {
    std::unique_lock lock(mutex_);
    if (failure_) throw_failure();
    ++meeting_;
    std::string mine;
    if (!values.empty()) mine.assign(reinterpret_cast<const char*>(values.data()), values.size_bytes());
    if (own_ == 0) {
      take_values(0, std::move(mine));
    } else {
      tell(0, Kind::arrive, meeting_, std::move(mine));
    }
    wait_until(lock, [&] { return departed_ == meeting_; });
    if (sums_.size() != values.size_bytes()) {
      fail(fmt::format("rank {} adds up {} values, and rank 0 {}", own_, values.size(),
                       sums_.size() / sizeof(double)));
      throw_failure();
    }
    if (!values.empty()) std::memcpy(values.data(), sums_.data(), sums_.size());
    return departure_ + clock_offset_;
  }

  void take_values(std::uint32_t worker, std::string values) {
    values_[worker] = std::move(values);
    if (++arrived_ < workers_) return;
    arrived_ = 0;
    sums_ = values_[0];
    std::vector<double> sums(sums_.size() / sizeof(double));
    for (std::uint32_t from = 0; from < workers_; ++from) {
      if (values_[from].size() != sums_.size()) {
        return fail(fmt::format("rank {} adds up {} values, and rank 0 {}", from,
                                values_[from].size() / sizeof(double), sums.size()));
      }
      for (std::size_t i = 0; i < sums.size(); ++i) {
        double value = 0;
        std::memcpy(&value, values_[from].data() + i * sizeof value, sizeof value);
        sums[i] += value;
      }
    }
    if (!sums.empty()) std::memcpy(sums_.data(), sums.data(), sums_.size());
    departure_ = host_now();
    departed_ = meeting_;
    std::string text(reinterpret_cast<const char*>(&departure_.ns), sizeof departure_.ns);
    tell_all(Kind::depart, meeting_, text + sums_);
    changed_.notify_all();
  }

  // ---- Messages and gradients

  void send_if_both_are_here(std::uint64_t slot, Message& message) {
    if (!message.posted || !message.ready) return;
    message.time.begin = step_time();
    channels_->send(message.peer, static_cast<std::uint32_t>(Kind::data), slot, message.data);
  }

  void add_up_if_all_are_here(std::uint32_t stage, Reduction& reduction) {
    if (reduction.gradients.empty() || reduction.came + 1 < reduction.owners.size()) return;
    reduction.time.begin = step_time();
    for (std::size_t i = 0; i < reduction.gradients.size(); ++i) {
      float sum = 0;
      for (const std::uint32_t owner : reduction.owners)
        sum += owner == own_ ? reduction.gradients[i] : reduction.parts[owner][i];
      reduction.gradients[i] = sum;
    }
    reduction.time.end = step_time();
    for (const std::uint32_t owner : reduction.owners) {
      if (owner == own_) continue;
      channels_->send(owner, static_cast<std::uint32_t>(Kind::total), stage,
                      std::as_bytes(reduction.gradients));
    }
    if (reduction.owners.size() > 1) return;  // done when all have been sent
    reduction.done = true;
    changed_.notify_all();
  }

  // ---- FrameHandler: on the channels' thread

  std::byte* place_of(std::uint32_t peer, const FrameHeader& header) override {
    const std::lock_guard lock(mutex_);
    std::span<std::byte> place;
    switch (static_cast<Kind>(header.kind)) {
      case Kind::data: {
        const auto message = slots_.find(header.number);
        if (message == slots_.end() || !message->second.posted) break;
        message->second.time.begin = step_time();
        place = message->second.data;
        break;
      }
      case Kind::part: {
        const auto reduction = reductions_.find(static_cast<std::uint32_t>(header.number));
        if (reduction == reductions_.end() || header.bytes > largest_part) break;
        std::vector<float>& part = reduction->second.parts[peer];
        part.resize(static_cast<std::size_t>(header.bytes) / sizeof(float));
        place = std::as_writable_bytes(std::span(part));
        break;
      }
      case Kind::total: {
        const auto reduction = reductions_.find(static_cast<std::uint32_t>(header.number));
        if (reduction != reductions_.end()) place = std::as_writable_bytes(reduction->second.gradients);
        break;
      }
      default:
        return nullptr;
    }
    if (place.size() == header.bytes) return place.data();
    fail(fmt::format("rank {} sends {} bytes, and rank {} expects {}: they run different things", peer,
                     header.bytes, own_, place.size()));
    return nullptr;
  }

  void arrived(std::uint32_t peer, const FrameHeader& header, const std::string& payload) override {
    const std::lock_guard lock(mutex_);
    switch (static_cast<Kind>(header.kind)) {
      case Kind::ready:
        if (const auto message = slots_.find(header.number); message != slots_.end()) {
          message->second.ready = true;
          send_if_both_are_here(header.number, message->second);
        }
        break;
      case Kind::data:
        if (const auto message = slots_.find(header.number); message != slots_.end()) {
          message->second.time.end = step_time();
          message->second.done = true;
        }
        break;
      case Kind::part:
        if (const auto found = reductions_.find(static_cast<std::uint32_t>(header.number));
            found != reductions_.end()) {
          ++found->second.came;
          add_up_if_all_are_here(found->first, found->second);
        }
        break;
      case Kind::total:
        if (const auto found = reductions_.find(static_cast<std::uint32_t>(header.number));
            found != reductions_.end()) {
          found->second.time = {step_time(), step_time()};
          found->second.done = true;
        }
        break;
      case Kind::arrive:
        take_values(peer, payload);
        break;
      case Kind::depart:
        std::memcpy(&departure_.ns, payload.data(), std::min(payload.size(), sizeof departure_.ns));
        sums_ = payload.substr(std::min(payload.size(), sizeof departure_.ns));
        departed_ = header.number;
        break;
      case Kind::status:
        told_[peer].heard = steady_clock::now();
        told_[peer].where = payload;
        told_[peer].waits.reset();
        if (header.number > 0) told_[peer].waits = milliseconds(header.number - 1);
        break;
      case Kind::lost:
        if (header.number < workers_ && !told_[header.number].lost_by) {
          told_[header.number].lost_by = peer;
          told_[header.number].lost_at = steady_clock::now();
        }
        break;
      case Kind::ended:
        told_[peer].ended = true;
        break;
      case Kind::abort:
        if (!failure_) failure_ = payload;
        break;
    }
    changed_.notify_all();
  }

  void sent(std::uint32_t /*peer*/, const FrameHeader& header) override {
    const std::lock_guard lock(mutex_);
    if (header.kind == static_cast<std::uint32_t>(Kind::data)) {
      Message& message = slots_.at(header.number);
      message.time.end = step_time();
      message.done = true;
    } else if (header.kind == static_cast<std::uint32_t>(Kind::total)) {
      Reduction& reduction = reductions_.at(static_cast<std::uint32_t>(header.number));
      reduction.done = ++reduction.sent + 1 == reduction.owners.size();
    }
    changed_.notify_all();
  }

  void closed(std::uint32_t peer) override {
    const std::lock_guard lock(mutex_);
    if (told_[peer].ended) return;
    if (own_ != 0 && peer != 0) return tell(0, Kind::lost, peer);
    fail(told_[peer].where.empty()
             ? fmt::format("{} is gone", name_of(peer))
             : fmt::format("{} is gone; it was last heard of {}", name_of(peer), told_[peer].where));
  }

  void tick() override {
    const std::lock_guard lock(mutex_);
    const auto now = steady_clock::now();
    tell_status(now);
    if (own_ == 0) {
      if (!failure_) judge(now);
      return;
    }
    const std::optional<milliseconds> waited = told_[own_].waits;
    // Rank 0 says who holds everybody up, unless it does so itself.
    if (failure_ || !waited || *waited < deadline_) return;
    if (is_silent(told_[0], now)) {
      fail(fmt::format("nothing has moved for {}: {}", seconds(deadline_), silence_of(0, now)));
    } else if (*waited > deadline_ + grace) {
      fail(fmt::format("nothing has moved for {}, and rank 0 does not say why", seconds(deadline_ + grace)));
    }
  }

  // ---- Who is to blame

  bool is_silent(const Told& told, steady_clock::time_point now) const {
    return now - told.heard > 5 * beat_ + milliseconds{100};
  }
  std::string silence_of(std::uint32_t worker, steady_clock::time_point now) const {
    const Told& told = told_[worker];
    const auto silent = std::chrono::duration_cast<milliseconds>(now - told.heard);
    return fmt::format("{}{}{} has not been heard of for {}", name_of(worker),
                       told.where.empty() ? "" : ", last ", told.where, seconds(silent));
  }
  std::string name_of(std::uint32_t worker) const {
    return copies_ > 1 ? fmt::format("copy {}, rank {}", worker / ranks_, worker % ranks_)
                       : fmt::format("rank {}", worker);
  }
  std::string place_of_rank(std::uint32_t worker, const std::string& place) const {
    return fmt::format("{}, {}", name_of(worker), place);
  }

  // On rank 0, where everybody says how it is.
  void judge(steady_clock::time_point now) {
    for (std::uint32_t worker = 0; worker < workers_; ++worker) {
      const Told& told = told_[worker];
      // Had it gone altogether, its connection to rank 0 would have closed by now as well.
      if (told.lost_by && now - told.lost_at > milliseconds{300}) {
        const auto [one, other] = std::minmax(*told.lost_by, worker);
        return fail(fmt::format("the connection between {} and {} is cut", name_of(one), name_of(other)));
      }
    }
    const bool late = std::any_of(told_.begin(), told_.end(),
                                  [&](const Told& told) { return told.waits && *told.waits >= deadline_; });
    if (!late) return;
    std::string text;
    for (std::uint32_t worker = 0; worker < workers_; ++worker) {
      const Told& told = told_[worker];
      if (told.waits && !is_silent(told, now)) continue;
      text += text.empty() ? "" : "; ";
      text += is_silent(told, now) ? silence_of(worker, now)
                                   : place_of_rank(worker, told.where) + " does not end";
    }
    if (text.empty()) {
      for (std::uint32_t worker = 0; worker < workers_; ++worker)
        text += (text.empty() ? "" : "; ") + place_of_rank(worker, told_[worker].where);
      text = "every rank waits for another: " + text;
    }
    fail(fmt::format("nothing has moved for {}: {}", seconds(deadline_), text));
  }

  // The first failure counts; all learn it.
  void fail(const std::string& why) {
    if (failure_) return;
    failure_ = why;
    tell_all(Kind::abort, 0, why);
    changed_.notify_all();
  }

  // `at step 5, 2F3`
  std::string where() const {
    if (!program_ || step_ == no_index) return "ahead of its step";
    const std::string text = describe(*program_, step_);
    const std::string place = text.substr(text.find(", ") + 2);
    return place.starts_with("at ") ? place : "at " + place;
  }

  [[noreturn]] void throw_failure() {
    throw DeviceError(fmt::format("{}: {}", place_of_rank(own_, where()), *failure_));
  }

  void tell_status(steady_clock::time_point now) {
    std::optional<milliseconds> waited;
    if (waits_since_) waited = std::chrono::duration_cast<milliseconds>(now - *waits_since_);
    Told& own = told_[own_];
    own.heard = now;
    own.waits = waited;
    own.where = where();
    const std::uint64_t number = waited ? static_cast<std::uint64_t>(waited->count()) + 1 : 0;
    if (own_ == 0) {
      tell_all(Kind::status, number, own.where);
    } else {
      tell(0, Kind::status, number, own.where);
    }
  }

  template <class Ready>
  void wait_until(std::unique_lock<std::mutex>& lock, Ready ready) {
    if (ready()) return;
    waits_since_ = steady_clock::now();
    std::optional<steady_clock::time_point> told_at;
    std::string told;
    while (!ready()) {
      changed_.wait_for(lock, milliseconds{20});
      if (ready()) break;
      if (failure_) throw_failure();
      if (!told_at) {
        lock.unlock();
        const std::optional<std::string> why = rendezvous_.aborted();
        lock.lock();
        if (!why) continue;
        told = *why;
        told_at = steady_clock::now();
      } else if (steady_clock::now() - *told_at > milliseconds{200}) {
        // By now the channels would have said more of it.
        failure_ = told;
      }
    }
    waits_since_.reset();
  }

  static constexpr milliseconds grace{2000};
  static constexpr std::uint64_t largest_part = std::uint64_t{1} << 36;

  Rendezvous& rendezvous_;
  std::uint32_t own_;
  std::uint32_t workers_;
  std::uint32_t ranks_;
  std::uint32_t microbatches_;
  std::uint32_t copies_;
  milliseconds deadline_;
  milliseconds beat_;
  Duration clock_offset_;
  std::thread::id owner_ = std::this_thread::get_id();  // the rendezvous is its

  std::vector<std::uint64_t> messages_;        // [message] its slot
  std::vector<std::uint32_t> reduced_stages_;  // [ReduceStep::index]
  const RankProgram* program_ = nullptr;
  TimePoint epoch_;  // of this host's clock

  mutable std::mutex mutex_;  // of everything below, and of epoch_ for the channels
  std::condition_variable changed_;
  std::map<std::uint64_t, Message> slots_;
  std::map<std::uint32_t, Reduction> reductions_;  // [stage]
  std::uint32_t step_ = no_index;
  std::optional<steady_clock::time_point> waits_since_;
  std::vector<Told> told_;
  std::uint64_t meeting_ = 0;
  std::uint64_t departed_ = 0;
  TimePoint departure_;  // by rank 0's clock
  std::string sums_;
  std::vector<std::string> values_;  // [worker] on rank 0
  std::uint32_t arrived_ = 0;
  std::optional<std::string> failure_;
  std::unique_ptr<Channels> channels_;
};

}  // namespace

std::unique_ptr<CpuTransport> connect_processes(const TrainingPlan& plan, Rendezvous& rendezvous) {
  return std::make_unique<ProcessTransport>(plan, rendezvous);
}

}  // namespace plumb
