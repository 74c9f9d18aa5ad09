// plumb run: a schedule executed for real, step by step, on the CPU, on one GPU, or through NCCL.
#include "calibrate/calibration.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/checkpoint.hpp"
#include "runtime/cpu_backend.hpp"
#include "runtime/executor_overhead.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/runnable.hpp"
#include "runtime/step_record.hpp"
#include "runtime/train_step.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "schedules/model/parameters.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/report.hpp"
#include "tools/command.hpp"
#include "tools/dry_run.hpp"
#include "tools/interrupt.hpp"
#include "tools/measured_steps.hpp"
#include "tools/model_options.hpp"
#include "tools/options.hpp"
#include "tools/origin.hpp"
#include "tools/rank_processes.hpp"
#include "tools/run_outcome.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ostream.h>
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
  std::uint32_t gpus = 0;
  bool processes = false;
  bool shares = false;
  std::optional<bool> shared_threads;
  bool check_gradients = false;
  std::string checkpoint;
  std::uint64_t checkpoint_every = 0;
  bool resume = false;
  bool dry_run = false;
  bool json = false;
};

// `speaks`: this process says what is to be said of it.
TrainingPlan plan_of(const Options& options, Console& console, bool speaks) {
  TrainingPlan plan;
  plan.schedule = options.schedule.load();
  ModelOptions model = options.model;
  model.data = options.schedule.data_parallel;
  model.no_optimizer_sharding = true;  // each copy's workers hold all of it
  if (model.weights == "fp8") throw BadInput("--dtype", "fp8 can be simulated but not run; bf16 or fp32 can");
  if (model.gradients != "fp32")
    throw BadInput("--gradients", "bf16 can be simulated but not run; weight gradients are summed in fp32");
  if (options.device == "cpu") model.weights = "fp32";  // whatever --dtype says: its arithmetic is float32
  model.default_mlp_layers(plan.schedule.stages);
  const ModelConfig config = model.load();
  if (speaks) print_warnings(console, config);
  plan.model = config.shape;
  plan.layout = model.layout(plan.model, plan.schedule.stages, plan.schedule.ranks());
  plan.seed = options.seed;
  plan.optimizer.learning_rate = options.learning_rate;
  plan.deadline = parse_duration(options.deadline, "--deadline");
  require_runnable(plan);
  return plan;
}

// The workers of this process, and how they and those of others are reached.
class Team {
 public:
  /// `rendezvous`: where the other ranks have processes of their own.
  Team(const Options& options, const TrainingPlan& plan, const RankPlace& place, Rendezvous* rendezvous)
      : plan_(plan), gpu_(options.device == "cuda"), rendezvous_(rendezvous) {
    if (!options.calibration.empty()) algorithms_ = load_calibration(options.calibration).algorithms;
    NcclOptions nccl = gpu_of(place, options.shares);
    gpu_options_ = {plan.schedule.ranks() * plan.schedule.data_parallel, &algorithms_,
                    gpu_ ? left_free(nccl) : 0};
    nccl.shared_threads = options.shared_threads;
    nccl.algorithms = &algorithms_;
    crew_ =
        make_crew(plan, gpu_ ? RunDevice::cuda : RunDevice::cpu,
                  options.transport == "nccl" ? RunTransport::nccl : RunTransport::local, nccl, rendezvous);
  }

  /// Whether this process is the one that speaks.
  bool leads() const { return !rendezvous_ || rendezvous_->rank() == 0; }

  /// For messages.
  void at(const std::string& what) {
    if (rendezvous_) rendezvous_->at(what);
  }

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

  /// The one of this process's that speaks for it.
  const Worker* first() const { return crew_.workers.front().get(); }
  std::span<const StageMemory> stage_memory() const { return crew_.workers.front()->stage_memory(); }

 private:
  const TrainingPlan& plan_;
  std::map<std::string, std::string> algorithms_;
  GpuOptions gpu_options_;
  bool gpu_;
  Rendezvous* rendezvous_;
  Crew crew_;
};

