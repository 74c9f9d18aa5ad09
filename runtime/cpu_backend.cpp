#include "runtime/cpu_backend.hpp"

#include "runtime/reference/stage.hpp"
#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

using Clock = std::chrono::steady_clock;

// Bytes that ranks compute in: aligned as the arena's offsets are.
class Memory {
 public:
  Memory(std::uint64_t bytes, std::uint64_t alignment)
      : data_(static_cast<std::byte*>(
                  ::operator new (std::max<std::uint64_t>(bytes, 1), std::align_val_t{alignment})),
              Free{alignment}) {
    std::memset(data_.get(), 0, bytes);  // touched now, so that no page is found missing while ranks run
  }
  std::byte* at(const Buffer& buffer) const { return buffer.empty() ? nullptr : data_.get() + buffer.offset; }

 private:
  struct Free {
    std::uint64_t alignment;
    void operator()(std::byte* data) const { ::operator delete (data, std::align_val_t{alignment}); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

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
  std::map<std::uint32_t, std::span<float>> parts;  // [worker], all of the world's
  std::uint32_t arrived = 0;
  bool done = false;
  TimePoint begin, end;
};

class CpuWorker;

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
    const Need need = carried_by(message);
    const std::size_t slot =
        2 * (std::size_t{need.stage.value} * plan_.schedule.microbatches + need.microbatch.value) +
        (need.product == Product::activation ? 0 : 1);
    return mailboxes_[copy * messages_of_copy() + slot];
  }

