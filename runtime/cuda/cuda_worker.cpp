#include "runtime/bootstrap/agreement.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/cuda/gradient_kernels.hpp"
#include "runtime/cuda/local_transport.hpp"
#include "runtime/cuda/nccl_groups.hpp"
#include "runtime/cuda/nccl_transport.hpp"
#include "runtime/cuda/rank_compute.hpp"
#include "runtime/cuda/step_guard.hpp"
#include "runtime/device/current_device.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/message_room.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/layers/gradient_sum.hpp"
#include "runtime/shared_matrix.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace cuda {
namespace {

// What the workers of one process share. It lives as long as the last of them.
struct Shared {
  Shared(const TrainingPlan& p, std::uint32_t d)
      : plan(p), device(d), guard(std::chrono::nanoseconds(p.deadline.ns)) {}
  /// The thread that calls it launches there from then on.
  void use_device() const { device::use_device(device); }

  TrainingPlan plan;
  std::uint32_t device;
  StepGuard guard;
  std::vector<device::GreenContext> shares;
  std::unique_ptr<NcclCommunicators> communicators;  // over NCCL, where no session keeps them
  layers::ProductAlgorithms algorithms;
  std::unique_ptr<LocalExchange> exchange;
};

class CudaWorker : public Worker {
 public:
  CudaWorker(std::shared_ptr<Shared> shared, Rank rank, std::uint32_t copy,
             std::unique_ptr<RankCompute> compute, std::unique_ptr<Transport> transport)
      : shared_(std::move(shared)),
        rank_(rank),
        copy_(copy),
        compute_(std::move(compute)),
        transport_(std::move(transport)),
        posted_(compute_->program().messages),
        shared_pairs_(shared_pairs(shared_->plan)),
        squares_(Bytes{static_cast<std::int64_t>((squares_partials + 1) * sizeof(double))}) {}

  void initialise() {
    shared_->use_device();
    compute_->initialise();
  }

  Rank rank() const override { return rank_; }
  std::uint32_t copy() const override { return copy_; }
  const RankProgram& program() const override { return compute_->program(); }
  std::span<const StageMemory> stage_memory() const override { return compute_->stage_memory(); }

  void begin_step() override {
    shared_->use_device();
    step_ = 0;
    updated_ = false;
    compute_->begin_step();
    transport_->begin_step(compute_->streams());
  }

  void compute(const ComputeStep& step) override {
    for (const auto& waited : {step.received, step.reused}) {
      for (const std::uint32_t message : waited) {
        if (message != no_index) compute_->stream().wait(transport_->end_of(message, step_));
      }
    }
    compute_->compute(step);
    ++step_;
  }

  void communicate(const CommStep& step) override {
    std::vector<Posted>& posted = to_post_;
    posted.clear();
    for (const MessageStep& message : step.messages) {
      const bool send = is_send(message.op.kind) && !step.waited_together;
      const device::Event& after =
          send ? compute_->end_of(message.made_by, message.made_by_op) : behind(step.behind);
      posted_[message.index] = &after;
      posted.push_back({&message, compute_->place(message.buffer), &after});
    }
    transport_->post(posted, step.waited_together, step_);
    if (step.waited_together) {
      for (const MessageStep& message : step.messages)
        compute_->stream().wait(transport_->end_of(message.index, step_));
    }
    ++step_;
  }

  void reduce(const ReduceStep& step) override {
    transport_->reduce(step, compute_->parameters(step.stage).gradients(), behind(step.behind), step_);
    ++step_;
  }

  void finish_step() override {
    transport_->finish_step();
    const std::uint32_t actions = program().actions;
    if (actions > 0) {
      const device::Event& last = compute_->end_of(actions - 1);
      shared_->guard.wait([&] { return last.happened(); },
                          [&] { return fmt::format("{}, waiting for its last action", name()); }, true);
    }
    sum_shared_matrix();
    // The step began when the first action of any rank did.
    std::vector<double> first(workers());
    if (actions > 0) {
      const TimePoint begin = compute_->interval(0, transport_->base()).begin + transport_->base_time();
      first[worker()] = static_cast<double>(begin.ns);
    }
    transport_->sum(first);
    const double earliest = *std::min_element(first.begin(), first.end());
    origin_ = Duration{static_cast<std::int64_t>(earliest)} - transport_->base_time();
  }