// What every rank must have been given alike: where they differ, they would wait for each other for ever, or
// train something that nobody asked for.
std::vector<Given> given(const Options& options, const TrainingPlan& plan) {
  const Origin origin = tools::origin();
  const auto flag = [](bool set) { return std::string(set ? "given" : ""); };
  const auto steps = options.resume ? latest_checkpoint(options.checkpoint) : std::nullopt;
  std::string list;
  for (std::uint32_t r = 0; r < plan.schedule.ranks(); ++r) {
    const RankProgram program = make_rank_program(plan.schedule, Rank{r});
    for (std::uint32_t i = 0; i < program.steps.size(); ++i) list += describe(program, i);
  }
  std::string parameters;
  for (const StageContent& stage : plan.layout.stages) {
    for (const ParameterSpec& parameter : stage_parameters(plan.model, stage))
      parameters += fmt::format("{} {};", parameter.name, parameter.elements());
    parameters += "|";
  }
  std::error_code none;
  std::string data_bytes;
  if (!options.data.empty()) {
    const auto bytes = std::filesystem::file_size(options.data, none);
    data_bytes = none ? "that of no file" : fmt::format("{}", bytes);
  }
  const auto digest = [](const std::string& text) {
    return fmt::format("{} bytes, digest {:016x}", text.size(), std::hash<std::string>{}(text));
  };
  return {{"the version of plumb", origin.version + (origin.commit.empty() ? "" : " " + origin.commit)},
          {"--schedule", options.schedule.name},
          {"--ranks", fmt::format("{}", plan.schedule.ranks())},
          {"--dp", fmt::format("{}", plan.schedule.data_parallel)},
          {"--microbatches", fmt::format("{}", plan.schedule.microbatches)},
          {"the number of stages (--chunks)", fmt::format("{}", plan.schedule.stages)},
          {"--comms", plan.schedule.placement == CommPlacement::batched ? "batched" : "per-op"},
          {"--shared-threads", options.shared_threads ? flag(*options.shared_threads) : "as suits"},
          {"the order of operations", digest(list)},
          {"--model", plan.model.name},
          {"the model's shape", digest(parameters)},
          {"--sequence", fmt::format("{}", plan.layout.sequence)},
          {"--micro-batch-size", fmt::format("{}", plan.layout.micro_batch_size)},
          {"--dtype", options.device == "cpu" ? "fp32" : options.model.weights},
          {"--device", options.device},
          {"--transport", options.transport},
          {"--steps", fmt::format("{}", options.steps)},
          {"--seed", fmt::format("{}", plan.seed)},
          {"--lr", fmt::format("{}", plan.optimizer.learning_rate)},
          {"the size of --data in bytes", data_bytes},
          {"--check-gradients", flag(options.check_gradients)},
          {"--checkpoint", flag(!options.checkpoint.empty())},
          {"--checkpoint-every", fmt::format("{}", options.checkpoint_every)},
          {"--resume", flag(options.resume)},
          {"the step to resume after", steps ? fmt::format("{}", *steps) : ""}};
}

// Together: who of all was asked to stop.
int asked_to_stop(Worker& worker, double& norm, int own) {
  std::array<double, 3> all{norm, own == SIGINT ? 1.0 : 0.0, own == SIGTERM ? 1.0 : 0.0};
  worker.sum(all);
  norm = all[0];
  return all[2] > 0 ? SIGTERM : all[1] > 0 ? SIGINT : 0;
}

