#include "runtime/cpu_backend.hpp"

#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/cpu_processes.hpp"
#include "runtime/cpu_threads.hpp"
#include "runtime/cpu_transport.hpp"
#include "runtime/reference/stage.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <utility>

namespace plumb {
namespace {

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

// What is the same for all workers of a process, and grows with the number of ranks: had once, since
// thousands of ranks would otherwise fill the memory with copies of it.
struct Common {
  explicit Common(const TrainingPlan& given) : plan(given) {
    for (std::uint32_t s = 0; s < plan.schedule.stages; ++s)
      stages.emplace_back(plan.model, plan.layout, Stage{s});
    memory = memory_of(stages);
  }

  const TrainingPlan plan;
  std::vector<reference::Stage<float>> stages;
  std::vector<StageMemory> memory;  // [stage]
};

class CpuWorker : public Worker {
 public:
  CpuWorker(const Common& common, std::unique_ptr<CpuTransport> transport, std::uint32_t copy, Rank rank,
            BeforeAction before_action)
      : plan_(common.plan),
        stages_(common.stages),
        memory_(common.memory),
        copy_(copy),
        before_action_(std::move(before_action)),
        program_(make_rank_program(plan_.schedule, rank, memory_, plan_.arena)),
        arena_(static_cast<std::uint64_t>(program_.arena.count), plan_.arena.alignment),
        data_(plan_.schedule.microbatches),
        needed_(plan_.schedule.microbatches),
        losses_(plan_.schedule.microbatches),
        transport_(std::move(transport)) {
    transport_->serve(program_);
    times_.compute.resize(program_.actions);
    times_.messages.resize(program_.messages);
    times_.collectives.resize(program_.collectives);
    std::size_t pairs = 0;
    for (const ProgramStep& step : program_.steps) {
      if (const auto* compute = std::get_if<ComputeStep>(&step)) {
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
      Owned& owned = owned_[stage];
      const auto& parameters = stages_[stage.value].parameters();
      owned.state.weights.resize(elements_of(parameters));
      owned.gradients.resize(owned.state.weights.size());
      owned.state.first_moments.resize(owned.state.weights.size());
      owned.state.second_moments.resize(owned.state.weights.size());
      for (const ParameterSpec& parameter : parameters) {
        initialise(parameter, plan_.seed,
                   std::span(owned.state.weights).subspan(parameter.offset, parameter.elements()));
      }
    }
  }

  // One of them keeps alive what they all refer to.
  void own(std::unique_ptr<const Common> common) { common_ = std::move(common); }

  // ---- Backend
  void begin_step() override {
    times_.segments.clear();
    times_.update.reset();
    transport_->begin_step();
    next_ = 0;
  }

  void compute(const ComputeStep& step) override {
    transport_->at(next_);
    for (const std::uint32_t message : {step.received[0], step.received[1], step.reused[0], step.reused[1]}) {
      if (message != no_index) transport_->wait(message);
    }
    if (before_action_) before_action_(*this, step);
    transport_->at(next_++);
    Interval& time = times_.compute[step.position];
    time.begin = transport_->now();
    std::size_t k = 0;
    for (const Op& op : step.action) {
      const TimePoint begin = transport_->now();
      run(op, step.buffers[k++]);
      if (step.action.is_pair()) {
        times_.segments.push_back({op, Lane::compute, std::string(words(op.kind)), begin, transport_->now()});
      }
    }
    time.end = transport_->now();
  }

  void communicate(const CommStep& step) override {
    transport_->at(next_++);
    for (const MessageStep& message : step.messages) {
      times_.messages[message.index].posted = transport_->now();
      transport_->post(message, arena_.at(message.buffer));
    }
    if (!step.waited_together) return;
    for (const MessageStep& message : step.messages) transport_->wait(message.index);
  }

  void reduce(const ReduceStep& step) override {
    transport_->at(next_++);
    transport_->reduce(step, owned(step.stage).gradients);
  }

  void finish_step() override {
    transport_->at(next_++);
    for (std::uint32_t i = 0; i < program_.messages; ++i) {
      transport_->wait(i);
      const Interval moved = transport_->moved(i);
      times_.messages[i].begin = moved.begin;
      times_.messages[i].end = moved.end;
    }
    for (std::uint32_t i = 0; i < program_.collectives; ++i) {
      transport_->wait_reduced(i);
      times_.collectives[i] = transport_->reduced(i);
    }
    sum_shared_matrix();
  }

  StepTimes times() override { return times_; }
  void abort() noexcept override { transport_->give_up("the step was given up"); }

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
    for (auto& [stage, owned] : owned_) std::fill(owned.gradients.begin(), owned.gradients.end(), 0.0f);
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
      if (!counts(stage)) continue;
      for (const ParameterSpec& parameter : stages_[stage.value].parameters()) {
        if (parameter.copied) continue;
        for (const float gradient : part_of(owned(stage).gradients, parameter)) {
          sum += static_cast<double>(gradient) * static_cast<double>(gradient);
        }
      }
    }
    return sum;
  }

