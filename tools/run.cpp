// plumb run: a schedule executed for real, step by step, on the CPU, on one GPU, or through NCCL.
#include "calibrate/calibration.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/checkpoint.hpp"
#include "runtime/cpu_backend.hpp"
#include "runtime/executor_overhead.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/launch/mps.hpp"
#include "runtime/launch/own_ranks.hpp"
#include "runtime/train_step.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/report.hpp"
#include "tools/command.hpp"
#include "tools/dry_run.hpp"
#include "tools/measured_steps.hpp"
#include "tools/model_options.hpp"
#include "tools/options.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace plumb::tools {
namespace {

struct Options {
  ScheduleOptions schedule;
  ModelOptions model;
  std::string device = "cuda";
  std::string transport = "local";
  std::string calibration;
  std::string data;
  std::string deadline = "60s";
  std::string timeline;
  std::string trace;
  std::uint64_t steps = 10;
  std::uint64_t seed = 1;
  double learning_rate = Optimizer{}.learning_rate;
  std::optional<std::uint32_t> rank;
  std::string rendezvous;
  std::uint32_t gpus = 1;
  bool shares = false;
  bool mps = false;
  bool check_gradients = false;
  std::string checkpoint;
  std::uint64_t checkpoint_every = 0;
  bool resume = false;
  bool dry_run = false;
  bool json = false;
};

TrainingPlan plan_of(const Options& options, Console& console) {
  TrainingPlan plan;
  plan.schedule = options.schedule.load();
  ModelOptions model = options.model;
  model.data = options.schedule.data_parallel;
  if (options.device == "cpu") model.weights = "fp32";  // whatever --dtype says: its arithmetic is float32
  model.default_mlp_layers(plan.schedule.stages);
  const ModelConfig config = model.load();
  print_warnings(console, config);
  plan.model = config.shape;
  plan.layout = model.layout(plan.model, plan.schedule.stages, plan.schedule.ranks());
  plan.seed = options.seed;
  plan.optimizer.learning_rate = options.learning_rate;
  plan.deadline = parse_duration(options.deadline, "--deadline");
  return plan;
}

// The workers of this process, and how they and those of others are reached.
class Team {
 public:
  Team(const Options& options, const TrainingPlan& plan) : plan_(plan) {
    if (!options.calibration.empty()) algorithms_ = load_calibration(options.calibration).algorithms;
    const std::uint32_t count = plan.schedule.ranks() * plan.schedule.data_parallel;
    if (options.device == "cpu") {
      if (options.transport == "nccl") throw BadInput("--transport", "nccl is for --device cuda");
      crew_.workers = make_cpu_workers(plan);
      return;
    }
    gpu_ = true;
    gpu_options_ = {count, &algorithms_, PairPriority::equal};
    if (options.transport == "local") {
      crew_.workers = make_gpu_workers(plan, gpu_options_);
      return;
    }
    PlacementFlags flags;
    flags.rank = options.rank;
    flags.ranks = count;
    flags.rendezvous = options.rendezvous;
    const Placement placement = discover(flags, process_environment(), getppid());
    if (placement.ranks != count) {
      throw BadInput("--ranks", fmt::format("and --dp make {} ranks, and {} started {}", count,
                                            placement.launcher, placement.ranks));
    }
    rendezvous_ =
        std::make_unique<Rendezvous>(placement, std::chrono::milliseconds(plan.deadline.ns / 1'000'000));
    NcclOptions nccl;
    nccl.device = placement.local_rank % options.gpus;
    if (options.shares) {
      nccl.shares = (count + options.gpus - 1) / options.gpus;
      nccl.share = placement.local_rank / options.gpus;
    }
    nccl.algorithms = &algorithms_;
    crew_.workers.push_back(make_nccl_worker(plan, *rendezvous_, nccl));
    crew_.rendezvous = rendezvous_.get();
  }

  /// Whether this process is the one that speaks.
  bool leads() const { return !rendezvous_ || rendezvous_->rank() == 0; }