RunOutcome train(const Options& options, const TrainingPlan& plan, Team& team, const TrainingData& data,
                 const InterruptWish& wish, Console& console) {
  RunOutcome outcome;
  std::uint64_t done = 0;
  if (options.resume) {
    done = latest_checkpoint(options.checkpoint).value_or(0);
    team.each([&](Worker& worker) { load_checkpoint(worker, plan, options.checkpoint); });
  }
  const std::uint64_t first = done + 1;
  for (std::uint64_t step = first; step <= options.steps && outcome.stop.signal == 0; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    team.at(fmt::format("training step {}", step));
    StepResult result;
    team.each([&](Worker& worker) {
      const StepResult own = forward_and_backward(worker, plan, data, step);
      if (worker.rank().value == 0 && worker.copy() == 0) result = own;
    });
    if (step == 1 && options.check_gradients) outcome.check = team.check(data);
    const double clip = plan.optimizer.clip_norm;
    const int wanted = wish.signal();
    team.each([&](Worker& worker) {
      // Everybody has the same norm, but in a process of its own only its own copy of the result.
      const bool first_of_all = worker.rank().value == 0 && worker.copy() == 0;
      double norm = first_of_all ? result.gradient_norm : 0.0;
      const int stop = asked_to_stop(worker, norm, wanted);
      if (&worker == team.first()) outcome.stop = {stop, step};
      worker.update(step, plan.optimizer.learning_rate, clip > 0 && norm > clip ? clip / norm : 1);
    });
    const Duration whole{std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count()};
    const std::vector<StepTimes> records = team.times();
    const bool asked = options.checkpoint_every > 0 && step % options.checkpoint_every == 0;
    if (!options.checkpoint.empty() && (asked || outcome.stop.signal != 0 || step == options.steps)) {
      team.at(fmt::format("training step {}, its checkpoint", step));
      team.each([&](Worker& worker) { save_checkpoint(worker, plan, options.checkpoint, step); });
    }
    if (!team.leads()) continue;
    outcome.losses.push_back(result.loss);
    outcome.timeline = assemble_timeline(plan.schedule, records, team.stage_memory());
    // The pipeline's step alone.
    Timeline pipeline = outcome.timeline;
    for (RankTimeline& rank : pipeline.ranks) rank.update.reset();
    outcome.memory = team.memory(records);
    MemoryProfile unknown;
    unknown.ranks.resize(plan.schedule.ranks());
    outcome.report = summarize(pipeline, outcome.memory.value_or(unknown));
    if (step > first || options.steps == first || outcome.stop.signal != 0) {
      outcome.steps.push_back(outcome.report.step_time);
      outcome.whole.push_back(whole);
      outcome.overheads.push_back(executor_overhead(plan.schedule, outcome.timeline));
    }
    if (!options.json && console.err_is_terminal) {
      console.err << fmt::format("step {}/{}  loss {:.6g}  {}\n", step, options.steps, result.loss,
                                 plumb::to_text(outcome.report.step_time));
    }
  }
  if (outcome.stop.after_step == options.steps) outcome.stop.signal = 0;  // nothing was left out
  outcome.peaks = team.peaks();
  return outcome;
}

// The report first: what the steps came to is not lost because a file cannot be written any more.
void write(const RunOutcome& outcome, const Options& options, const TrainingPlan& plan, Console& console) {
  console.out << (options.json ? to_json(outcome) + "\n" : to_text(outcome, plan)) << std::flush;
  if (outcome.stop.signal != 0) {
    console.err << fmt::format(
        "plumb: stopped by {} after step {} of {}{}\n", outcome.stop.signal == SIGINT ? "SIGINT" : "SIGTERM",
        outcome.stop.after_step, options.steps,
        options.checkpoint.empty()
            ? "; without --checkpoint nothing is kept to go on from"
            : fmt::format("; --resume goes on from its checkpoint in {}", options.checkpoint));
  }
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
}

