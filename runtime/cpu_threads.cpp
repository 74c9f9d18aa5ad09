#include "runtime/cpu_threads.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

using Clock = std::chrono::steady_clock;

// A message in the middle between its two ranks.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable changed;
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::uint64_t bytes = 0;
  bool sent = false;
  bool received = false;
  bool done = false;
  TimePoint begin, end;
};

// The gradients of one stage on their way to one sum.
struct Reduction {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::uint32_t, std::span<float>> parts;  // [worker] of those that have arrived
  bool done = false;
  TimePoint begin, end;
};

// What the ranks share.
class World {
 public:
  World(const TrainingPlan& plan, std::uint32_t workers)
      : plan_(plan),
        ranks_(plan.schedule.ranks()),
        mailboxes_(plan.schedule.data_parallel * messages_of_copy()),
        reductions_(plan.schedule.stages),
        status_(workers),
        values_(workers),
        workers_(workers) {}

  const TrainingPlan& plan() const { return plan_; }
  Reduction& reduction(Stage stage) { return reductions_[stage.value]; }
  Mailbox& mailbox(std::uint32_t copy, const Op& message) {
    return mailboxes_[copy * messages_of_copy() +
                      message_slot(carried_by(message), plan_.schedule.microbatches)];
  }

  TimePoint now() const {
    return TimePoint{std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - epoch_).count()};
  }

  // What a worker is at, for whoever has to say why nothing goes on.
  struct Status {
    std::atomic<std::uint32_t> step{no_index};
    std::atomic<bool> waits{false};
    const RankProgram* program = nullptr;
    std::uint32_t copy = 0;
  };
  Status& status(std::uint32_t worker) { return status_[worker]; }

  // By whoever is the first to fail, and holds none of the mutexes under which others wait.
  void fail(const std::string& why) noexcept {
    {
      const std::lock_guard lock(failure_mutex_);
      if (failed_) return;
      try {
        failure_ = why;
      } catch (const std::exception&) {  // the text is lost, the failure is not
      }
      failed_ = true;
    }
    wake(meeting_mutex_, meeting_changed_);
    for (Mailbox& mailbox : mailboxes_) wake(mailbox.mutex, mailbox.changed);
    for (Reduction& reduction : reductions_) wake(reduction.mutex, reduction.changed);
  }
  bool failed() const { return failed_; }
  [[noreturn]] void throw_failure() {
    const std::lock_guard lock(failure_mutex_);
    throw DeviceError(failure_);
  }

  // Waits under `lock` until `ready`, or throws: another rank has failed, or the deadline has passed.
  template <class Ready>
  void wait(std::unique_lock<std::mutex>& lock, std::condition_variable& changed, std::uint32_t worker,
            Ready ready) {
    if (ready()) return;
    const auto until = Clock::now() + std::chrono::nanoseconds(plan_.deadline.ns);
    status_[worker].waits = true;
    const bool over = !changed.wait_until(lock, until, [&] { return ready() || failed_; });
    if (!ready()) {
      lock.unlock();
      if (over) fail(who_holds_up());
      throw_failure();
    }
    moved(worker);
  }

  void moved(std::uint32_t worker) { status_[worker].waits = false; }

  // All workers; `last` runs once, by the last to come, before anybody goes on.
  template <class Last>
  void meet(std::uint32_t worker, Last last) {
    std::unique_lock lock(meeting_mutex_);
    if (failed_) throw_failure();
    const std::uint64_t meeting = meetings_;
    if (++present_ == workers_) {
      last();
      present_ = 0;
      ++meetings_;
      meeting_changed_.notify_all();
      moved(worker);
      return;
    }
    wait(lock, meeting_changed_, worker, [&] { return meetings_ != meeting; });
  }

  void begin_step(std::uint32_t worker) {
    meet(worker, [this] {
      for (Mailbox& mailbox : mailboxes_) {
        mailbox.sent = mailbox.received = mailbox.done = false;
      }
      for (Reduction& reduction : reductions_) {
        reduction.parts.clear();
        reduction.done = false;
      }
      epoch_ = Clock::now();
    });
  }

  void sum(std::uint32_t worker, std::span<double> values) {
    values_[worker] = values;
    meet(worker, [this] {
      for (std::size_t i = 0; i < values_[0].size(); ++i) {
        double total = 0;
        for (const auto& part : values_) total += part[i];
        for (const auto& part : values_) part[i] = total;
      }
    });
  }

 private:
  std::size_t messages_of_copy() const {
    return 2 * std::size_t{plan_.schedule.stages} * plan_.schedule.microbatches;
  }

  // Who waits has either seen that all have failed or is asleep when this notifies.
  static void wake(std::mutex& mutex, std::condition_variable& changed) {
    { const std::lock_guard lock(mutex); }
    changed.notify_all();
  }

  std::string name(const Status& status) const {
    const std::string copy = plan_.schedule.data_parallel > 1 ? fmt::format("copy {}, ", status.copy) : "";
    return copy + (status.step == no_index
                       ? fmt::format("rank {}, ahead of its step", status.program->rank.value)
                       : describe(*status.program, status.step));
  }

  // Who does not move although it waits for nobody; where all wait, for what.
  std::string who_holds_up() const {
    std::string text;
    for (const Status& status : status_) {
      if (status.waits) continue;
      text += (text.empty() ? "" : "; ") + name(status);
    }
    const std::string after = fmt::format("nothing has moved for {}: ", to_text(plan_.deadline));
    if (!text.empty()) return after + text + " does not end";
    for (const Status& status : status_) text += (text.empty() ? "" : "; ") + name(status);
    return after + "every rank waits for another: " + text;
  }

  const TrainingPlan plan_;
  std::uint32_t ranks_;
  std::vector<Mailbox> mailboxes_;
  std::vector<Reduction> reductions_;
  std::vector<Status> status_;
  Clock::time_point epoch_{};

  std::mutex meeting_mutex_;
  std::condition_variable meeting_changed_;
  std::uint64_t meetings_ = 0;
  std::uint32_t present_ = 0;
  std::vector<std::span<double>> values_;
  std::uint32_t workers_;

  std::mutex failure_mutex_;
  std::string failure_;
  std::atomic<bool> failed_{false};
};