  void each(const std::function<void(Worker&)>& body) { run_all(crew_, body); }

  /// Of the first copy's ranks; empty where this process does not lead.
  std::vector<StepTimes> times() { return records_of(crew_, plan_); }

  GradientCheck check(const TrainingData& data) {
    const Unpipelined expected =
        gpu_ ? run_unpipelined_on_gpu(plan_, data, 1, gpu_options_) : run_unpipelined(plan_, data, 1);
    GradientCheck worst;
    for (const auto& worker : crew_.workers) {
      NamedGradients own, of_expected;
      add_gradients(*worker, plan_, own);
      for (const auto& [name, gradients] : own) of_expected[name] = expected.gradients.at(name);
      const GradientCheck check = compare_gradients(own, of_expected);
      if (worst.worst_parameter.empty() || !(check.max_difference <= worst.max_difference)) worst = check;
    }
    if (!rendezvous_) return worst;
    const std::string mine = fmt::format("{:a} {}", worst.max_difference, worst.worst_parameter);
    for (const std::string& one : rendezvous_->gather(mine)) {
      const double difference = std::strtod(one.c_str(), nullptr);
      if (!(difference <= worst.max_difference)) worst = {difference, one.substr(one.find(' ') + 1)};
    }
    return worst;
  }

  /// [rank] of the first copy, where this process leads.
  std::vector<Bytes> peaks() {
    std::vector<double> all(std::size_t{plan_.schedule.ranks()} * plan_.schedule.data_parallel);
    each([&](Worker& worker) {
      std::vector<double> own(all.size());
      own[std::size_t{worker.copy()} * plan_.schedule.ranks() + worker.rank().value] =
          static_cast<double>(worker.program().peak_activations.count);
      worker.sum(own);
      if (worker.rank().value == 0 && worker.copy() == 0) all = own;
    });
    std::vector<Bytes> peaks;
    for (std::uint32_t r = 0; r < plan_.schedule.ranks(); ++r)
      peaks.push_back({static_cast<std::int64_t>(all[r])});
    return peaks;
  }

  /// Of the first copy's ranks, where all of them are in this process.
  std::optional<MemoryProfile> memory(const std::vector<StepTimes>& records) const {
    if (crew_.rendezvous) return std::nullopt;
    return recorded_memory(crew_, plan_, records);
  }

  std::span<const StageMemory> stage_memory() const { return crew_.workers.front()->stage_memory(); }

 private:
  const TrainingPlan& plan_;
  std::map<std::string, std::string> algorithms_;
  GpuOptions gpu_options_;
  bool gpu_ = false;
  std::unique_ptr<Rendezvous> rendezvous_;
  Crew crew_;
};

struct Outcome {
  std::vector<Duration> steps;  // all but the first, in which everything is done for the first time
  std::vector<Duration> whole;  // the same with the data, the optimizer and all that the host does
  std::vector<ExecutorOverhead> overheads;  // of the same steps
  std::vector<double> losses;
  std::optional<GradientCheck> check;
  Timeline timeline;  // of the last step, with the optimizer's
  std::optional<MemoryProfile> memory;
  Report report;  // of its pipeline
  std::vector<Bytes> peaks;
};

std::int64_t at_share(std::vector<Duration> sorted, double share) {
  if (sorted.empty()) return 0;
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)].ns;
}

nlohmann::json spread_of(const std::vector<Duration>& durations) {
  return {{"median", at_share(durations, 0.5)},
          {"min", at_share(durations, 0)},
          {"p95", at_share(durations, 0.95)},
          {"n", durations.size()}};
}

// Of the step whose share is the median.
const ExecutorOverhead& typical_overhead(Outcome& outcome) {
  auto& all = outcome.overheads;
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end(), [](const ExecutorOverhead& a, const ExecutorOverhead& b) {
    return a.share() < b.share();
  });
  return *middle;
}

