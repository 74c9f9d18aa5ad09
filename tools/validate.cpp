// plumb validate: the same steps predicted and measured, side by side.
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/executor_overhead.hpp"
#include "runtime/training_data.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "schedules/ir/liveness.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "schedules/model/parameters.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/estimate.hpp"
#include "tools/command.hpp"
#include "tools/measured_steps.hpp"
#include "tools/origin.hpp"
#include "tools/planner/shared_sockets.hpp"
#include "tools/rank_processes.hpp"
#include "tools/step_options.hpp"
#include "tools/validation.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <fmt/ranges.h>
#include <unistd.h>

namespace plumb::tools {
namespace {

struct Options {
  std::string calibration;
  std::vector<std::string> schedules;
  std::uint32_t ranks = 0;
  std::vector<std::uint32_t> microbatches;
  ModelOptions model;
  DeviceOptions gpu;
  LoweringFlags lowering;
  ExecutionFlags execution;
  std::string device = "cuda";
  std::string transport = "local";
  std::uint32_t steps = 5;
  std::string tolerance = "5%";
  std::string deadline = "60s";
  std::string trace;
  std::string timelines;
  std::string out;
  std::string measured;
  std::vector<std::string> summarize;
  std::optional<bool> shared_threads;
  bool resume = false;
  bool json = false;
};

// `5%` -> 0.05
double parse_tolerance(const std::string& text) {
  double percent = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, percent);
  if (error != std::errc{} || stop + 1 != end || *stop != '%' || !(percent >= 0 && percent <= 1000))
    throw BadInput("--tolerance", fmt::format("'{}' is not a percentage from 0% to 1000%, as in 5%", text));
  return percent / 100;
}

struct NamedShape {
  const Generator* schedule;
  Shape shape;
};

// `interleaved-1f1b:2` -> that schedule in 2 chunks.
NamedShape parse_schedule_name(const std::string& text, std::uint32_t ranks, std::uint32_t microbatches) {
  Shape shape{ranks, microbatches, std::nullopt, std::nullopt};
  const std::size_t colon = text.find(':');
  if (colon != std::string::npos) {
    std::uint32_t chunks = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, chunks);
    if (error != std::errc{} || stop != end || chunks == 0)
      throw BadInput("--schedules", fmt::format("'{}': behind the colon stands the number of chunks", text));
    shape.chunks = chunks;
  }
  const Generator& found = generator(text.substr(0, colon));
  return {&found, legal_shape(found, shape)};
}

// Of a step's repetitions, from the fastest to the slowest.
constexpr std::size_t most_timelines = 9;

Bytes predicted_activations(const LoweredSchedule& schedule, const CostModel& cost) {
  Liveness liveness(schedule, cost);
  Bytes peak;
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r)
    peak = std::max(peak, peak_activations(liveness.of(Rank{r})));
  return peak;
}

// How long each phase of a row took, up to the next one's begin.
class Phases {
 public:
  void begin(const std::string& what) {
    end();
    phases_.emplace_back(what, Duration{});
    begun_ = Clock::now();
  }
  void end() {
    if (phases_.empty()) return;
    phases_.back().second = {std::chrono::nanoseconds(Clock::now() - begun_).count()};
    begun_ = Clock::now();
  }
  std::string text() const {
    std::string text;
    for (const auto& [what, took] : phases_)
      text +=
          fmt::format("{}{} {:.1f} s", text.empty() ? "" : ", ", what, static_cast<double>(took.ns) / 1e9);
    return text;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::vector<std::pair<std::string, Duration>> phases_;
  Clock::time_point begun_;
};

struct Validator {
  const Options& options;
  Console& console;
  Calibration calibration;
  DeviceDescription gpu;
  ModelConfig config;
  ModelOptions model;
  NcclOptions nccl;
  std::unique_ptr<NcclSession> session;  // with NCCL, for all rows
  Rendezvous* rendezvous = nullptr;      // where ranks are processes
  std::optional<MicrobatchData> data;    // of every microbatch of every row