  void update(std::uint64_t step, double learning_rate, double gradient_scale) override {
    const TimePoint begin = transport_->now();
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
      Owned& owned = owned_.at(stage);
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
    times_.update = Interval{begin, transport_->now()};
  }

  std::vector<float> gradients(Stage stage) override { return owned(stage).gradients; }
  StageState state(Stage stage) override { return owned(stage).state; }
  void set_state(Stage stage, const StageState& state) override {
    PLUMB_CHECK(state.weights.size() == owned(stage).state.weights.size());
    owned(stage).state = state;
  }
  void sum(std::span<double> values) override { transport_->sum(values); }

 private:
  struct Owned {
    StageState state;
    std::vector<float> gradients;
  };

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
        if (parameter) act(stage, part_of(owned(stage).gradients, *parameter));
      }
    };
    std::fill(shared_.begin(), shared_.end(), 0.0);
    each([&](Stage stage, std::span<float> part) {
      if (!counts(stage)) return;
      for (std::size_t i = 0; i < part.size(); ++i) shared_[i] += static_cast<double>(part[i]);
    });
    transport_->sum(shared_);
    each([&](Stage, std::span<float> part) {
      for (std::size_t i = 0; i < part.size(); ++i) part[i] = static_cast<float>(shared_[i]);
    });
  }

  Owned& owned(Stage stage) {
    const auto found = owned_.find(stage);
    PLUMB_CHECK(found != owned_.end());
    return found->second;
  }

  // Whether the stage's gradients, which all its owners have, are this worker's to count.
  bool counts(Stage stage) const {
    for (const ProgramStep& step : program_.steps) {
      const auto* reduction = std::get_if<ReduceStep>(&step);
      if (reduction && reduction->stage == stage && reduction->owners.front() != program_.rank) return false;
    }
    return copy_ == 0;
  }

  void run(const Op& op, const OpBuffers& buffers) {
    const reference::Stage<float>& stage = stages_[op.stage.value];
    Owned& owned = owned_.at(op.stage);
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

  std::unique_ptr<const Common> common_;
  const TrainingPlan& plan_;
  const std::vector<reference::Stage<float>>& stages_;
  const std::vector<StageMemory>& memory_;
  std::uint32_t copy_;
  BeforeAction before_action_;
  RankProgram program_;
  Memory arena_;
  std::map<Stage, Owned> owned_;      // of the stages held
  std::vector<MicrobatchData> data_;  // [microbatch]
  std::vector<bool> needed_;          // [microbatch]
  std::vector<std::optional<double>> losses_;
  std::vector<double> shared_;  // of the matrix that first and last stage share; empty where there is none
  StepTimes times_;
  std::uint32_t next_ = 0;
  std::unique_ptr<CpuTransport> transport_;  // ends first: others may still read or write what is above
};

}  // namespace

std::vector<std::unique_ptr<Worker>> make_cpu_workers(const TrainingPlan& plan, BeforeAction before_action) {
  auto common = std::make_unique<const Common>(plan);
  std::vector<std::unique_ptr<Worker>> workers;
  CpuWorker* last = nullptr;
  for (auto& transport : connect_threads(common->plan)) {
    const auto index = static_cast<std::uint32_t>(workers.size());
    const Rank rank{index % plan.schedule.ranks()};
    auto worker = std::make_unique<CpuWorker>(*common, std::move(transport), index / plan.schedule.ranks(),
                                              rank, before_action);
    last = worker.get();
    workers.push_back(std::move(worker));
  }
  last->own(std::move(common));
  return workers;
}

std::unique_ptr<Worker> make_cpu_worker(const TrainingPlan& plan, Rendezvous& rendezvous,
                                        BeforeAction before_action) {
  const std::uint32_t index = rendezvous.rank();
  auto common = std::make_unique<const Common>(plan);
  auto transport = connect_processes(common->plan, rendezvous);
  auto worker = std::make_unique<CpuWorker>(*common, std::move(transport), index / plan.schedule.ranks(),
                                            Rank{index % plan.schedule.ranks()}, std::move(before_action));
  worker->own(std::move(common));
  return worker;
}

}  // namespace plumb