std::string to_json(Outcome& outcome) {
  nlohmann::json document;
  document["schema"] = "plumb.run/1";
  document["step_time_ns"] = spread_of(outcome.steps);
  document["training_step_ns"] = spread_of(outcome.whole);
  document["loss"] = outcome.losses;
  document["ranks"] = nlohmann::json::array();
  for (std::size_t r = 0; r < outcome.report.ranks.size(); ++r) {
    const RankReport& rank = outcome.report.ranks[r];
    document["ranks"].push_back({{"compute_busy_ns", rank.compute_busy.ns},
                                 {"idle_ns", rank.idle.ns},
                                 {"peak_activation_bytes", outcome.peaks[r].count}});
  }
  document["idle_share"] = outcome.report.idle_share;
  const ExecutorOverhead& overhead = typical_overhead(outcome);
  document["executor_overhead"] = {
      {"share", overhead.share()}, {"gaps_ns", overhead.gaps.ns}, {"longest_ns", overhead.longest.ns}};
  if (outcome.check) {
    document["gradient_check"] = {{"max_difference", outcome.check->max_difference},
                                  {"worst_parameter", outcome.check->worst_parameter}};
  }
  return document.dump();
}

std::string to_text(Outcome& outcome, const TrainingPlan& plan) {
  std::string text = fmt::format("{}: {} ranks, {} microbatches\n", plan.schedule.name, plan.schedule.ranks(),
                                 plan.schedule.microbatches);
  const Duration median{at_share(outcome.steps, 0.5)};
  const double tokens =
      static_cast<double>(plan.layout.tokens()) * plan.schedule.microbatches * plan.schedule.data_parallel;
  text += fmt::format("step      {} median of {}, from {} to {} (95 %)\n", plumb::to_text(median),
                      outcome.steps.size(), plumb::to_text(Duration{at_share(outcome.steps, 0)}),
                      plumb::to_text(Duration{at_share(outcome.steps, 0.95)}));
  const Duration whole{at_share(outcome.whole, 0.5)};
  text += fmt::format("tokens/s  {:.0f}, of {} with data and optimizer\n",
                      tokens / static_cast<double>(whole.ns) * 1e9, plumb::to_text(whole));
  text += fmt::format("idle      {:.1f} % of all ranks' time\n", 100 * outcome.report.idle_share);
  const ExecutorOverhead& overhead = typical_overhead(outcome);
  text += fmt::format(
      "executor  {:.2f} % of the step is gaps on its critical path that no dependency explains: {}",
      100 * overhead.share(), plumb::to_text(overhead.gaps));
  if (overhead.before) {
    text += fmt::format(", the longest {} before {} on rank {}", plumb::to_text(overhead.longest),
                        to_string(*overhead.before), overhead.rank.value);
  }
  text += "\n";
  text += fmt::format("loss      {:.6g}, at first {:.6g}\n", outcome.losses.back(), outcome.losses.front());
  if (outcome.check) {
    text += fmt::format("gradients differ by at most {:.3g} of their squared size ({})\n",
                        outcome.check->max_difference, outcome.check->worst_parameter);
  }
  for (std::size_t r = 0; r < outcome.report.ranks.size(); ++r) {
    const RankReport& rank = outcome.report.ranks[r];
    text += fmt::format("rank {:<4} busy {}, idle {}, activations at most {}\n", r,
                        plumb::to_text(rank.compute_busy), plumb::to_text(rank.idle),
                        plumb::to_text(outcome.peaks[r]));
  }
  return text;
}

// Starts the ranks of `--transport nccl` as processes of this program, where nobody else has.
int launch(const Options& options, std::uint32_t count, Console& console) {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  OwnRanks job;
  job.ranks = count;
  job.program = "/proc/self/exe";
  for (std::size_t at = bytes.find('\0') + 1; at < bytes.size(); at = bytes.find('\0', at) + 1)
    job.arguments.emplace_back(bytes.c_str() + at);
  if (options.gpus < count) job.environment = one_gpu_environment((count + options.gpus - 1) / options.gpus);
  std::optional<Mps> mps;
  if (options.mps && !mps_is_running()) {
    mps.emplace();
    for (auto& variable : mps->environment()) job.environment.push_back(std::move(variable));
  }
  console.out.flush();
  const OwnRanksResult result = run_own_ranks(job);
  if (!result.failure.empty()) console.err << "plumb: " << result.failure << "\n";
  return result.exit_code > 3 ? 3 : result.exit_code;
}