  bool leads() const { return rendezvous == nullptr || rendezvous->rank() == 0; }
  std::string transport() const { return options.device == "cpu" ? "threads" : options.transport; }

  const ValidationRow* find(const NamedShape& named, const std::vector<ValidationRow>& rows) const {
    const auto found = std::find_if(rows.begin(), rows.end(), [&](const ValidationRow& row) {
      return row.schedule == named.schedule->name && row.chunks == *named.shape.chunks &&
             row.ranks == named.shape.ranks && row.microbatches == named.shape.microbatches &&
             row.model == config.shape.name && row.transport == transport();
    });
    return found == rows.end() ? nullptr : &*found;
  }

  // What rank 0 knows, on every rank.
  bool agreed(bool mine) const {
    return rendezvous == nullptr ? mine : rendezvous->broadcast(mine ? "yes" : "no") == "yes";
  }

  // A line beside the progress of a terminal.
  void say(const std::string& line) const {
    if (leads()) fmt::print(console.err, "{}{}\n", console.err_is_terminal ? "\r\033[K" : "", line);
  }

  struct Expected {
    ModelRun run;
    LoweredSchedule schedule;
    Prediction prediction;
    ValidationRow row;  // but for what is measured
  };

  Expected expected(const NamedShape& named) const {
    Expected step{{gpu, config.shape, {}, calibration},
                  make_lowered(*named.schedule, named.shape, options.lowering.load()),
                  {},
                  {}};
    const LoweredSchedule& schedule = step.schedule;
    ModelOptions flags = model;
    flags.no_optimizer_sharding = true;  // as plumb run trains
    flags.data = options.lowering.data_parallel;
    step.run.layout = flags.layout(step.run.model, schedule.stages, schedule.ranks());
    CostModel cost = step.run.costs();
    // What is measured is the pipeline's work; the optimizer's step stands behind it in a prediction.
    for (StageCost& stage : cost.stages) stage.optimizer_step = {};
    const ExecutionOptions execution = options.execution.load();
    if (!leads()) return step;
    step.prediction = options.device == "cuda"
                          ? predict_as_measured(schedule, cost, execution, calibration, Detail::segments)
                          : predict(schedule, cost, execution);
    ValidationRow& row = step.row;
    row.schedule = named.schedule->name;
    row.chunks = *named.shape.chunks;
    row.model = step.run.model.name;
    row.ranks = schedule.ranks();
    row.microbatches = schedule.microbatches;
    row.transport = transport();
    row.predicted = figures_of(step.prediction.report, predicted_activations(schedule, cost));
    row.predicted.sm_clock_mhz = step.prediction.sm_clock_mhz;
    return step;
  }

  // Nothing runs: what was measured of this step before, beside today's prediction.
  ValidationRow again(const NamedShape& named, const std::vector<ValidationRow>& before) const {
    Expected step = expected(named);
    const ValidationRow* row = find(named, before);
    if (!row) {
      throw BadInput(options.measured,
                     fmt::format("holds no step of {}:{}, {} ranks, {} microbatches, {}, over {}",
                                 step.row.schedule, step.row.chunks, step.row.ranks, step.row.microbatches,
                                 step.row.model, step.row.transport));
    }
    ValidationRow both = *row;
    both.predicted = step.row.predicted;
    both.classes = class_errors(step.prediction.timeline, row->classes);
    return both;
  }

  // A CPU's clock is not what its steps hang on.
  Repetitions repetitions() const {
    Repetitions repeated;
    repeated.least = options.steps;
    if (options.device == "cpu") repeated.warm_up = repeated.observe = Duration{};
    return repeated;
  }

  const MicrobatchData& microbatch(const TrainingPlan& plan) {
    if (!data) data = TrainingData::synthetic(plan.model, plan.layout, plan.seed).microbatch(1, 0);
    return *data;
  }