// Before a step is run, so that none is run in vain.
void check_outputs(const Options& options) {
  check_output(options.timeline);
  check_output(options.trace);
  if (options.checkpoint.empty()) return;
  const auto step = latest_checkpoint(options.checkpoint);
  // Of both runs' the two with the highest steps would stay, whosesoever they are.
  if (step && !options.resume) {
    throw BadInput("--checkpoint",
                   fmt::format("{} holds a checkpoint of step {} already: --resume goes on from "
                               "it, and a run from the beginning takes another folder",
                               options.checkpoint, *step));
  }
  prepare_checkpoints(options.checkpoint);
}

// As one rank of many, or as all.
int run_ranks(const Options& options, const RankPlace& place, Rendezvous* rendezvous, Console& console) {
  const InterruptWish wish;
  const TrainingPlan plan = plan_of(options, console, !rendezvous || rendezvous->rank() == 0);
  if (rendezvous) {
    if (const std::string text = disagreement(*rendezvous, given(options, plan)); !text.empty()) {
      if (rendezvous->rank() == 0) throw BadInput("the ranks", text);
      return 2;
    }
    const std::uint32_t count = plan.schedule.ranks() * plan.schedule.data_parallel;
    if (place.placement.ranks != count) {
      if (rendezvous->rank() != 0) return 2;
      throw BadInput("--ranks", fmt::format("and --dp make {} ranks, and {} started {}", count,
                                            place.placement.launcher, place.placement.ranks));
    }
  }
  if (options.resume) {
    const std::uint64_t done = check_checkpoint(plan, options.checkpoint);
    if (done >= options.steps) {
      throw BadInput("--steps",
                     fmt::format("is {}, and the checkpoint is of step {} already", options.steps, done));
    }
  }
  if (!rendezvous || rendezvous->rank() == 0) check_outputs(options);
  const TrainingData data = options.data.empty()
                                ? TrainingData::synthetic(plan.model, plan.layout, plan.seed)
                                : TrainingData::of_file(options.data, plan.model, plan.layout, plan.seed);
  Team team(options, plan, place, rendezvous);
  RunOutcome outcome = train(options, plan, team, data, wish, console);
  if (team.leads()) write(outcome, options, plan, console);
  return outcome.stop.signal == 0 ? 0 : 128 + outcome.stop.signal;
}