int run(const Options& options, Console& console) {
  if (options.resume && options.checkpoint.empty()) throw BadInput("--resume", "needs --checkpoint DIR");
  if (options.resume && options.check_gradients) {
    throw BadInput("--check-gradients", "is of the first step, and not with --resume");
  }
  const TrainingPlan plan = plan_of(options, console);
  if (options.dry_run) {
    print_dry_run(console, plan, options.json);
    return 0;
  }
  // A file that grows beyond its limit is an error to tell, not a death.
  std::signal(SIGXFSZ, SIG_IGN);
  const std::uint32_t count = plan.schedule.ranks() * plan.schedule.data_parallel;
  if (options.device == "cuda" && options.transport == "nccl" && !options.rank && count > 1 &&
      discover({}, process_environment(), getppid()).launcher == "single")
    return launch(options, count, console);

  const TrainingData data = options.data.empty()
                                ? TrainingData::synthetic(plan.model, plan.layout, plan.seed)
                                : TrainingData::of_file(options.data, plan.model, plan.layout, plan.seed);
  Team team(options, plan);
  Outcome outcome;
  std::uint64_t done = 0;
  if (options.resume) {
    done = latest_checkpoint(options.checkpoint).value_or(0);
    team.each([&](Worker& worker) { load_checkpoint(worker, plan, options.checkpoint); });
    if (done >= options.steps) {
      throw BadInput("--steps",
                     fmt::format("is {}, and the checkpoint is of step {} already", options.steps, done));
    }
  }
  const std::uint64_t first = done + 1;
  for (std::uint64_t step = first; step <= options.steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    StepResult result;
    team.each([&](Worker& worker) {
      const StepResult own = forward_and_backward(worker, plan, data, step);
      if (worker.rank().value == 0 && worker.copy() == 0) result = own;
    });
    if (step == 1 && options.check_gradients) outcome.check = team.check(data);
    const double clip = plan.optimizer.clip_norm;
    team.each([&](Worker& worker) {
      // Everybody has the same norm, but in a process of its own only its own copy of the result.
      std::vector<double> norm{worker.rank().value == 0 && worker.copy() == 0 ? result.gradient_norm : 0.0};
      worker.sum(norm);
      worker.update(step, plan.optimizer.learning_rate, clip > 0 && norm[0] > clip ? clip / norm[0] : 1);
    });
    const Duration whole{std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count()};
    const std::vector<StepTimes> records = team.times();
    const bool asked = options.checkpoint_every > 0 && step % options.checkpoint_every == 0;
    if (!options.checkpoint.empty() && (asked || step == options.steps)) {
      team.each([&](Worker& worker) { save_checkpoint(worker, plan, options.checkpoint, step); });
    }
    if (!team.leads()) continue;
    outcome.losses.push_back(result.loss);
    outcome.timeline = assemble_timeline(plan.schedule, records, team.stage_memory());
    MemoryProfile nothing;
    nothing.ranks.resize(plan.schedule.ranks());
    // The pipeline's step alone.
    Timeline pipeline = outcome.timeline;
    for (RankTimeline& rank : pipeline.ranks) rank.update.reset();
    outcome.report = summarize(pipeline, nothing);
    outcome.memory = team.memory(records);
    if (step > first || options.steps == first) {
      outcome.steps.push_back(outcome.report.step_time);
      outcome.whole.push_back(whole);
      outcome.overheads.push_back(executor_overhead(plan.schedule, outcome.timeline));
    }
    if (!options.json && console.err_is_terminal) {
      console.err << fmt::format("step {}/{}  loss {:.6g}  {}\n", step, options.steps, result.loss,
                                 plumb::to_text(outcome.report.step_time));
    }
  }
  outcome.peaks = team.peaks();
  if (!team.leads()) return 0;
  if (!options.timeline.empty()) {
    write_output(console, options.timeline,
                 [&](std::ostream& out) { write_timeline(out, outcome.timeline); });
  }
  if (!options.trace.empty()) {
    write_output(console, options.trace, [&](std::ostream& out) {
      write_chrome_trace(out, {{outcome.timeline, outcome.memory ? &*outcome.memory : nullptr, ""}},
                         TraceOptions{});
    });
  }
  console.out << (options.json ? to_json(outcome) + "\n" : to_text(outcome, plan));
  return 0;
}

}  // namespace