  StepTimes times() override {
    const device::Event& base = transport_->base();
    const auto since = [&](TimePoint time) { return std::max(TimePoint{}, time - origin_); };
    const auto moved = [&](Interval interval) {
      return Interval{since(interval.begin), since(interval.end)};
    };
    StepTimes times;
    for (std::uint32_t i = 0; i < program().actions; ++i)
      times.compute.push_back(moved(compute_->interval(i, base)));
    for (std::uint32_t i = 0; i < program().messages; ++i) {
      MessageTimes& message = times.messages.emplace_back(transport_->message_times(i));
      if (message.posted == TimePoint{}) message.posted = TimePoint{} + device::between(base, *posted_[i]);
      message.posted = since(message.posted);
      if (message.begin) message.begin = since(*message.begin);
      if (message.end) message.end = since(*message.end);
    }
    for (std::uint32_t i = 0; i < program().collectives; ++i)
      times.collectives.push_back(moved(transport_->reduction_times(i)));
    times.segments = compute_->segments(base);
    for (SegmentSpan& span : times.segments) {
      span.begin = since(span.begin);
      span.end = since(span.end);
    }
    if (updated_) {
      const auto at = [&](const device::Event& event) {
        return since(TimePoint{} + device::between(base, event));
      };
      times.update = Interval{at(update_begin_), at(update_end_)};
    }
    return times;
  }

  void abort() noexcept override {
    try {
      transport_->give_up(fmt::format("{} at step {}", name(), step_));
    } catch (...) {
      transport_->give_up({});
    }
  }

  bool needs(Microbatch microbatch) const override {
    return compute_->needs_input(microbatch) || compute_->needs_target(microbatch);
  }
  void load(Microbatch microbatch, const MicrobatchData& data) override {
    shared_->use_device();
    compute_->load(microbatch, data);
  }

  void clear_gradients() override {
    shared_->use_device();
    for (const Stage stage : program().held) compute_->parameters(stage).clear_gradients(compute_->lane());
    compute_->stream().synchronize();
  }

  std::vector<std::pair<Microbatch, double>> losses() override {
    shared_->use_device();
    return compute_->losses();
  }

  double squared_gradient_norm() override {
    shared_->use_device();
    double sum = 0;
    if (copy_ > 0) return sum;
    for (const Stage stage : program().held) {
      if (lowest_owner(stage) != rank_) continue;
      const StageParameters& parameters = compute_->parameters(stage);
      std::size_t own = parameters.gradients().size();  // what another stage owns is behind them
      if (parameters.specs().back().copied) own = parameters.specs().back().offset;
      double* partials = squares_.as<double>();
      double* total = partials + squares_partials;
      sum_of_squares(compute_->stream(), parameters.gradients().data(), own, partials, total);
      double value = 0;
      device::copy(compute_->stream(), &value, total, sizeof value);
      compute_->stream().synchronize();
      sum += value;
    }
    return sum;
  }

  void update(std::uint64_t step, double learning_rate, double gradient_scale) override {
    shared_->use_device();
    update_begin_.record(compute_->stream());
    for (const Stage stage : program().held) {
      compute_->parameters(stage).update(compute_->lane(), shared_->plan.optimizer, step, learning_rate,
                                         gradient_scale);
    }
    update_end_.record(compute_->stream());
    compute_->stream().synchronize();
    updated_ = true;
  }

  std::vector<float> gradients(Stage stage) override {
    shared_->use_device();
    return compute_->parameters(stage).host_gradients(compute_->lane());
  }
  StageState state(Stage stage) override {
    shared_->use_device();
    return compute_->parameters(stage).state(compute_->lane());
  }
  void set_state(Stage stage, const StageState& state) override {
    shared_->use_device();
    compute_->parameters(stage).set_state(compute_->lane(), state);
  }

  void sum(std::span<double> values) override { transport_->sum(values); }

 private:
  // This rank's gradients of the matrix that the first and the last stage share.
  std::span<float> shared_gradients(Stage stage) {
    const StageContent& content = shared_->plan.layout.stages[stage.value];
    const ParameterSpec matrix = *shared_matrix(shared_->plan.model, content);
    return compute_->parameters(stage).gradients().subspan(matrix.offset, matrix.elements());
  }

