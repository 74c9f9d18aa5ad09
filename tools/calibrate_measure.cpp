#include "tools/calibrate_measure.hpp"

#include "calibrate/calibration.hpp"
#include "calibrate/measurer.hpp"
#include "calibrate/session.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/model/layer_costs.hpp"
#include "tools/interrupt.hpp"
#include "tools/options.hpp"
#include "tools/origin.hpp"
#include "tools/rank_processes.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

std::string samples_path(const std::string& out) { return out + ".samples.jsonl"; }

Provenance provenance_of(const Measurer& measurer) {
  Provenance provenance = measurer.provenance();
  const Origin here = origin();
  provenance.tool_version = here.version;
  provenance.tool_commit = here.commit;
  provenance.argv = here.argv;
  provenance.environment = here.environment;
  provenance.time = here.time;
  if (provenance.host.empty()) provenance.host = here.host;
  return provenance;
}

// What the document says beside its measurements.
void describe(Calibration& calibration, const CalibrationRequest& request, const MeasureOptions& options) {
  const ModelShape& model = request.model;
  calibration.name = options.name.empty() ? fmt::format("{}-{}x{}", model.name.empty() ? "model" : model.name,
                                                        request.ranks, request.transport)
                                          : options.name;
  calibration.about =
      fmt::format("hidden {}, {} layers on {} rank{}, {} tokens a microbatch", model.hidden, model.layers,
                  request.ranks, request.ranks == 1 ? "" : "s", request.layout.tokens());
  calibration.model_layers = static_cast<std::uint32_t>(model.layers);
  calibration.chunk_layers = 1;
  const StageBytes bytes = stage_bytes(model, request.layout, Stage{0});
  calibration.activation_message = bytes.activation_message;
  calibration.gradient_message = bytes.gradient_message;
  const std::uint64_t layers = std::max<std::uint64_t>(1, request.layout.stages[0].layers);
  calibration.gradient_bytes_per_layer = {bytes.gradients.count / static_cast<std::int64_t>(layers)};
}

/// What --out holds already, with --resume; otherwise nothing.
Calibration load_begun(const MeasureOptions& options) {
  std::error_code error;
  if (!options.resume || !std::filesystem::exists(options.out, error)) return {};
  return parse_calibration(read_input(options.out), options.out);
}

void check_same_machine(const MeasureOptions& options, const Calibration& calibration,
                        const Provenance& here) {
  const std::string why = why_not_resume(calibration.provenance, here);
  if (!why.empty() && !options.force) {
    throw BadInput(options.out, fmt::format("is not continued here: {}; --force does it all the same", why));
  }
}

void set_clocks(Provenance& provenance, std::vector<std::uint32_t>& clocks) {
  if (clocks.empty()) return;
  const auto middle = clocks.begin() + static_cast<std::ptrdiff_t>(clocks.size() / 2);
  std::nth_element(clocks.begin(), middle, clocks.end());
  provenance.sm_clock_mhz = *middle;
}

std::regex pattern_of(const std::string& text) {
  try {
    return std::regex(text);
  } catch (const std::regex_error& error) {
    throw BadInput("--only", fmt::format("'{}' is no regular expression: {}", text, error.what()));
  }
}

CalibrationRequest request_of(const MeasureOptions& options, const ModelConfig& config,
                              const ModelOptions& model) {
  CalibrationRequest request;
  request.model = config.shape;
  for (const std::uint32_t chunks : options.chunks) {
    const Layout layout = model.layout(config.shape, *options.ranks * chunks, *options.ranks);
    (request.layout.stages.empty() ? request.layout : request.other_cuts.emplace_back()) = layout;
  }
  request.ranks = *options.ranks;
  request.flush = options.flush;
  request.transport = options.transport;
  return request;
}

StoppingRule rule_of(const MeasureOptions& options) {
  StoppingRule rule;
  rule.relative_width = options.precision_percent / 100;
  rule.budget = parse_duration(options.budget, "--budget");
  rule.least = 7;  // the longest ops of a rank take 30 ms
  return rule;
}

std::vector<Target> targets_of(const MeasureOptions& options, const CalibrationRequest& request,
                               const Measurer& measurer) {
  std::vector<Target> targets = plan_targets(request, measurer);
  if (options.only.empty()) return targets;
  const std::regex only = pattern_of(options.only);
  std::erase_if(targets, [&](const Target& target) { return !std::regex_search(to_string(target), only); });
  if (targets.empty())
    throw BadInput("--only", fmt::format("'{}' matches nothing that would be measured", options.only));
  return targets;
}

// What came of a run.
struct Outcome {
  std::size_t targets = 0;
  std::size_t measured = 0;
  std::size_t failed = 0;
  bool complete = false;
  Duration elapsed;
};
void print_outcome(const MeasureOptions& options, const Calibration& calibration, const Outcome& outcome,
                   Console& console) {
  if (options.json) {
    fmt::print(console.out,
               "{{\"schema\":\"plumb.calibrate/"
               "1\",\"out\":{},\"gpu\":{},\"complete\":{},\"measured\":{},\"missing\":{},"
               "\"elapsed_ns\":{}}}\n",
               json_quoted(options.out), json_quoted(calibration.provenance.gpu), outcome.complete,
               outcome.measured, calibration.missing.size(), outcome.elapsed.ns);
  } else {
    fmt::print(console.out, "{}: {} of {} measured in {} on {}\n", options.out, outcome.measured,
               outcome.targets, to_text(outcome.elapsed), calibration.provenance.gpu);
  }
  if (outcome.complete) return;
  fmt::print(console.err, "plumb: {}{} are missing, --resume goes on\n",
             calibration.missing.size() == outcome.failed ? "" : "interrupted; ", calibration.missing.size());
}

