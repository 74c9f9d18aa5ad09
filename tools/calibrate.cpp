// plumb calibrate: measures what a plan needs to know of the GPUs at hand, reads it out of PyTorch profiles,
// and shows and compares what was measured.
#include "calibrate/kineto.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "tools/calibrate_compare.hpp"
#include "tools/calibrate_measure.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"
#include "tools/origin.hpp"
#include "tools/render/calibration_svg.hpp"
#include "tools/render/calibration_tables.hpp"

#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  MeasureOptions measure;
  std::string show;
  std::string svg;
  std::vector<std::string> compare;
  std::vector<std::string> kineto;
};

int show(const Options& options, Console& console) {
  const Calibration calibration = load_calibration(options.show, "--show");
  if (!options.svg.empty()) {
    write_output(console, options.svg,
                 [&](std::ostream& out) { out << render::calibration_svg(calibration); });
    if (options.svg == "-") return 0;
  }
  if (options.measure.json) {
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

int from_profiles(const Options& options, Console& console) {
  if (options.measure.out.empty())
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
  if (!options.measure.name.empty()) calibration.name = options.measure.name;
  const Origin here = origin();
  calibration.provenance.tool_version = here.version;
  calibration.provenance.tool_commit = here.commit;
  calibration.provenance.argv = here.argv;
  calibration.provenance.time = here.time;
  write_output(console, options.measure.out, [&](std::ostream& out) { write_calibration(out, calibration); });
  if (options.measure.json && options.measure.out != "-") {
    fmt::print(console.out,
               "{{\"schema\":\"plumb.calibrate/"
               "1\",\"out\":{},\"gpu\":{},\"complete\":true,\"measured\":{},\"missing\":0}}\n",
               json_quoted(options.measure.out), json_quoted(calibration.provenance.gpu),
               calibration.work.size());
  }
  return 0;
}

int run(const Options& options, Console& console) {
  const int ways = static_cast<int>(options.measure.model.given()) + static_cast<int>(!options.show.empty()) +
                   static_cast<int>(!options.compare.empty()) + static_cast<int>(!options.kineto.empty());
  if (ways != 1) throw BadInput("calibrate", "takes one of --model, --show, --compare and --kineto");
  if (!options.show.empty()) return show(options, console);
  if (!options.compare.empty()) {
    return compare_calibrations(options.compare[0], options.compare[1], options.measure.force,
                                options.measure.json, console);
  }
  if (!options.kineto.empty()) return from_profiles(options, console);
  return measure_calibration(options.measure, console);
}

}  // namespace

Command calibrate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "calibrate",
      "Measure layers, messages and how they slow each other on the GPUs at hand, or read PyTorch profiles");
  options->measure.model.add_model_to(*command);
  options->measure.model.add_layout_to(*command);
  command
      ->add_option("--ranks", options->measure.ranks,
                   "Pipeline ranks: 1 has the whole GPU; more are its partitions (local) or processes (nccl)")
      ->type_name("P")
      ->check(CLI::Range(1u, 65'536u));
  command
      ->add_option("--chunks", options->measure.chunks,
                   "Stages a rank in the schedules to come: the stages of each such cut are measured")
      ->type_name("N[,N…]")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1024u))
      ->capture_default_str();
  command
      ->add_option("--transport", options->measure.transport,
                   "How messages travel: copies inside one process, or NCCL")
      ->check(CLI::IsMember({"local", "nccl"}))
      ->capture_default_str();
  command
      ->add_option("--precision", options->measure.precision_percent,
                   "A figure is good when its median's 95 % interval is this narrow, in percent")
      ->check(CLI::Range(0.01, 50.0))
      ->capture_default_str();
  command->add_option("--budget", options->measure.budget, "Time for one figure, at most")
      ->type_name("TIME")
      ->capture_default_str();
  command
      ->add_option("--only", options->measure.only,
                   "Measure only what has a name that this regular expression finds: '^stage|^layer|^hop'")
      ->type_name("REGEX");
  command->add_option("--name", options->measure.name, "The calibration's name in its file");
  command
      ->add_option(
          "--algorithms", options->measure.algorithms,
          "Compute matrix products as this calibration did, so that two can be compared [the fastest of now]")
      ->type_name("NAME|FILE");
  command->add_flag(
      "--flush", options->measure.flush,
      "Stages and layers only, the second-level cache emptied before each: an upper bound, kept "
      "apart from the ordinary figures (with --resume beside them)");
  command->add_flag("--resume", options->measure.resume, "Go on where --out ends");
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
  command->add_flag("--force", options->measure.force, "Take a calibration of another GPU class, or machine");
  add_out(*command, options->measure.out, "The calibration's file; samples go to FILE.samples.jsonl");
  add_json(*command, options->measure.json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