  void sum_shared_matrix() {
    const Stage last{shared_->plan.schedule.stages - 1};
    for (std::uint32_t i = 0; i < shared_pairs_.size(); ++i) {
      const SharedPair& pair = shared_pairs_[i];
      const bool has_first = pair.first == rank_, has_last = pair.last == rank_;
      const device::Event& after = compute_->end_of(program().actions - 1);
      if (has_first && has_last) {
        const std::span<float> a = shared_gradients(Stage{0}), b = shared_gradients(last);
        float* const both[] = {a.data(), b.data()};
        layers::sum_copies(compute_->stream(), both, a.size());
        compute_->stream().synchronize();
      } else if (has_first || has_last) {
        transport_->share(i, shared_gradients(has_first ? Stage{0} : last), after);
      }
    }
  }

  std::uint32_t workers() const {
    return shared_->plan.schedule.ranks() * shared_->plan.schedule.data_parallel;
  }
  std::uint32_t worker() const { return copy_ * shared_->plan.schedule.ranks() + rank_.value; }
  std::string name() const { return fmt::format("rank {} of copy {}", rank_.value, copy_); }

  const device::Event& behind(std::uint32_t position) const {
    return position == no_index ? transport_->base() : compute_->end_of(position);
  }

  Rank lowest_owner(Stage stage) const {
    for (const ProgramStep& step : program().steps) {
      const auto* reduction = std::get_if<ReduceStep>(&step);
      if (reduction && reduction->stage == stage) return reduction->owners.front();
    }
    return rank_;  // nobody else holds it
  }

  std::shared_ptr<Shared> shared_;
  Rank rank_;
  std::uint32_t copy_;
  std::unique_ptr<RankCompute> compute_;
  std::unique_ptr<Transport> transport_;
  std::vector<const device::Event*> posted_;  // [message] behind what it was posted
  std::vector<SharedPair> shared_pairs_;
  std::vector<Posted> to_post_;
  device::Buffer squares_;
  Duration origin_{};
  device::Event update_begin_{device::EventKind::timing};
  device::Event update_end_{device::EventKind::timing};
  bool updated_ = false;  // since the step began
  std::uint32_t step_ = 0;
};

// What CUDA reads when it starts, unless the user has said otherwise: a hardware queue for each of our
// streams, since two streams in one queue wait for each other; and all kernels loaded at once, since loading
// one later can wait for a kernel of NCCL's that itself waits for another rank.
void prepare_process() {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
}

// The host makes the numbers, which is slow enough for a thread each.
void initialise(std::span<const std::unique_ptr<CudaWorker>> workers) {
  std::vector<std::future<void>> done;
  for (const auto& worker : workers) {
    done.push_back(std::async(std::launch::async, [&worker = *worker] { worker.initialise(); }));
  }
  for (std::future<void>& one : done) one.get();
}

Bytes largest_message(const TrainingPlan& plan) {
  Bytes largest;
  for (std::uint32_t s = 0; s < plan.schedule.stages; ++s) {
    const StageBytes bytes = stage_bytes(plan.model, plan.layout, Stage{s});
    largest = std::max({largest, bytes.activation_message, bytes.gradient_message});
  }
  return largest;
}

// How one shape of product is computed is tried out, and two trials may end differently. Ranks that are to
// compute what one does without a pipeline, and copies that are to stay equal, need one choice. All try at
// the same time, since loading the kernels takes longest; then the lowest rank's choice of each shape holds.
void compute_alike(RankCompute& compute, Rendezvous& rendezvous, layers::ProductAlgorithms& algorithms) {
  algorithms = layers::ProductAlgorithms::from_text(agree(rendezvous, algorithms.to_text()));
  compute.choose_products(algorithms);
}

// Each end of a way has a thread of its own, which spins while anything is posted. All ranks do alike: the
// lowest one's machine decides.
bool shares_threads(const TrainingPlan& plan, const NcclOptions& options, Rendezvous& rendezvous) {
  if (options.shared_threads) return *options.shared_threads;
  if (options.own_gpu || options.shares > 0) return false;
  const std::size_t threads = 2 * nccl_groups(plan.schedule, {}, false).of_messages.size();
  const bool too_many = threads > std::max(1u, std::thread::hardware_concurrency());
  return agree(rendezvous, {{"shared threads", too_many ? "yes" : "no"}}).at("shared threads") == "yes";
}

device::MessageRoom room_for(const NcclOptions& options) {
  device::MessageRoom room = options.shares > 0 ? device::room_in_a_share()
                             : options.own_gpu  ? device::room_on_own_gpu()
                                                : device::room_as_they_come();
  room.left_free = options.left_free.value_or(room.left_free);
  room.channels = options.channels.value_or(room.channels);
  room.sum_channels = options.sum_channels.value_or(room.sum_channels);
  room.receives_ahead = options.receives_ahead.value_or(room.receives_ahead);
  return room;
}

}  // namespace

}  // namespace cuda

