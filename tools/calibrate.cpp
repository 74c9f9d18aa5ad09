// plumb calibrate: measures what a plan needs to know of the GPUs at hand, reads it out of PyTorch profiles,
// and shows and compares what was measured.
#include "calibrate/difference.hpp"
#include "calibrate/kineto.hpp"
#include "calibrate/lookup.hpp"
#include "calibrate/measurer.hpp"
#include "calibrate/session.hpp"
#include "runtime/bootstrap/launcher.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/model/layer_costs.hpp"
#include "tools/command.hpp"
#include "tools/interrupt.hpp"
#include "tools/model_options.hpp"
#include "tools/options.hpp"
#include "tools/origin.hpp"
#include "tools/rank_processes.hpp"
#include "tools/render/calibration_svg.hpp"
#include "tools/render/calibration_tables.hpp"
#include "tools/render/common_words.hpp"
#include "tools/render/report_tables.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <regex>

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <unistd.h>

namespace plumb::tools {
namespace {

struct Options {
  ModelOptions model;
  std::optional<std::uint32_t> ranks;
  std::vector<std::uint32_t> chunks{1};
  std::string transport = "local";
  std::string budget = "2s";
  std::string only;
  double precision_percent = 1;
  std::string name;
  std::string algorithms;
  bool resume = false;
  bool flush = false;

  std::string show;
  std::string svg;
  std::vector<std::string> compare;
  std::vector<std::string> kineto;