Command run_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command =
      app.add_subcommand("run", "Execute a schedule for real, and train: on CPU threads or on GPUs");
  command->add_option("--schedule", o.schedule.name, "A schedule's name, or a file")
      ->required()
      ->type_name("NAME|FILE");
  o.schedule.add_shape_to(*command);
  o.schedule.add_comms_to(*command);
  command->add_option("--dp", o.schedule.data_parallel, "Data-parallel copies, which sum their gradients")
      ->type_name("D")
      ->check(CLI::Range(1u, 1u << 20))
      ->capture_default_str();
  o.model.add_model_to(*command);
  o.model.add_layout_to(*command);
  command->add_option("--device", o.device, "cuda, or cpu: threads with real arithmetic in float32")
      ->check(CLI::IsMember({"cuda", "cpu"}))
      ->capture_default_str();
  command
      ->add_option(
          "--transport", o.transport,
          "local: all ranks in this process, a share of the GPU each; nccl: a process a rank, started "
          "here unless a launcher has")
      ->check(CLI::IsMember({"local", "nccl"}))
      ->capture_default_str();
  command->add_option("--gpus", o.gpus, "GPUs of this machine that nccl's ranks are spread over")
      ->check(CLI::Range(1u, 1024u))
      ->capture_default_str();
  command->add_flag("--shares", o.shares, "nccl: ranks on one GPU have a share of it each");
  command->add_flag("--mps", o.mps, "nccl: start NVIDIA's MPS for ranks that share a GPU, and stop it");
  command->add_option("--rank", o.rank, "nccl, without a launcher: this process's rank")->type_name("R");
  command->add_option("--rendezvous", o.rendezvous, "Where nccl's ranks meet")->type_name("HOST:PORT");
  command->add_option("--steps", o.steps, "Steps to train")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--lr", o.learning_rate, "AdamW's learning rate")->capture_default_str();
  command->add_option("--seed", o.seed, "Of weights and data")->capture_default_str();
  command->add_option("--data", o.data, "Text, a byte a token, or .bin, two bytes a token [made up]")
      ->type_name("FILE");
  command->add_option("--calibration", o.calibration, "Compute matrix products as this calibration did")
      ->type_name("NAME|FILE");
  command->add_option("--deadline", o.deadline, "How long a rank waits for another")
      ->type_name("TIME")
      ->capture_default_str();
  command->add_flag("--check-gradients", o.check_gradients,
                    "Hold the first step's gradients against the model's in one piece");
  command
      ->add_option("--checkpoint", o.checkpoint,
                   "Write a checkpoint there when the last step is done, and the two newest stay")
      ->type_name("DIR");
  command->add_option("--checkpoint-every", o.checkpoint_every, "Also whenever so many steps are done")
      ->type_name("N");
  command->add_flag("--resume", o.resume, "Go on from the newest checkpoint of --checkpoint, up to --steps");
  command->add_flag("--dry-run", o.dry_run, "Print each rank's stages, bytes and schedule; touch no device");
  command->add_option("--timeline", o.timeline, "Write the last step's spans as plumb.timeline/1")
      ->type_name("FILE");
  command->add_option("--trace", o.trace, "Write the last step as a Chrome trace")->type_name("FILE");
  add_json(*command, o.json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