void require_gpu_workers() {}  // they are here

std::vector<std::unique_ptr<Worker>> make_gpu_workers(const TrainingPlan& plan, const GpuOptions& options) {
  cuda::prepare_process();
  device::require_device();
  const std::uint32_t ranks = plan.schedule.ranks();
  const std::uint32_t count = ranks * plan.schedule.data_parallel;
  auto shared = std::make_shared<cuda::Shared>(plan, device::current_device());
  const std::uint32_t shares = options.shares == 0 ? count : options.shares;
  if (shares < count)
    throw BadInput("the shares of the GPU", fmt::format("{} workers cannot have {} shares", count, shares));
  if (options.algorithms) shared->algorithms = layers::ProductAlgorithms::from_text(*options.algorithms);
  shared->shares = device::partition(shares);
  shared->exchange =
      std::make_unique<cuda::LocalExchange>(shared->plan.schedule, shared->guard, shared_pairs(shared->plan));
  std::vector<std::unique_ptr<cuda::CudaWorker>> made;
  for (std::uint32_t copy = 0; copy < plan.schedule.data_parallel; ++copy) {
    for (std::uint32_t r = 0; r < ranks; ++r) {
      auto compute = std::make_unique<cuda::RankCompute>(shared->plan, Rank{r}, &shared->shares[made.size()],
                                                         shared->algorithms, options.left_free);
      made.push_back(std::make_unique<cuda::CudaWorker>(shared, Rank{r}, copy, std::move(compute),
                                                        shared->exchange->side(Rank{r}, copy)));
    }
  }
  cuda::initialise(made);
  device::synchronize();
  if (options.algorithms) *options.algorithms = shared->algorithms.to_text();
  return {std::move_iterator(made.begin()), std::move_iterator(made.end())};
}

std::uint32_t left_free(const NcclOptions& options) { return cuda::room_for(options).left_free; }

std::unique_ptr<NcclSession> make_nccl_session() { return std::make_unique<cuda::NcclCommunicators>(); }

std::unique_ptr<Worker> make_nccl_worker(const TrainingPlan& plan, Rendezvous& rendezvous,
                                         const NcclOptions& options) {
  const auto begins = [&](const char* what) {
    if (options.begins) options.begins(what);
  };
  begins("device");
  cuda::prepare_process();
  device::require_device();
  auto shared = std::make_shared<cuda::Shared>(plan, options.device);
  shared->use_device();
  if (options.algorithms) shared->algorithms = layers::ProductAlgorithms::from_text(*options.algorithms);
  auto* communicators = static_cast<cuda::NcclCommunicators*>(options.session);
  if (!communicators) {
    shared->communicators = std::make_unique<cuda::NcclCommunicators>();
    communicators = shared->communicators.get();
  }
  const device::GreenContext* share = communicators->use_share(options.shares, options.share);
  const std::uint32_t ranks = plan.schedule.ranks();
  const auto deadline = std::chrono::milliseconds(plan.deadline.ns / 1'000'000);
  begins("communicators");
  auto transport = std::make_unique<cuda::NcclTransport>(
      shared->plan.schedule, rendezvous, shared->guard, *communicators, cuda::room_for(options),
      cuda::shares_threads(plan, options, rendezvous), deadline, cuda::largest_message(plan),
      shared_pairs(shared->plan), options.lost);
  begins("stages");
  const Rank rank{rendezvous.rank() % ranks};
  auto compute =
      std::make_unique<cuda::RankCompute>(shared->plan, rank, share, shared->algorithms, left_free(options));
  cuda::compute_alike(*compute, rendezvous, shared->algorithms);
  auto worker = std::make_unique<cuda::CudaWorker>(shared, rank, rendezvous.rank() / ranks,
                                                   std::move(compute), std::move(transport));
  begins("weights");
  worker->initialise();
  device::synchronize();
  if (options.algorithms) *options.algorithms = shared->algorithms.to_text();
  return worker;
}

}  // namespace plumb