  TimePoint now() const {
    return TimePoint{std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - epoch_).count()};
  }

  // What a worker is at, for whoever has to say why nothing goes on.
  struct Status {
    std::atomic<std::uint32_t> step{no_index};
    std::atomic<bool> waits{false};
    std::atomic<std::int64_t> changed{0};  // Clock's count when it last moved
    const RankProgram* program = nullptr;
    std::uint32_t copy = 0;
  };
  Status& status(std::uint32_t worker) { return status_[worker]; }

  void fail(const std::string& why) noexcept {
    try {
      const std::lock_guard lock(failure_mutex_);
      if (!failed_) failure_ = why;
    } catch (...) {  // the text is lost, the failure is not
    }
    failed_ = true;
  }
  bool failed() const { return failed_; }

  // Waits under `lock` until `ready`, or throws: another rank has failed, or the deadline has passed.
  template <class Ready>
  void wait(std::unique_lock<std::mutex>& lock, std::condition_variable& changed, std::uint32_t worker,
            Ready ready) {
    if (ready()) return;
    const auto until = Clock::now() + std::chrono::nanoseconds(plan_.deadline.ns);
    status_[worker].waits = true;
    while (!ready()) {
      // In slices, so that nobody who fails has to know whom to wake.
      changed.wait_for(lock, std::chrono::milliseconds(20));
      if (ready()) break;
      if (failed_) throw_failure();
      if (Clock::now() > until) {
        fail(who_holds_up());
        throw_failure();
      }
    }
    moved(worker);
  }

  void moved(std::uint32_t worker) {
    status_[worker].waits = false;
    status_[worker].changed = Clock::now().time_since_epoch().count();
  }

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
        reduction.arrived = 0;
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

  [[noreturn]] void throw_failure() {
    const std::lock_guard lock(failure_mutex_);
    throw DeviceError(failure_);
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

std::vector<StageMemory> memory_of(const std::vector<reference::Stage<float>>& stages) {
  std::vector<StageMemory> memory;
  for (const auto& stage : stages) {
    const reference::StageNeeds needs = stage.needs();
    StageMemory& made = memory.emplace_back();
    if (!stage.last()) made.activation_message = needs.message;
    if (!stage.first()) made.gradient_message = needs.message;
    made.kept_for_input = needs.kept_for_input;
    made.kept_for_weight = needs.kept_for_weight;
    made.gradients_kept = needs.gradients_kept;
    // Of both halves in one what is left for the second is transient.
    made.workspace = {needs.workspace, needs.workspace, Bytes{}, needs.workspace + needs.gradients_kept};
  }
  return memory;
}

class CpuWorker : public Worker {
 public:
  CpuWorker(World& world, std::uint32_t copy, Rank rank, BeforeAction before_action)
      : world_(&world),
        plan_(world_->plan()),
        copy_(copy),
        index_(copy * plan_.schedule.ranks() + rank.value),
        before_action_(std::move(before_action)),
        stages_(make_stages(plan_)),
        memory_(memory_of(stages_)),
        program_(make_rank_program(plan_.schedule, rank, memory_, plan_.arena)),
        arena_(static_cast<std::uint64_t>(program_.arena.count), plan_.arena.alignment),
        owned_(plan_.schedule.stages),
        data_(plan_.schedule.microbatches),
        needed_(plan_.schedule.microbatches),
        losses_(plan_.schedule.microbatches) {
    World::Status& status = world_->status(index_);
    status.program = &program_;
    status.copy = copy;
    times_.compute.resize(program_.actions);
    times_.messages.resize(program_.messages);
    times_.collectives.resize(program_.collectives);
    boxes_.resize(program_.messages);
    for (std::size_t i = 0; i < boxes_.size(); ++i) {
      boxes_[i] = &world_->mailbox(copy_, plan_.schedule.per_rank[rank.value].messages[i].op);
    }
    std::size_t pairs = 0;
    for (const ProgramStep& step : program_.steps) {
      if (const auto* reduce = std::get_if<ReduceStep>(&step)) {
        reductions_.push_back(reduce->stage);
      } else if (const auto* compute = std::get_if<ComputeStep>(&step)) {
        pairs += compute->action.is_pair();
        for (const Op& op : compute->action) {
          if (op.kind != OpKind::forward) continue;
          if (op.stage.value == 0 || op.stage.value + 1 == program_.stages)
            needed_[op.microbatch.value] = true;
        }
      }
    }
    times_.segments.reserve(2 * pairs);
    if (const auto shared = shared_matrix(plan_.model, plan_.layout.stages.front()))
      shared_.resize(shared->elements());
    for (const Stage stage : program_.held) {
      Owned& owned = owned_[stage.value].emplace();
      const auto& parameters = stages_[stage.value].parameters();
      owned.state.weights.resize(elements_of(parameters));
      owned.gradients.resize(owned.state.weights.size());
      owned.state.first_moments.resize(owned.state.weights.size());
      owned.state.second_moments.resize(owned.state.weights.size());
      for (const ParameterSpec& parameter : parameters) {
        initialise(parameter, plan_.seed,
                   std::span(owned.state.weights).subspan(parameter.offset, parameter.elements()));
      }
      world_->reduction(stage).parts[index_] = owned.gradients;
    }
  }

  // One of the workers keeps alive what they all refer to.
  void own(std::unique_ptr<World> world) { owner_ = std::move(world); }

  // ---- Backend
  void begin_step() override {
    times_.segments.clear();
    world_->status(index_).step = no_index;
    world_->begin_step(index_);
    next_ = 0;
  }

  void compute(const ComputeStep& step) override {
    at_next_step();
    for (const std::uint32_t message : {step.received[0], step.received[1], step.reused[0], step.reused[1]}) {
      if (message != no_index) wait(*boxes_[message]);
    }
    if (before_action_) before_action_(*this, step);
    if (world_->failed()) fail_with_others();
    Interval& time = times_.compute[step.position];
    time.begin = world_->now();
    std::size_t k = 0;
    for (const Op& op : step.action) {
      const TimePoint begin = world_->now();
      run(op, step.buffers[k++]);
      if (step.action.is_pair()) {
        times_.segments.push_back({op, Lane::compute, std::string(words(op.kind)), begin, world_->now()});
      }
    }
    time.end = world_->now();
    world_->moved(index_);
  }

  void communicate(const CommStep& step) override {
    at_next_step();
    for (const MessageStep& message : step.messages) post(message);
    if (!step.waited_together) return;
    for (const MessageStep& message : step.messages) wait(*boxes_[message.index]);
  }

  void reduce(const ReduceStep& step) override {
    at_next_step();
    Reduction& reduction = world_->reduction(step.stage);
    const std::lock_guard lock(reduction.mutex);
    if (++reduction.arrived < reduction.parts.size()) return;
    reduction.begin = world_->now();
    const std::size_t count = reduction.parts.begin()->second.size();
    for (std::size_t i = 0; i < count; ++i) {
      float sum = 0;
      for (const auto& [worker, gradients] : reduction.parts) sum += gradients[i];
      for (const auto& [worker, gradients] : reduction.parts) gradients[i] = sum;
    }
    reduction.end = world_->now();
    reduction.done = true;
    reduction.changed.notify_all();
  }

  void finish_step() override {
    at_next_step();
    for (Mailbox* box : boxes_) wait(*box);
    for (std::size_t i = 0; i < reductions_.size(); ++i) {
      Reduction& reduction = world_->reduction(reductions_[i]);
      std::unique_lock lock(reduction.mutex);
      world_->wait(lock, reduction.changed, index_, [&] { return reduction.done; });
      times_.collectives[i] = {reduction.begin, reduction.end};
    }
    for (std::size_t i = 0; i < boxes_.size(); ++i) {
      times_.messages[i].begin = boxes_[i]->begin;
      times_.messages[i].end = boxes_[i]->end;
    }
    sum_shared_matrix();
  }

  StepTimes times() override { return times_; }
  void abort() noexcept override { world_->fail("the step was given up"); }

  // ---- Worker
  Rank rank() const override { return program_.rank; }
  std::uint32_t copy() const override { return copy_; }
  const RankProgram& program() const override { return program_; }
  std::span<const StageMemory> stage_memory() const override { return memory_; }
  bool needs(Microbatch microbatch) const override { return needed_[microbatch.value]; }
  void load(Microbatch microbatch, const MicrobatchData& data) override {
    if (needs(microbatch)) data_[microbatch.value] = data;
  }
  void clear_gradients() override {
    for (auto& owned : owned_) {
      if (owned) std::fill(owned->gradients.begin(), owned->gradients.end(), 0.0f);
    }
  }

  std::vector<std::pair<Microbatch, double>> losses() override {
    std::vector<std::pair<Microbatch, double>> losses;
    for (std::uint32_t m = 0; m < losses_.size(); ++m) {
      if (losses_[m]) losses.emplace_back(Microbatch{m}, *losses_[m]);
    }
    return losses;
  }

  double squared_gradient_norm() override {
    double sum = 0;
    for (const Stage stage : program_.held) {
      if (world_->reduction(stage).parts.begin()->first != index_) continue;
      for (const ParameterSpec& parameter : stages_[stage.value].parameters()) {
        if (parameter.copied) continue;
        for (const float gradient : part_of(owned_[stage.value]->gradients, parameter)) {
          sum += static_cast<double>(gradient) * static_cast<double>(gradient);
        }
      }
    }
    return sum;
  }

  void update(std::uint64_t step, double learning_rate, double gradient_scale) override {
    const Optimizer& optimizer = plan_.optimizer;
    const auto decay_1 = static_cast<float>(optimizer.beta_1);
    const auto decay_2 = static_cast<float>(optimizer.beta_2);
    const double correct_1 = 1 - std::pow(optimizer.beta_1, static_cast<double>(step));
    const double correct_2 = 1 - std::pow(optimizer.beta_2, static_cast<double>(step));
    const auto rate = static_cast<float>(learning_rate / correct_1);
    const auto root = static_cast<float>(1 / std::sqrt(correct_2));
    const auto epsilon = static_cast<float>(optimizer.epsilon);
    const auto scale = static_cast<float>(gradient_scale);
    for (const Stage stage : program_.held) {
      Owned& owned = *owned_[stage.value];
      for (const ParameterSpec& parameter : stages_[stage.value].parameters()) {
        const auto shrink =
            static_cast<float>(parameter.decays ? 1 - learning_rate * optimizer.weight_decay : 1.0);
        for (std::uint64_t i = parameter.offset; i < parameter.offset + parameter.elements(); ++i) {
          const float gradient = owned.gradients[i] * scale;
          float& first = owned.state.first_moments[i];
          float& second = owned.state.second_moments[i];
          float& weight = owned.state.weights[i];
          first = decay_1 * first + (1 - decay_1) * gradient;
          second = decay_2 * second + (1 - decay_2) * gradient * gradient;
          weight = weight * shrink - rate * first / (std::sqrt(second) * root + epsilon);
        }
      }
    }
  }

  std::vector<float> gradients(Stage stage) override { return owned(stage).gradients; }
  StageState state(Stage stage) override { return owned(stage).state; }
  void set_state(Stage stage, const StageState& state) override {
    PLUMB_CHECK(state.weights.size() == owned(stage).state.weights.size());
    owned(stage).state = state;
  }
  void sum(std::span<double> values) override { world_->sum(index_, values); }

 private:
  struct Owned {
    StageState state;
    std::vector<float> gradients;
  };

  static std::vector<reference::Stage<float>> make_stages(const TrainingPlan& plan) {
    std::vector<reference::Stage<float>> stages;
    for (std::uint32_t s = 0; s < plan.schedule.stages; ++s)
      stages.emplace_back(plan.model, plan.layout, Stage{s});
    return stages;
  }

  static std::span<float> part_of(std::vector<float>& flat, const ParameterSpec& parameter) {
    return std::span(flat).subspan(parameter.offset, parameter.elements());
  }

  // A tied head's matrix is on the first and on the last stage. The owners of each have one sum already; of
  // these sums one worker each adds its own, and everybody takes the sum of both. Of two floats it is exact
  // in float64, so it is rounded once, as if they had been added as floats.
  void sum_shared_matrix() {
    if (shared_.empty()) return;
    const auto each = [&](const auto& act) {
      for (const Stage stage : program_.held) {
        const auto parameter = shared_matrix(plan_.model, plan_.layout.stages[stage.value]);
        if (parameter) act(stage, part_of(owned_[stage.value]->gradients, *parameter));
      }
    };
    std::fill(shared_.begin(), shared_.end(), 0.0);
    each([&](Stage stage, std::span<float> part) {
      if (world_->reduction(stage).parts.begin()->first != index_) return;
      for (std::size_t i = 0; i < part.size(); ++i) shared_[i] += static_cast<double>(part[i]);
    });
    world_->sum(index_, shared_);
    each([&](Stage, std::span<float> part) {
      for (std::size_t i = 0; i < part.size(); ++i) part[i] = static_cast<float>(shared_[i]);
    });
  }

  Owned& owned(Stage stage) {
    PLUMB_CHECK(stage.value < owned_.size() && owned_[stage.value]);
    return *owned_[stage.value];
  }

  void at_next_step() {
    world_->status(index_).step = next_++;
    world_->moved(index_);
  }

  [[noreturn]] void fail_with_others() {
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable never;
    world_->wait(lock, never, index_, [] { return false; });
    throw DeviceError("another rank has failed");
  }

  void wait(Mailbox& box) {
    std::unique_lock lock(box.mutex);
    world_->wait(lock, box.changed, index_, [&] { return box.done; });
  }

  void post(const MessageStep& message) {
    Mailbox& box = *boxes_[message.index];
    const std::lock_guard lock(box.mutex);
    const bool send = is_send(message.op.kind);
    times_.messages[message.index].posted = world_->now();
    if (send) {
      box.from = arena_.at(message.buffer);
      box.bytes = message.buffer.bytes;
      box.sent = true;
    } else {
      box.to = arena_.at(message.buffer);
      box.received = true;
    }
    if (!box.sent || !box.received) return;
    box.begin = world_->now();
    std::memcpy(box.to, box.from, box.bytes);
    box.end = world_->now();
    box.done = true;
    box.changed.notify_all();
  }

  void run(const Op& op, const OpBuffers& buffers) {
    const reference::Stage<float>& stage = stages_[op.stage.value];
    Owned& owned = *owned_[op.stage.value];
    reference::StageMemoryView memory{arena_.at(buffers.input),          arena_.at(buffers.output),
                                      arena_.at(buffers.kept_for_input), arena_.at(buffers.kept_for_weight),
                                      arena_.at(buffers.gradients_kept), arena_.at(buffers.workspace)};
    const auto scale = static_cast<float>(loss_scale(plan_));
    switch (op.kind) {
      case OpKind::forward: {
        const MicrobatchData& data = data_[op.microbatch.value];
        const double loss = stage.forward(owned.state.weights,
                                          {data.tokens, data.next_tokens, data.input, data.target}, memory);
        if (stage.last()) losses_[op.microbatch.value] = loss;
        break;
      }
      case OpKind::backward_input:
        stage.backward_input(owned.state.weights, owned.gradients, scale, memory);
        break;
      case OpKind::backward_weight:
        stage.backward_weight(owned.gradients, memory);
        break;
      default:
        memory.gradients_kept = memory.workspace + stage.needs().workspace.count;
        stage.backward_input(owned.state.weights, owned.gradients, scale, memory);
        stage.backward_weight(owned.gradients, memory);
    }
  }

  std::unique_ptr<World> owner_;
  World* world_;
  const TrainingPlan& plan_;
  std::uint32_t copy_;
  std::uint32_t index_;
  BeforeAction before_action_;
  std::vector<reference::Stage<float>> stages_;
  std::vector<StageMemory> memory_;
  RankProgram program_;
  Memory arena_;
  std::vector<std::optional<Owned>> owned_;  // [stage]
  std::vector<MicrobatchData> data_;         // [microbatch]
  std::vector<bool> needed_;                 // [microbatch]
  std::vector<std::optional<double>> losses_;
  std::vector<Mailbox*> boxes_;  // [message]
  std::vector<Stage> reductions_;
  std::vector<double> shared_;  // of the matrix that first and last stage share; empty where there is none
  StepTimes times_;
  std::uint32_t next_ = 0;
};

}  // namespace

std::vector<std::unique_ptr<Worker>> make_cpu_workers(const TrainingPlan& plan, BeforeAction before_action) {
  const std::uint32_t count = plan.schedule.ranks() * plan.schedule.data_parallel;
  auto world = std::make_unique<World>(plan, count);
  std::vector<std::unique_ptr<Worker>> workers;
  CpuWorker* owner = nullptr;
  for (std::uint32_t copy = 0; copy < plan.schedule.data_parallel; ++copy) {
    for (std::uint32_t r = 0; r < plan.schedule.ranks(); ++r) {
      auto worker = std::make_unique<CpuWorker>(*world, copy, Rank{r}, before_action);
      owner = worker.get();
      workers.push_back(std::move(worker));
    }
  }
  owner->own(std::move(world));
  return workers;
}

}  // namespace plumb