  // On ranks other than 0 only what a step needs of them.
  ValidationRow row_of(const NamedShape& named, bool with_trace, Phases& phases) {
    phases.begin("prediction");
    Expected step = expected(named);
    TrainingPlan plan;
    plan.schedule = step.schedule;
    plan.model = step.run.model;
    plan.layout = step.run.layout;
    plan.deadline = parse_duration(options.deadline, "--deadline");
    const auto begins = [&](const std::string& what) { phases.begin(what); };
    nccl.begins = begins;
    const auto begun = std::chrono::steady_clock::now();
    Crew crew =
        make_crew(plan, options.device == "cpu" ? RunDevice::cpu : RunDevice::cuda,
                  options.transport == "nccl" ? RunTransport::nccl : RunTransport::local, nccl, rendezvous);
    ValidationRow& row = step.row;
    row.preparing = {std::chrono::nanoseconds(std::chrono::steady_clock::now() - begun).count()};
    const Bytes peak = peak_activations(crew);
    // Processes take long to connect, and where one of them stands still this says how far they came.
    phases.end();
    if (rendezvous) say(fmt::format("{}: prepared ({}), running", row.schedule, phases.text()));
    const std::vector<MeasuredStep> steps =
        measure_steps(crew, plan, microbatch(plan), repetitions(), begins);
    phases.end();
    if (steps.empty()) return {};

    const MeasuredStep& middle = steps[steps.size() / 2];
    if (with_trace) {
      write_output(console, options.trace, [&](std::ostream& out) {
        write_chrome_trace(out, {{step.prediction.timeline, &step.prediction.memory, "predicted"},
                                 {middle.timeline, &middle.memory, "measured"}});
      });
    }
    if (!options.timelines.empty()) {
      const std::string name = fmt::format("{}/{}-{}-{}ranks-{}mb", options.timelines, row.schedule,
                                           row.chunks, row.ranks, row.microbatches);
      const auto write = [&](const std::string& which, const Timeline& timeline) {
        write_output(console, fmt::format("{}.{}.json", name, which),
                     [&](std::ostream& out) { write_timeline(out, timeline); });
      };
      write("predicted", step.prediction.timeline);
      const std::size_t written = std::min(steps.size(), most_timelines);
      for (std::size_t i = 0; i < written; ++i) {
        const std::size_t which = written > 1 ? i * (steps.size() - 1) / (written - 1) : 0;
        write(fmt::format("{}", i), steps[which].timeline);
      }
    }
    row.measured = figures_of(middle.report, peak);
    row.measured.sm_clock_mhz = middle.sm_clock_mhz;
    row.fastest = steps.front().report.step_time;
    row.slowest = steps.back().report.step_time;
    row.executor_overhead = executor_overhead(plan.schedule, middle.timeline).share();
    row.classes = class_errors(step.prediction.timeline, middle.timeline);
    return row;
  }
};

DeviceDescription measured_gpu(const Options& options, const Calibration& calibration) {
  if (!options.gpu.gpu.empty()) return options.gpu.load();
  if (const DeviceDescription* known = measured_device(calibration)) return *known;
  throw BadInput("--gpu", fmt::format("is required: {} says of no known device what it was measured on",
                                      options.calibration));
}

// For people who wait.
std::string line_of(const ValidationRow& row, const Phases& phases) {
  const auto at_clock = [](std::uint32_t mhz) {
    return mhz ? fmt::format(" at {} MHz", mhz) : std::string();
  };
  return fmt::format("{}{}, predicted {}{}: {:+.2f} %{}", to_text(row.measured.step_time),
                     at_clock(row.measured.sm_clock_mhz), to_text(row.predicted.step_time),
                     at_clock(row.predicted.sm_clock_mhz), 100 * row.step_error(),
                     row.preparing.ns > 0 ? fmt::format(" ({})", phases.text()) : "");
}

// What was measured before, of one file or several.
int summarize(const Options& options, Console& console) {
  std::vector<ValidationRow> rows;
  std::uint32_t run = 0;
  for (const std::string& file : options.summarize) {
    for (ValidationRow& row : validation_rows(read_input(file), file)) {
      row.run = run;
      rows.push_back(std::move(row));
    }
    ++run;
  }
  if (rows.empty()) throw BadInput("--summarize", "the files hold no step");
  console.out << (options.json ? to_json(rows) : to_markdown(rows));
  return 0;
}

struct Request {
  std::vector<NamedShape> shapes;  // to run, in this order
  ModelOptions model;              // every schedule runs the same
  double tolerance = 0;
};

Request request_of(const Options& options) {
  const auto require = [](bool given, const char* name) {
    if (!given) throw BadInput(name, "is required");
  };
  require(!options.calibration.empty(), "--calibration");
  require(!options.schedules.empty(), "--schedules");
  require(options.ranks > 0, "--ranks");
  require(!options.microbatches.empty(), "--microbatches");
  Request request{{}, options.model, parse_tolerance(options.tolerance)};
  if (options.resume && options.out.empty()) throw BadInput("--resume", "needs --out FILE");
  std::uint32_t most_chunks = 1;
  for (const std::uint32_t microbatches : options.microbatches) {
    for (const std::string& name : options.schedules) {
      request.shapes.push_back(parse_schedule_name(name, options.ranks, microbatches));
      most_chunks = std::max(most_chunks, *request.shapes.back().shape.chunks);
    }
  }
  request.model.default_mlp_layers(std::uint64_t{options.ranks} * most_chunks);
  return request;
}

Validator validator_of(const Options& options, const Request& request, Console& console) {
  Calibration calibration = load_calibration(options.calibration);
  DeviceDescription gpu = measured_gpu(options, calibration);
  return {options,
          console,
          std::move(calibration),
          std::move(gpu),
          request.model.load(),
          request.model,
          {},
          nullptr,
          nullptr,
          std::nullopt};
}

// What every rank must have been given alike: otherwise they would wait for each other for ever, or a step be
// predicted that nobody ran.
std::vector<Given> given(const Validator& validator) {
  const Options& options = validator.options;
  const Origin origin = tools::origin();
  const auto digest = [](const std::string& text) {
    return fmt::format("{} bytes, digest {:016x}", text.size(), std::hash<std::string>{}(text));
  };
  std::ostringstream calibration;
  write_calibration(calibration, validator.calibration);
  const ModelShape& shape = validator.config.shape;
  std::string parameters;
  const Layout layout = validator.model.layout(shape, options.ranks, options.ranks);
  for (const StageContent& stage : layout.stages) {
    for (const ParameterSpec& parameter : stage_parameters(shape, stage))
      parameters += fmt::format("{} {};", parameter.name, parameter.elements());
  }
  return {{"the version of plumb", origin.version + (origin.commit.empty() ? "" : " " + origin.commit)},
          {"--schedules", fmt::format("{}", fmt::join(options.schedules, ","))},
          {"--ranks", fmt::format("{}", options.ranks)},
          {"--dp", fmt::format("{}", options.lowering.data_parallel)},
          {"--microbatches", fmt::format("{}", fmt::join(options.microbatches, ","))},
          {"--comms", options.lowering.load().placement == CommPlacement::batched ? "batched" : "per-op"},
          {"--shared-threads", !options.shared_threads   ? "as suits"
                               : *options.shared_threads ? "given"
                                                         : "not wanted"},
          {"--model", shape.name},
          {"the model's shape", digest(parameters)},
          {"--sequence", fmt::format("{}", layout.sequence)},
          {"--micro-batch-size", fmt::format("{}", layout.micro_batch_size)},
          {"--dtype", options.device == "cpu" ? "fp32" : options.model.weights},
          {"what --calibration holds", digest(calibration.str())},
          {"--device", options.device},
          {"--transport", options.transport},
          {"--steps", fmt::format("{}", options.steps)}};
}

// Before a step is measured, so that none is measured in vain.
void check_outputs(const Options& options) {
  check_output(options.out);
  check_output(options.trace);
  if (options.timelines.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(options.timelines, error);
  if (error) throw BadInput(options.timelines, fmt::format("cannot be made: {}", error.message()));
}

int validate(const Request& request, Validator& validator) {
  const Options& options = validator.options;
  Console& console = validator.console;
  std::vector<ValidationRow> before;
  if (!options.measured.empty()) before = validation_rows(read_input(options.measured), options.measured);
  if (validator.leads()) {
    print_warnings(console, validator.config);
    check_outputs(options);
  }
  std::vector<ValidationRow> rows;
  if (options.resume && validator.leads() && std::filesystem::exists(options.out))
    rows = validation_rows(read_input(options.out), options.out);
  const std::vector<NamedShape>& shapes = request.shapes;
  bool failed = false;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const std::string label =
        fmt::format("{} of {}: {}:{}, {} microbatches", i + 1, shapes.size(), shapes[i].schedule->name,
                    *shapes[i].shape.chunks, shapes[i].shape.microbatches);
    if (validator.agreed(validator.find(shapes[i], rows) != nullptr)) {
      validator.say(fmt::format("{}: there", label));
      continue;
    }
    if (console.err_is_terminal && validator.leads()) fmt::print(console.err, "\r\033[K{}", label);
    Phases phases;
    try {
      rows.push_back(before.empty()
                         ? validator.row_of(shapes[i], rows.empty() && !options.trace.empty(), phases)
                         : validator.again(shapes[i], before));
    } catch (const DeviceError& error) {
      // Processes that have lost one of them cannot go on together.
      if (validator.rendezvous) throw;
      failed = true;
      validator.say(fmt::format("{} failed: {}", label, error.what()));
      continue;
    }
    if (!validator.leads()) continue;
    if (!options.out.empty())
      write_output(console, options.out, [&](std::ostream& out) { out << to_json(rows); });
    validator.say(fmt::format("{}: {}", label, line_of(rows.back(), phases)));
  }
  if (!validator.leads()) return 0;
  if (console.err_is_terminal) console.err << "\r\033[K";
  console.out << (options.json ? to_json(rows) : to_text(rows));
  const bool good = std::all_of(rows.begin(), rows.end(), [&](const ValidationRow& row) {
    return std::abs(row.step_error()) <= request.tolerance;
  });
  if (failed) throw DeviceError("a step failed; the others are above");
  return good ? 0 : 1;
}

// As one of several processes, all of which have met.
int validate_together(const Options& options, Console& console, const RankPlace& place, std::uint32_t ranks,
                      Rendezvous& rendezvous) {
  const Request request = request_of(options);
  Validator validator = validator_of(options, request, console);
  validator.rendezvous = &rendezvous;
  if (const std::string text = disagreement(rendezvous, given(validator)); !text.empty()) {
    if (rendezvous.rank() == 0) throw BadInput("the ranks", text);
    return 2;
  }
  if (place.placement.ranks != ranks) {
    if (rendezvous.rank() != 0) return 2;
    throw BadInput("--ranks", fmt::format("is {}, but {} started {} processes", ranks,
                                          place.placement.launcher, place.placement.ranks));
  }
  if (options.device == "cuda") {
    validator.nccl = gpu_of(place, true);
    validator.nccl.shared_threads = options.shared_threads;
    validator.session = make_nccl_session();
    validator.nccl.session = validator.session.get();
  }
  validator.nccl.algorithms = &validator.calibration.algorithms;
  validator.say(fmt::format("{} processes have met", ranks));
  return validate(request, validator);
}

int run(const Options& options, Console& console) {
  if (!options.summarize.empty()) return summarize(options, console);
  RankRequest wanted;
  wanted.ranks = options.ranks * options.lowering.data_parallel;
  wanted.device = options.device == "cpu" ? RunDevice::cpu : RunDevice::cuda;
  wanted.transport = options.transport == "nccl" ? RunTransport::nccl : RunTransport::local;
  const bool runs = options.measured.empty();
  if (runs && options.ranks > 0) {
    const RankPlace place = place_ranks(wanted);
    if (place.where == RankPlace::Where::process_each) {
      // They meet before anything can go wrong in one of them alone.
      const Duration deadline = parse_duration(options.deadline, "--deadline");
      Rendezvous rendezvous(place.placement, std::chrono::milliseconds(deadline.ns / 1'000'000));
      try {
        return validate_together(options, console, place, wanted.ranks, rendezvous);
      } catch (const std::exception& error) {
        rendezvous.abort(error.what());
        throw;
      }
    }
  }
  // Bad input is said once, and before a GPU is touched.
  const Request request = request_of(options);
  Validator validator = validator_of(options, request, console);
  validator.nccl.algorithms = &validator.calibration.algorithms;
  if (!runs) return validate(request, validator);
  const RankPlace place = place_ranks(wanted);
  if (place.where == RankPlace::Where::process_each_to_start) {
    check_outputs(options);
    return start_ranks(wanted, place);
  }
  if (wanted.transport == RunTransport::local) return validate(request, validator);
  Rendezvous alone(place.placement);
  return validate_together(options, console, place, wanted.ranks, alone);
}

}  // namespace