int run(const Options& options, Console& console) {
  if (options.resume && options.checkpoint.empty()) throw BadInput("--resume", "needs --checkpoint DIR");
  if (options.resume && options.check_gradients) {
    throw BadInput("--check-gradients", "is of the first step, and not with --resume");
  }
  if (options.checkpoint_every > 0 && options.checkpoint.empty())
    throw BadInput("--checkpoint-every", "needs --checkpoint DIR");
  if (!(options.learning_rate >= 0 && std::isfinite(options.learning_rate)))
    throw BadInput("--lr", fmt::format("is {}, expected a finite number from 0", options.learning_rate));
  if (parse_duration(options.deadline, "--deadline") <= Duration{})
    throw BadInput("--deadline", "is nothing: ranks have to wait for each other");
  if (options.transport != "nccl") {
    for (const auto& [given, flag] :
         {std::pair{options.gpus > 0, "--gpus"}, std::pair{options.shares, "--shares"},
          std::pair{options.shared_threads.has_value(), "--shared-threads"}}) {
      if (given) throw BadInput(flag, "is for --transport nccl");
    }
  }
  // A file that grows beyond its limit is an error to tell, not a death.
  std::signal(SIGXFSZ, SIG_IGN);
  RankRequest request;
  request.device = options.device == "cpu" ? RunDevice::cpu : RunDevice::cuda;
  request.transport = options.transport == "nccl" ? RunTransport::nccl : RunTransport::local;
  request.processes = options.processes;
  request.rank = options.rank;
  request.rendezvous = options.rendezvous;
  request.gpus = options.gpus;
  const auto ranks = [&] {
    const LoweredSchedule schedule = options.schedule.load();
    return schedule.ranks() * schedule.data_parallel;
  };
  if (options.dry_run) {
    request.ranks = ranks();
    const RankPlace place = place_ranks(request);
    if (place.placement.rank != 0) return 0;
    print_dry_run(console, plan_of(options, console, true), options.json,
                  [&](std::uint32_t rank) { return runs_on(request, place, options.shares, rank); });
    return 0;
  }
  if (options.rank) request.ranks = ranks();
  RankPlace place = place_ranks(request);
  if (place.where == RankPlace::Where::process_each) {
    // They meet before anything can go wrong in one of them alone.
    const Duration deadline = parse_duration(options.deadline, "--deadline");
    Rendezvous rendezvous(place.placement, std::chrono::milliseconds(deadline.ns / 1'000'000));
    try {
      return run_ranks(options, place, &rendezvous, console);
    } catch (const std::exception& error) {
      rendezvous.abort(error.what());
      throw;
    }
  }
  request.ranks = ranks();
  place = place_ranks(request);
  if (place.where == RankPlace::Where::process_each_to_start) {
    // So that bad input is said once, and before a GPU is touched.
    const TrainingPlan plan = plan_of(options, console, false);
    if (options.resume) check_checkpoint(plan, options.checkpoint);
    check_outputs(options);
    // A rank that is killed while it writes leaves that to us.
    struct Tidy {
      const std::string& folder;
      ~Tidy() {
        if (!folder.empty()) remove_unfinished_checkpoints(folder);
      }
    } const tidy{options.checkpoint};
    return start_ranks(request, place);
  }
  if (request.transport == RunTransport::local) return run_ranks(options, place, nullptr, console);
  Rendezvous alone(place.placement);
  return run_ranks(options, place, &alone, console);
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
  command->add_option("--device", o.device, "cuda, or cpu: the same arithmetic in float32")
      ->check(CLI::IsMember({"cuda", "cpu"}))
      ->capture_default_str();
  command
      ->add_option(
          "--transport", o.transport,
          "local: all ranks in this process, a share of the GPU or a thread each (CPU ranks that a launcher "
          "started: a process each, over TCP); nccl: a process a rank, started here, under MPS where they "
          "share a GPU, unless a launcher has")
      ->check(CLI::IsMember({"local", "nccl"}))
      ->capture_default_str();
  command->add_flag("--processes", o.processes, "cpu: start a process a rank here, which speak over TCP");
  command->add_option("--gpus", o.gpus, "GPUs of this machine that nccl's ranks are dealt out over [all]")
      ->check(CLI::Range(1u, 1024u));
  command->add_flag("--shares", o.shares,
                    "nccl: ranks on one GPU have a part of its multiprocessors each, not all of it by turns");
  command->add_flag_callback(
      "--shared-threads", [&o] { o.shared_threads = true; },
      "nccl: two of its host threads a rank for all messages, not one for each peer and direction [where "
      "ranks share a GPU without --shares and those would be more than this machine's cores]");
  command->add_flag_callback(
      "--no-shared-threads", [&o] { o.shared_threads = false; }, "nccl: one for each, in any case");
  command->add_option("--rank", o.rank, "Without a launcher: which of the ranks this process is")
      ->type_name("R");
  command->add_option("--rendezvous", o.rendezvous, "Where ranks in processes of their own meet [launcher's]")
      ->type_name("HOST:PORT");
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
  command->add_flag("--dry-run", o.dry_run,
                    "Print where each rank runs, its stages, bytes and schedule; touch no device");
  command->add_option("--timeline", o.timeline, "Write the last step's spans as plumb.timeline/1")
      ->type_name("FILE");
  command->add_option("--trace", o.trace, "Write the last step as a Chrome trace")->type_name("FILE");
  add_json(*command, o.json);
  command->footer(
      "Under torchrun, srun or mpirun each process is one rank; nothing has to be said of it. Ctrl-C, or "
      "SIGTERM,\n"
      "to any rank ends the run after the step in flight, with its checkpoint and report, and exit code 130 "
      "or\n"
      "143; a second one ends it at once.");
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