class ThreadTransport : public CpuTransport {
 public:
  ThreadTransport(World& world, std::uint32_t copy, Rank rank)
      : world_(&world), index_(copy * world.plan().schedule.ranks() + rank.value) {
    world_->status(index_).copy = copy;
    for (const Message& message : world_->plan().schedule.per_rank[rank.value].messages)
      boxes_.push_back(&world_->mailbox(copy, message.op));
  }

  // One of them keeps alive what they all refer to.
  void own(std::unique_ptr<World> world) { owner_ = std::move(world); }

  void serve(const RankProgram& program) override {
    world_->status(index_).program = &program;
    for (const ProgramStep& step : program.steps) {
      if (const auto* reduce = std::get_if<ReduceStep>(&step)) reductions_.push_back(reduce->stage);
    }
  }

  void begin_step() override {
    world_->status(index_).step = no_index;
    world_->begin_step(index_);
  }
  TimePoint now() const override { return world_->now(); }
  void at(std::uint32_t step) override {
    world_->status(index_).step = step;
    world_->moved(index_);
    if (world_->failed()) world_->throw_failure();
  }

  void post(const MessageStep& message, std::byte* data) override {
    Mailbox& box = *boxes_[message.index];
    const std::lock_guard lock(box.mutex);
    if (is_send(message.op.kind)) {
      box.from = data;
      box.bytes = message.buffer.bytes;
      box.sent = true;
    } else {
      box.to = data;
      box.received = true;
    }
    if (!box.sent || !box.received) return;
    box.begin = world_->now();
    std::memcpy(box.to, box.from, box.bytes);
    box.end = world_->now();
    box.done = true;
    box.changed.notify_all();
  }
  void wait(std::uint32_t message) override {
    Mailbox& box = *boxes_[message];
    std::unique_lock lock(box.mutex);
    world_->wait(lock, box.changed, index_, [&] { return box.done; });
  }

  void reduce(const ReduceStep& step, std::span<float> gradients) override {
    Reduction& reduction = world_->reduction(step.stage);
    const std::lock_guard lock(reduction.mutex);
    reduction.parts[index_] = gradients;
    if (reduction.parts.size() < step.owners.size() * world_->plan().schedule.data_parallel) return;
    reduction.begin = world_->now();
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      float sum = 0;
      for (const auto& [worker, part] : reduction.parts) sum += part[i];
      for (const auto& [worker, part] : reduction.parts) part[i] = sum;
    }
    reduction.end = world_->now();
    reduction.done = true;
    reduction.changed.notify_all();
  }
  void wait_reduced(std::uint32_t index) override {
    Reduction& reduction = world_->reduction(reductions_[index]);
    std::unique_lock lock(reduction.mutex);
    world_->wait(lock, reduction.changed, index_, [&] { return reduction.done; });
  }

  Interval moved(std::uint32_t message) override { return {boxes_[message]->begin, boxes_[message]->end}; }
  Interval reduced(std::uint32_t index) override {
    const Reduction& reduction = world_->reduction(reductions_[index]);
    return {reduction.begin, reduction.end};
  }

  void sum(std::span<double> values) override { world_->sum(index_, values); }
  void give_up(const std::string& why) noexcept override { world_->fail(why); }

 private:
  std::unique_ptr<World> owner_;
  World* world_;
  std::uint32_t index_;
  std::vector<Mailbox*> boxes_;    // [message]
  std::vector<Stage> reductions_;  // [ReduceStep::index]
};

}  // namespace

std::vector<std::unique_ptr<CpuTransport>> connect_threads(const TrainingPlan& plan) {
  auto world = std::make_unique<World>(plan, plan.schedule.ranks() * plan.schedule.data_parallel);
  std::vector<std::unique_ptr<CpuTransport>> transports;
  ThreadTransport* last = nullptr;
  for (std::uint32_t copy = 0; copy < plan.schedule.data_parallel; ++copy) {
    for (std::uint32_t r = 0; r < plan.schedule.ranks(); ++r) {
      auto transport = std::make_unique<ThreadTransport>(*world, copy, Rank{r});
      last = transport.get();
      transports.push_back(std::move(transport));
    }
  }
  last->own(std::move(world));
  return transports;
}

}  // namespace plumb