// The measurements of this run, and the file that they go to.
int measure_targets(const MeasureOptions& options, const StoppingRule& rule,
                    const std::vector<Target>& targets, Measurer& measurer, const InterruptWish& wish,
                    Calibration& calibration, Console& console) {
  std::ofstream samples(samples_path(options.out), options.resume ? std::ios::app : std::ios::trunc);
  if (!samples) throw BadInput(samples_path(options.out), "cannot be written");
  std::vector<std::uint32_t> clocks;
  const auto now = [] {
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return Duration{std::chrono::nanoseconds(time).count()};
  };
  const auto save = [&] {
    set_clocks(calibration.provenance, clocks);
    calibration.algorithms = measurer.algorithms();
    write_output(console, options.out, [&](std::ostream& out) { write_calibration(out, calibration); });
  };
  const Duration begun = now();
  Duration saved = begun;
  std::size_t measured = 0;
  SessionHooks hooks;
  hooks.now = now;
  hooks.interrupted = [&] { return wish.asked().load(); };
  std::size_t failed = 0;
  hooks.failed = [&](const std::string& target, const std::string& why) {
    ++failed;
    fmt::print(console.err, "{}plumb: {} could not be measured: {}\n",
               console.err_is_terminal ? "\r\033[K" : "", target, why);
  };
  hooks.progress = [&](const Progress& p) {
    if (!console.err_is_terminal) return;
    fmt::print(console.err, "\r\033[K{} of {}, {} to go: {}", p.done, p.of, to_text(p.remaining),
               p.target.substr(0, 100));
    console.err.flush();
  };
  hooks.keep = [&](const Calibration&, const std::vector<Measurement>& all) {
    ++measured;
    for (const Measurement& one : all) {
      samples << samples_line(one) << "\n";
      for (const Sample& sample : one.samples) {
        if (sample.sm_clock_mhz != 0) clocks.push_back(sample.sm_clock_mhz);
      }
    }
    samples.flush();
    // Often enough that a killed process loses little, seldom enough that writing is no load.
    if (now() - saved < Duration{1'000'000'000}) return;
    save();
    saved = now();
  };
  bool complete = false;
  try {
    complete = measure_missing(measurer, targets, rule, calibration, hooks);
  } catch (...) {
    save();
    throw;
  }
  save();
  if (console.err_is_terminal) console.err << "\r\033[K";
  print_outcome(options, calibration, {targets.size(), measured, failed, complete, now() - begun}, console);
  if (complete) return 0;
  return calibration.missing.size() == failed ? 3 : 1;
}

}  // namespace

int measure_calibration(const MeasureOptions& options, Console& console) {
  if (options.out.empty() || options.out == "-") {
    throw BadInput("--out",
                   "names the file that is written as it fills, and read with --resume; it is required");
  }
  if (!options.ranks) throw BadInput("--ranks", "is required: 1 measures the whole GPU");
  ModelOptions model = options.model;
  const std::uint32_t most = *std::max_element(options.chunks.begin(), options.chunks.end());
  model.default_mlp_layers(std::uint64_t{*options.ranks} * most);
  const ModelConfig config = model.load();
  CalibrationRequest request = request_of(options, config, model);
  const StoppingRule rule = rule_of(options);
  Calibration calibration = load_begun(options);
  request.algorithms = calibration.algorithms;
  if (!options.algorithms.empty())
    request.algorithms.merge(load_calibration(options.algorithms, "--algorithms").algorithms);
  require_measurer(request.transport);
  std::unique_ptr<Rendezvous> rendezvous;
  ProcessPlace place;
  if (request.transport == "nccl") {
    RankRequest wanted;
    wanted.ranks = request.ranks;
    wanted.transport = RunTransport::nccl;
    const RankPlace found = place_ranks(wanted);
    if (found.where == RankPlace::Where::process_each_to_start) return start_ranks(wanted, found);
    if (found.placement.ranks != request.ranks) {
      throw BadInput("--ranks", fmt::format("is {}, but {} started {} processes", request.ranks,
                                            found.placement.launcher, found.placement.ranks));
    }
    // Whoever is ready waits for the others, which may take ten times a figure's budget.
    const std::chrono::milliseconds budgets{20 * rule.budget.ns / 1'000'000};
    rendezvous = std::make_unique<Rendezvous>(found.placement, std::chrono::seconds{60} + budgets);
    const NcclOptions gpu = gpu_of(found, true);
    place = {rendezvous.get(), gpu.device, gpu.shares, gpu.share};
  }
  // Of several ranks all see Ctrl-C, and the one that leads decides.
  const InterruptWish wish;
  const std::unique_ptr<Measurer> measurer = make_measurer(request, place);
  if (!measurer->leads()) {
    measurer->serve();
    return 0;
  }
  print_warnings(console, config);
  const Provenance here = provenance_of(*measurer);
  check_same_machine(options, calibration, here);
  calibration.provenance = here;
  const std::vector<Target> targets = targets_of(options, request, *measurer);
  describe(calibration, request, options);
  return measure_targets(options, rule, targets, *measurer, wish, calibration, console);
}

}  // namespace plumb::tools