Command validate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "validate",
      "Predict steps from a calibration, run them, and set prediction and measurement side by side");
  command
      ->add_option("--calibration", options->calibration,
                   "What was measured of this model, in the setting in which it runs")
      ->type_name("NAME|FILE");
  command
      ->add_option("--schedules", options->schedules,
                   "Schedules; behind a colon the chunks a rank: zb-v,interleaved-1f1b:2")
      ->delimiter(',')
      ->type_name("NAME[:V],…");
  command->add_option("--ranks", options->ranks, "Ranks of the pipeline")
      ->check(CLI::Range(1u, max_ranks))
      ->type_name("P");
  command
      ->add_option("--microbatches", options->microbatches, "Microbatches of a step, one or several numbers")
      ->delimiter(',')
      ->type_name("M,…");
  options->lowering.add_to(*command);
  options->model.add_model_to(*command);
  options->model.add_layout_to(*command);
  options->gpu.add_to(*command);
  options->execution.add_to(*command);
  command->add_option("--device", options->device, "Where steps run")
      ->check(CLI::IsMember({"cuda", "cpu"}))
      ->capture_default_str();
  command
      ->add_option("--transport", options->transport,
                   "local: all ranks in this process on one GPU; nccl: a process a rank")
      ->check(CLI::IsMember({"local", "nccl"}))
      ->capture_default_str();
  command->add_flag_callback(
      "--shared-threads", [options] { options->shared_threads = true; }, "nccl: as in plumb run");
  command->add_flag_callback(
      "--no-shared-threads", [options] { options->shared_threads = false; }, "nccl: as in plumb run");
  command
      ->add_option(
          "--steps", options->steps,
          "Measured steps of each, and on a GPU as many as take 1.5 s if those are more; the median counts")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  command
      ->add_option("--tolerance", options->tolerance,
                   "Exit with 1 where a step time is predicted worse than that")
      ->type_name("PERCENT")
      ->capture_default_str();
  command->add_option("--deadline", options->deadline, "How long a rank waits for others before it gives up")
      ->capture_default_str();
  command
      ->add_option("--trace", options->trace,
                   "Write the first step, predicted and measured, as one Chrome trace")
      ->type_name("FILE");
  command
      ->add_option(
          "--timelines", options->timelines,
          "Write there, for each step, the predicted timeline and those of up to nine measured repetitions")
      ->type_name("FOLDER");
  command->add_option("--out", options->out, "Write the rows there, as JSON, as soon as each is measured")
      ->type_name("FILE");
  command
      ->add_option("--measured", options->measured,
                   "Run nothing: predict anew the steps that this file (an earlier --out) says were measured")
      ->type_name("FILE");
  command
      ->add_option(
          "--summarize", options->summarize,
          "Predict and run nothing: print what the rows in these files (of --out) come to, as Markdown")
      ->type_name("FILE …");
  command->add_flag("--resume", options->resume, "Keep the rows that --out holds, and measure the others");
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