  std::string out;
  bool force = false;
  bool json = false;
};

std::string percent(double ratio) { return fmt::format("{:.2f} %", 100 * ratio); }

// ----- measuring

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
void describe(Calibration& calibration, const CalibrationRequest& request, const Options& options) {
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
Calibration load_begun(const Options& options) {
  std::error_code error;
  if (!options.resume || !std::filesystem::exists(options.out, error)) return {};
  return parse_calibration(read_input(options.out), options.out);
}

void check_same_machine(const Options& options, const Calibration& calibration, const Provenance& here) {
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

int measure(const Options& options, Console& console) {
  if (options.out.empty() || options.out == "-") {
    throw BadInput("--out",
                   "names the file that is written as it fills, and read with --resume; it is required");
  }
  if (!options.ranks) throw BadInput("--ranks", "is required: 1 measures the whole GPU");
  ModelOptions model = options.model;
  const std::uint32_t most = *std::max_element(options.chunks.begin(), options.chunks.end());
  model.default_mlp_layers(std::uint64_t{*options.ranks} * most);
  const ModelConfig config = model.load();
  CalibrationRequest request;
  request.model = config.shape;
  for (const std::uint32_t chunks : options.chunks) {
    const Layout layout = model.layout(config.shape, *options.ranks * chunks, *options.ranks);
    (request.layout.stages.empty() ? request.layout : request.other_cuts.emplace_back()) = layout;
  }
  request.ranks = *options.ranks;
  request.flush = options.flush;
  request.transport = options.transport;
  StoppingRule rule;
  rule.relative_width = options.precision_percent / 100;
  rule.budget = parse_duration(options.budget, "--budget");
  rule.least = 7;  // the longest ops of a rank take 30 ms

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
  std::vector<Target> targets = plan_targets(request, *measurer);
  if (!options.only.empty()) {
    const std::regex only = pattern_of(options.only);
    std::erase_if(targets, [&](const Target& target) { return !std::regex_search(to_string(target), only); });
    if (targets.empty())
      throw BadInput("--only", fmt::format("'{}' matches nothing that would be measured", options.only));
  }
  describe(calibration, request, options);

  std::ofstream samples(samples_path(options.out), options.resume ? std::ios::app : std::ios::trunc);
  if (!samples) throw BadInput(samples_path(options.out), "cannot be written");
  std::vector<std::uint32_t> clocks;
  const auto now = [] {
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return Duration{std::chrono::nanoseconds(time).count()};
  };
  const auto save = [&] {
    set_clocks(calibration.provenance, clocks);
    calibration.algorithms = measurer->algorithms();
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
    complete = measure_missing(*measurer, targets, rule, calibration, hooks);
  } catch (...) {
    save();
    throw;
  }
  save();
  if (console.err_is_terminal) console.err << "\r\033[K";
  const Duration elapsed = now() - begun;
  if (options.json) {
    fmt::print(console.out,
               "{{\"schema\":\"plumb.calibrate/"
               "1\",\"out\":{},\"gpu\":{},\"complete\":{},\"measured\":{},\"missing\":{},"
               "\"elapsed_ns\":{}}}\n",
               json_quoted(options.out), json_quoted(calibration.provenance.gpu), complete, measured,
               calibration.missing.size(), elapsed.ns);
  } else {
    fmt::print(console.out, "{}: {} of {} measured in {} on {}\n", options.out, measured, targets.size(),
               to_text(elapsed), calibration.provenance.gpu);
  }
  if (!complete) {
    const bool to_the_end = calibration.missing.size() == failed;
    fmt::print(console.err, "plumb: {}{} are missing, --resume goes on\n", to_the_end ? "" : "interrupted; ",
               calibration.missing.size());
    return to_the_end ? 3 : 1;
  }
  return 0;
}

// ----- what was measured

int show(const Options& options, Console& console) {
  const Calibration calibration = load_calibration(options.show, "--show");
  if (!options.svg.empty()) {
    write_output(console, options.svg,
                 [&](std::ostream& out) { out << render::calibration_svg(calibration); });
    if (options.svg == "-") return 0;
  }
  if (options.json) {
    write_calibration(console.out, calibration);
    return 0;
  }
  fmt::print(console.out, "{}: {}\n", calibration.name, calibration.about);
  for (const std::string& line : render::provenance_lines(calibration.provenance))
    console.out << "  " << line << "\n";
  for (const render::TitledTable& part : render::calibration_tables(calibration)) {
    fmt::print(console.out, "\n{}\n{}", part.title, to_text(part.table));
  }
  if (const std::string line = render::held_out_line(calibration); !line.empty())
    console.out << "\n" << line << "\n";
  return 0;
}

constexpr std::array<const char*, 5> groups{"work", "transfers", "slowdowns", "memory", "layer"};

// The figures of a group, which stand in `found` the furthest apart first.
std::vector<const FigureDifference*> of_group(const CalibrationDifference& found, const std::string& group) {
  std::vector<const FigureDifference*> all;
  for (const FigureDifference& one : found.figures) {
    if (one.group == group) all.push_back(&one);
  }
  return all;
}

std::string value_text(std::int64_t value, const std::string& unit) {
  if (unit == "ns") return fmt::format("{:.2f} us", static_cast<double>(value) / 1e3);
  if (unit == "ppm") return fmt::format("{:.3f} times", static_cast<double>(value) / 1e6);
  return fmt::format("{} {}", value, unit);
}

void compare_json(std::ostream& out, const CalibrationDifference& found) {
  const auto figure = [](const FigureDifference& one) {
    return fmt::format(R"({{"name":{},"group":"{}","rel":{:.6f},"a_{}":{},"b_{}":{}}})",
                       json_quoted(one.name), one.group, relative(one), one.unit, one.a, one.unit, one.b);
  };
  fmt::print(out,
             R"({{"schema":"plumb.calibration_diff/1","median_abs_rel":{:.6f},"worst":{},"compared":{},)",
             median_abs_relative(found), figure(found.figures.front()), found.figures.size());
  if (const auto cycles = median_abs_relative_cycles(found)) {
    fmt::print(out, R"("work_median_abs_rel_cycles":{:.6f},)", *cycles);
  }
  fmt::print(out, R"("only_in_a":{},"only_in_b":{},"groups":[)", found.only_in_a, found.only_in_b);
  bool first = true;
  for (const std::string group : groups) {
    const auto all = of_group(found, group);
    if (all.empty()) continue;
    fmt::print(out, R"({}{{"group":"{}","compared":{},"median_abs_rel":{:.6f},"worst":{}}})",
               first ? "" : ",", group, all.size(), median_abs_relative(found, group), figure(*all.front()));
    first = false;
  }
  fmt::print(out, "],\"figures\":[");
  for (std::size_t k = 0; k < found.figures.size(); ++k)
    out << (k > 0 ? ",\n" : "\n") << figure(found.figures[k]);
  fmt::print(out, "]}}\n");
}

int compare(const Options& options, Console& console) {
  const Calibration a = load_calibration(options.compare[0], "--compare");
  const Calibration b = load_calibration(options.compare[1], "--compare");
  if (!same_gpu_class(a.provenance.gpu, b.provenance.gpu) && !options.force) {
    throw BadInput(options.compare[0],
                   fmt::format("was measured on {}, {} on {}; --force compares them all the same",
                               a.provenance.gpu, options.compare[1], b.provenance.gpu));
  }
  const CalibrationDifference found = difference(a, b);
  if (found.figures.empty()) {
    throw BadInput(options.compare[0], fmt::format("has no figure in common with {}", options.compare[1]));
  }
  if (options.json) {
    compare_json(console.out, found);
    return 0;
  }
  fmt::print(console.out, "{} figures in both, {} only in {}, {} only in {}\nmedian |difference| {}\n",
             found.figures.size(), found.only_in_a, options.compare[0], found.only_in_b, options.compare[1],
             percent(median_abs_relative(found)));
  if (const auto cycles = median_abs_relative_cycles(found)) {
    fmt::print(console.out, "of the work, in clock cycles {}\n", percent(*cycles));
  }
  render::Table by_group;
  by_group.head = {"of", "figures", "median |difference|", "furthest"};
  for (const std::string group : groups) {
    const auto all = of_group(found, group);
    if (all.empty()) continue;
    by_group.rows.push_back({group, fmt::format("{}", all.size()), percent(median_abs_relative(found, group)),
                             percent(relative(*all.front()))});
  }
  console.out << "\n" << to_text(by_group);
  // Names are long: they stand last, and what most have in common is said once.
  const std::size_t shown = std::min<std::size_t>(20, found.figures.size());
  std::vector<std::string> names;
  for (std::size_t k = 0; k < shown; ++k) names.push_back(found.figures[k].name);
  const render::CommonWords words = render::common_words(names);
  fmt::print(console.out, "\n{:>10}  {:>14}  {:>14}  furthest apart{}\n", "difference", "a", "b",
             words.common.empty() ? "" : fmt::format(" ({}; where a row says nothing else)", words.common));
  for (std::size_t k = 0; k < shown; ++k) {
    const FigureDifference& one = found.figures[k];
    fmt::print(console.out, "{:>10}  {:>14}  {:>14}  {}\n", percent(relative(one)),
               value_text(one.a, one.unit), value_text(one.b, one.unit), words.names[k]);
  }
  return 0;
}

// ----- from profiles

int from_profiles(const Options& options, Console& console) {
  if (options.out.empty())
    throw BadInput("--out", "is required: where the calibration goes (- is standard output)");
  std::vector<KinetoTrace> traces;
  for (const std::string& path : options.kineto) {
    std::error_code error;
    if (std::filesystem::is_directory(path, error)) throw BadInput(path, "is a folder");
    std::ifstream in(path, std::ios::binary);
    if (!in) throw BadInput(path, "cannot be read");
    traces.push_back(read_kineto_trace(in, path));
    const KinetoTrace& trace = traces.back();
    if (trace.unjoined > 0) {
      fmt::print(console.err,
                 "plumb: {}: {} of {} kernels were launched outside of the recording and are left out\n",
                 path, trace.unjoined, trace.kernels);
    }
  }
  Calibration calibration = calibration_of(traces);
  if (!options.name.empty()) calibration.name = options.name;
  const Origin here = origin();
  calibration.provenance.tool_version = here.version;
  calibration.provenance.tool_commit = here.commit;
  calibration.provenance.argv = here.argv;
  calibration.provenance.time = here.time;
  write_output(console, options.out, [&](std::ostream& out) { write_calibration(out, calibration); });
  if (options.json && options.out != "-") {
    fmt::print(console.out,
               "{{\"schema\":\"plumb.calibrate/"
               "1\",\"out\":{},\"gpu\":{},\"complete\":true,\"measured\":{},\"missing\":0}}\n",
               json_quoted(options.out), json_quoted(calibration.provenance.gpu), calibration.work.size());
  }
  return 0;
}

int run(const Options& options, Console& console) {
  const int ways = static_cast<int>(options.model.given()) + static_cast<int>(!options.show.empty()) +
                   static_cast<int>(!options.compare.empty()) + static_cast<int>(!options.kineto.empty());
  if (ways != 1) throw BadInput("calibrate", "takes one of --model, --show, --compare and --kineto");
  if (!options.show.empty()) return show(options, console);
  if (!options.compare.empty()) return compare(options, console);
  if (!options.kineto.empty()) return from_profiles(options, console);
  return measure(options, console);
}

}  // namespace

Command calibrate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "calibrate",
      "Measure layers, messages and how they slow each other on the GPUs at hand, or read PyTorch profiles");
  options->model.add_model_to(*command);
  options->model.add_layout_to(*command);
  command
      ->add_option("--ranks", options->ranks,
                   "Pipeline ranks: 1 has the whole GPU; more are its partitions (local) or processes (nccl)")
      ->type_name("P")
      ->check(CLI::Range(1u, 65'536u));
  command
      ->add_option("--chunks", options->chunks,
                   "Stages a rank in the schedules to come: the stages of each such cut are measured")
      ->type_name("N[,N…]")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1024u))
      ->capture_default_str();
  command
      ->add_option("--transport", options->transport,
                   "How messages travel: copies inside one process, or NCCL")
      ->check(CLI::IsMember({"local", "nccl"}))
      ->capture_default_str();
  command
      ->add_option("--precision", options->precision_percent,
                   "A figure is good when its median's 95 % interval is this narrow, in percent")
      ->check(CLI::Range(0.01, 50.0))
      ->capture_default_str();
  command->add_option("--budget", options->budget, "Time for one figure, at most")
      ->type_name("TIME")
      ->capture_default_str();
  command
      ->add_option("--only", options->only,
                   "Measure only what has a name that this regular expression finds: '^stage|^layer|^hop'")
      ->type_name("REGEX");
  command->add_option("--name", options->name, "The calibration's name in its file");
  command
      ->add_option(
          "--algorithms", options->algorithms,
          "Compute matrix products as this calibration did, so that two can be compared [the fastest of now]")
      ->type_name("NAME|FILE");
  command->add_flag(
      "--flush", options->flush,
      "Stages and layers only, the second-level cache emptied before each: an upper bound, kept "
      "apart from the ordinary figures (with --resume beside them)");
  command->add_flag("--resume", options->resume, "Go on where --out ends");
  command->add_option("--show", options->show, "Print what a calibration holds, as tables")
      ->type_name("NAME|FILE");
  command->add_option("--svg", options->svg, "With --show: draw fits and slowdowns")->type_name("FILE");
  command->add_option("--compare", options->compare, "How far two calibrations are apart")
      ->type_name("NAME|FILE")
      ->expected(2);
  command
      ->add_option(
          "--kineto", options->kineto,
          "PyTorch profiles, one a rank (.pt.trace.json, gzipped or not), whose actions are labelled PP:0F3")
      ->type_name("FILE");
  command->add_flag("--force", options->force, "Take a calibration of another GPU class, or machine");
  add_out(*command, options->out, "The calibration's file; samples go to FILE.samples.jsonl");
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
