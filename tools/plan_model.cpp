#include "tools/plan_model.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/pytorch_csv.hpp"
#include "schedules/ir/schedule_json.hpp"
#include "sim/chrome_trace.hpp"
#include "sim/estimate.hpp"
#include "sim/report_json.hpp"
#include "tools/documents.hpp"
#include "tools/interrupt.hpp"
#include "tools/plan_job.hpp"
#include "tools/plan_next.hpp"
#include "tools/planner/predict.hpp"
#include "tools/planner/search.hpp"
#include "tools/planner/sensitivity.hpp"
#include "tools/render/report_tables.hpp"
#include "tools/render/table.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

render::Table table_of(const PlanJob& job, const SearchResult& result,
                       const std::vector<std::size_t>& which) {
  render::Table table;
  table.head = {"schedule", "pp", "tp", "dp"};
  const bool experts = job.model.experts.has_value();
  if (experts) table.head.push_back("ep");
  for (const char* head : {"chunks", "micro batch", "microbatches", "recompute", "step ms", "tokens/s", "MFU",
                           "bubble", "peak GiB"}) {
    table.head.emplace_back(head);
  }
  if (job.calibration) table.head.push_back("durations");
  for (const std::size_t i : which) {
    const LayoutPlan& plan = result.plans[i];
    const Parallelism& parallelism = plan.layout.parallelism;
    std::vector<std::string> row{name_of(plan), fmt::format("{}", parallelism.pipeline),
                                 fmt::format("{}", parallelism.tensor), fmt::format("{}", parallelism.data)};
    if (experts) row.push_back(fmt::format("{}", parallelism.expert));
    row.push_back(fmt::format("{}", *plan.shape.chunks));
    row.push_back(fmt::format("{}", plan.layout.micro_batch_size));
    row.push_back(fmt::format("{}", plan.shape.microbatches));
    row.emplace_back(to_string(recompute_of(plan)));
    row.push_back(render::milliseconds(plan.step_time()));
    row.push_back(grouped(plan.report.tokens_per_s.value_or(0)));
    row.push_back(fmt::format("{:.1f} %", 100 * plan.report.mfu.value_or(0)));
    row.push_back(fmt::format("{:.1f} %", 100 * plan.report.idle_share));
    row.push_back(render::gibibytes(plan.peak));
    if (job.calibration) row.push_back(duration_source(plan));
    table.rows.push_back(std::move(row));
  }
  return table;
}

// What of the result is shown where.
struct Selection {
  std::vector<std::size_t> best;       // the fastest of all
  std::vector<std::size_t> schedules;  // the fastest of each schedule that has none among the best
  std::vector<std::size_t> front;
};

Selection select(const SearchResult& result) {
  Selection out;
  out.best = result.best;
  std::set<const Generator*> seen;
  for (const std::size_t i : out.best) seen.insert(result.plans[i].generator);
  for (std::size_t i = 0; i < result.plans.size(); ++i) {
    if (seen.insert(result.plans[i].generator).second) out.schedules.push_back(i);
  }
  // Of the front, what saves memory worth speaking of.
  for (const std::size_t i : result.front) {
    if (!out.front.empty() && static_cast<double>(result.plans[i].peak.count) >
                                  0.96 * static_cast<double>(result.plans[out.front.back()].peak.count)) {
      continue;
    }
    out.front.push_back(i);
  }
  return out;
}

render::Table refused_table(const SearchResult& result) {
  render::Table table;
  table.head = {"schedule", "plans", "reason"};
  for (const Refusal& refusal : result.refused) {
    table.rows.push_back({refusal.schedule.empty() ? "all" : refusal.schedule,
                          grouped(static_cast<double>(refusal.candidates)), refusal.reason});
  }
  return table;
}

void print_json(std::ostream& out, const PlanJob& job, const SearchResult& result) {
  fmt::print(out,
             "{{\"schema\":\"plumb.plan/1\",\"model\":{},\"device\":{},\"devices\":{},\"memory_bytes\":{},"
             "\"global_batch\":{},\"sequence\":{},\"interrupted\":{},\"candidates\":{},\"simulated\":{},"
             "\"plans\":[",
             json_quoted(job.model.name), json_quoted(job.device.name), job.request.devices,
             job.request.memory.count, job.request.global_batch, job.request.sequence, result.interrupted,
             result.candidates, result.simulated);
  const char* comma = "";
  for (const LayoutPlan& plan : result.plans) {
    const Parallelism& parallelism = plan.layout.parallelism;
    fmt::print(
        out,
        "{}{{\"schedule\":{},\"pp\":{},\"dp\":{},\"tp\":{},\"ep\":{},\"chunks\":{},{}\"microbatches\":{},"
        "\"micro_batch_size\":{},\"recompute\":\"{}\",\"layout\":{},\"step_time_ns\":{},"
        "\"tokens_per_s\":{},\"mfu\":{},\"idle_share\":{},\"peak_bytes\":{},\"report\":{}}}",
        comma, json_quoted(plan.generator->name), parallelism.pipeline, parallelism.data, parallelism.tensor,
        parallelism.expert, *plan.shape.chunks,
        plan.shape.group ? fmt::format("\"group\":{},", *plan.shape.group) : "", plan.shape.microbatches,
        plan.layout.micro_batch_size, to_string(recompute_of(plan)),
        json_quoted(to_megatron(plan.layout.stages)), plan.step_time().ns,
        plan.report.tokens_per_s.value_or(0), plan.report.mfu.value_or(0), plan.report.idle_share,
        plan.peak.count, to_json(plan.report));
    comma = ",";
  }
  out << "],\"pareto\":[";
  comma = "";
  for (const std::size_t i : result.front) {
    fmt::print(out, "{}{}", comma, i);
    comma = ",";
  }
  out << "],\"ruled_out\":[";
  comma = "";
  for (const Refusal& refusal : result.refused) {
    fmt::print(out, "{}{{\"schedule\":{},\"reason\":{},\"plans\":{}}}", comma,
               refusal.schedule.empty() ? "null" : json_quoted(refusal.schedule), json_quoted(refusal.reason),
               refusal.candidates);
    comma = ",";
  }
  out << ']';
  if (result.nearest) {
    fmt::print(out, ",\"nearest\":{{\"schedule\":{},\"plan\":{},\"peak_bytes\":{}}}",
               json_quoted(result.nearest->generator->name),
               json_quoted(to_text(result.nearest->layout, result.nearest->shape)),
               result.nearest->peak.count);
  }
  out << "}\n";
}

// All of what was ruled out would bury the rest: schedules with plans above are summed up.
void print_refused(std::ostream& out, const SearchResult& result) {
  if (result.refused.empty()) return;
  out << "\nruled out:\n";
  std::set<std::string_view> planned;
  for (const LayoutPlan& plan : result.plans) planned.insert(plan.generator->name);
  std::size_t others = 0;
  for (const Refusal& refusal : result.refused) {
    if (planned.contains(refusal.schedule)) {
      others += refusal.candidates;
    } else {
      fmt::print(out, "  {:>8}  {}{}\n", grouped(static_cast<double>(refusal.candidates)),
                 refusal.schedule.empty() ? "" : refusal.schedule + ": ", refusal.reason);
    }
  }
  if (others > 0) {
    fmt::print(
        out, "  {:>8}  other plans of the schedules above: out of memory, or shapes that they do not take\n",
        grouped(static_cast<double>(others)));
  }
}

void print_text(std::ostream& out, const PlanJob& job, const SearchResult& result,
                const std::string& calibration) {
  const Selection shown = select(result);
  fmt::print(out, "{}: {}; costs {}\n", job.title(), job.setting(), job.where_costs_are_from());
  if (result.interrupted) out << "interrupted: the best of what had been looked at\n";
  out << "\nthe fastest plans (a few percent apart is level: no cost is known better):\n\n"
      << to_text(table_of(job, result, shown.best));
  if (!shown.schedules.empty()) {
    out << "\nthe fastest of each other schedule:\n\n" << to_text(table_of(job, result, shown.schedules));
  }
  if (shown.front.size() > 1) {
    out << "\ntime against memory (nothing is both as fast and as small):\n\n"
        << to_text(table_of(job, result, shown.front));
  }
  print_refused(out, result);
  out << "\nwhat to type next for the first plan\n";
  for (const std::string& line : next_steps(job, result, calibration)) fmt::print(out, "{}\n", line);
}

// Where nothing fits: how far off the nearest is, and the smallest changes that would do.
void print_nearest(std::ostream& out, const PlanJob& job, const SearchResult& result) {
  fmt::print(out, "{}: {}\nno plan fits.\n", job.title(), job.setting());
  if (result.nearest) {
    const Nearest& nearest = *result.nearest;
    fmt::print(
        out, "\nthe nearest needs {} a device: {}, {}\nwhat would do:\n  --memory {:.1f}GiB\n",
        to_text(nearest.peak), nearest.generator->name, to_text(nearest.layout, nearest.shape),
        std::ceil(static_cast<double>(nearest.peak.count) * 10 / static_cast<double>(std::int64_t{1} << 30)) /
            10);
  }
  const auto first_that_fits = [&](SearchRequest request, const std::string& flag) {
    request.best = 1;
    try {
      const SearchResult found = search(request, [&](const Layout& layout) { return job.costs(layout); });
      if (found.plans.empty()) return false;
      const LayoutPlan& plan = found.plans.front();
      fmt::print(out, "  {}: {}, {}, {} a device\n", flag, name_of(plan), to_text(plan.layout, plan.shape),
                 to_text(plan.peak));
      return true;
    } catch (const BadInput&) {
      return false;  // so many devices do not divide the batch
    }
  };
  if (!job.request.recompute.empty() || !job.request.micro_batch_sizes.empty() ||
      !job.request.schedules.empty() || !job.request.chunks.empty() || !job.request.tensor.empty() ||
      !job.request.pipeline.empty() || !job.request.expert.empty()) {
    SearchRequest request = job.request;
    request.recompute.clear();
    request.micro_batch_sizes.clear();
    request.schedules.clear();
    request.chunks.clear();
    request.tensor.clear();
    request.pipeline.clear();
    request.expert.clear();
    first_that_fits(request, "without what the sweep was restricted to");
  }
  for (std::uint32_t times = 2; times <= 16; times *= 2) {
    SearchRequest request = job.request;
    request.devices *= times;
    if (first_that_fits(request, fmt::format("--devices {}", request.devices))) break;
  }
  print_refused(out, result);
}

render::Table sensitivity_table(const std::vector<Sensitivity>& all, Duration step) {
  render::Table table;
  table.head = {"a tenth of", "step ms, shorter", "step ms, longer", "change of the step"};
  for (const Sensitivity& one : all) {
    const auto share = [&](Duration changed) {
      return 100.0 * static_cast<double>((changed - step).ns) /
             static_cast<double>(std::max<std::int64_t>(1, step.ns));
    };
    table.rows.push_back({one.cost, render::milliseconds(one.shorter), render::milliseconds(one.longer),
                          fmt::format("{:+.2f} to {:+.2f} %", share(one.shorter), share(one.longer))});
  }
  return table;
}

// What is pictured: the first plan, and the next ones with other schedules.
class Pictured {
 public:
  Pictured(const PlanJob& job, const SearchResult& result) {
    constexpr std::size_t most = 3;
    std::set<const Generator*> seen;
    for (const LayoutPlan& plan : result.plans) {
      if (steps_.size() == most) break;
      if (!seen.insert(plan.generator).second) continue;
      LoweredSchedule schedule =
          make_lowered(*plan.generator, plan.shape, {job.request.placement, plan.layout.parallelism.data});
      Prediction prediction =
          predict(schedule, job.costs(plan.layout), job.request.execution, Detail::actions);
      steps_.push_back({std::move(schedule), std::move(prediction),
                        fmt::format("{}, {}", name_of(plan), to_text(plan.layout, plan.shape))});
    }
  }
  const LoweredSchedule& first_schedule() const { return steps_.front().schedule; }
  const Prediction& first_prediction() const { return steps_.front().prediction; }
  std::vector<render::ReportInput> inputs() const {
    std::vector<render::ReportInput> out;
    for (const Step& step : steps_) {
      const Prediction& p = step.prediction;
      out.push_back({p.report, &p.timeline, &p.memory, step.title});
    }
    return out;
  }

 private:
  struct Step {
    LoweredSchedule schedule;
    Prediction prediction;
    std::string title;
  };
  std::vector<Step> steps_;
};

// `first`: the first plan's schedule.
Page page_of(const PlanJob& job, const SearchResult& result, const LoweredSchedule& first) {
  const Selection shown = select(result);
  const CostModel cost = job.costs(result.plans.front().layout);
  Page page;
  page.title = job.title();
  const auto add = [&](std::string title, std::string text, render::Table table) {
    page.sections.push_back({std::move(title), std::move(text), std::move(table)});
  };
  add("The fastest plans", fmt::format("{}; costs {}.", job.setting(), job.where_costs_are_from()),
      table_of(job, result, shown.best));
  if (!shown.schedules.empty())
    add("The fastest of each other schedule", "", table_of(job, result, shown.schedules));
  add("Time against memory", "Nothing is both as fast and as small.", table_of(job, result, shown.front));
  add("What the first plan hangs on",
      "Its step, simulated again with one kind of cost a tenth shorter and a tenth longer.",
      sensitivity_table(sensitivity(first, cost, job.request.execution), result.plans.front().step_time()));
  add("Ruled out", "", refused_table(result));
  render::Table sources;
  sources.head = {"figure", "source"};
  for (const auto& [figure, source] : cost.sources) sources.rows.push_back({figure, source});
  add("Where the figures come from", "", sources);

  for (const std::size_t i : shown.front) {
    const LayoutPlan& plan = result.plans[i];
    const Parallelism& parallelism = plan.layout.parallelism;
    page.points.push_back(
        {fmt::format("{} pp{} tp{}", plan.generator->name, parallelism.pipeline, parallelism.tensor),
         plan.step_time(), 0, plan.peak});
  }
  for (const std::size_t i : shown.schedules) {
    if (std::find(shown.front.begin(), shown.front.end(), i) != shown.front.end()) continue;
    const LayoutPlan& plan = result.plans[i];
    page.points.push_back({std::string(plan.generator->name), plan.step_time(), 0, plan.peak});
  }
  return page;
}

// Everything a person needs of a plan, in one folder.
void write_folder(Console& console, const PlanJob& job, const PlanCommon& common,
                  const SearchResult& result) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::create_directories(common.out, error);
  if (error) throw BadInput(common.out, fmt::format("cannot be made: {}", error.message()));
  std::string files;
  const auto in_folder = [&](const char* file) {
    files += (files.empty() ? "" : ", ") + std::string(file);
    return (fs::path(common.out) / file).string();
  };
  const auto write = [&](const char* file, const std::function<void(std::ostream&)>& content) {
    write_output(console, in_folder(file), content);
  };
  write("plan.json", [&](std::ostream& out) { print_json(out, job, result); });
  const Pictured pictured(job, result);
  const LoweredSchedule& schedule = pictured.first_schedule();
  const DocumentOptions documents{{in_folder("report.md"), in_folder("report.html")},
                                  in_folder("picture.svg")};
  write_documents(console, documents, page_of(job, result, schedule), pictured.inputs());
  write("trace.json", [&](std::ostream& out) {
    const Prediction& first = pictured.first_prediction();
    write_chrome_trace(out, {{first.timeline, &first.memory, ""}});
  });
  write("schedule.json", [&](std::ostream& out) { write_schedule_json(out, without_messages(schedule)); });
  write("next.txt", [&](std::ostream& out) {
    for (const std::string& line : next_steps(job, result, common.calibration)) fmt::print(out, "{}\n", line);
  });
  if (result.plans.front().generator->copies == 1) {
    write("schedule.csv", [&](std::ostream& out) { write_pytorch_csv(out, without_messages(schedule)); });
  }
  fmt::print(console.err, "plumb: wrote {} to {}\n", files, common.out);
}

}  // namespace

void PlanModelOptions::add_to(CLI::App& app) {
  const std::vector<CLI::Option*> before = app.get_options();
  model.add_model_to(app);
  app.add_option("--devices", devices, "With --model: devices in all, pp x tp x dp")
      ->type_name("N")
      ->check(CLI::Range(1u, 1u << 20));
  app.add_option("--global-batch", global_batch, "With --model: sequences of a step")
      ->type_name("B")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 32));
  app.add_option("--sequence", model.sequence,
                 "Tokens of a sequence [what the model was trained on, or 4096]")
      ->type_name("S")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 26));
  app.add_option("--memory", memory, "The most a device may hold [the device's]")->type_name("80GiB");
  device.add_to(app);
  const auto list = [&](const char* flag, std::vector<std::uint32_t>& values, const char* what) {
    app.add_option(flag, values, what)->delimiter(',')->type_name("N,…")->check(CLI::Range(1u, 1u << 20));
  };
  list("--pp", pipeline, "Only these numbers of pipeline ranks");
  list("--tp", tensor, "Only these sizes of tensor-parallel groups");
  list("--ep", expert, "Only these sizes of expert-parallel groups");
  list("--micro-batch-size", micro_batch_sizes, "Sequences of a microbatch to try [1,2,4]");
  app.add_option("--recompute", recompute, "Recomputations to try: none, selective, full")
      ->delimiter(',')
      ->type_name("WHAT,…");
  app.add_option("--dtype", model.weights, "Weights and activations; fp8: the layers' matrix products alone")
      ->check(CLI::IsMember({"bf16", "fp32", "fp8"}))
      ->capture_default_str();
  app.add_option("--gradients", model.gradients, "Accumulated weight gradients")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  app.add_flag("--no-optimizer-sharding", model.no_optimizer_sharding,
               "Every data-parallel copy holds all optimizer state (without: ZeRO-1)");
  app.add_option("--threads", threads, "Threads of the sweep [all cores]")->check(CLI::Range(0u, 4096u));
  for (CLI::Option* option : app.get_options()) {
    if (std::find(before.begin(), before.end(), option) == before.end())
      option->group("A model on N devices");
  }
}

int plan_model(const PlanModelOptions& options, const PlanCommon& common, Console& console) {
  const PlanJob job = load_plan_job(options, common, console);
  SearchResult result;
  {
    const InterruptWish interrupt;
    result = search(
        job.request, [&](const Layout& layout) { return job.costs(layout); },
        [&](const SearchProgress& progress) {
          if (!console.err_is_terminal) return;
          fmt::print(console.err, "\r{} {} of {}", progress.bounding ? "layouts" : "plans", progress.done,
                     progress.of);
          if (progress.best != nullptr) {
            fmt::print(console.err, "; best so far {} {}, {}", name_of(*progress.best),
                       to_text(progress.best->layout, progress.best->shape),
                       to_text(progress.best->step_time()));
          }
          console.err << "\033[K" << std::flush;
        },
        &interrupt.asked());
  }
  if (console.err_is_terminal) console.err << "\r\033[K" << std::flush;
  for (LayoutPlan& plan : result.plans) {
    const Throughput worth =
        throughput(plan.step_time(), plan.shape.microbatches, job.device, job.model, plan.layout);
    plan.report.tokens_per_s = worth.tokens_per_s;
    plan.report.mfu = worth.mfu;
  }
  if (result.interrupted) {
    console.err << (result.plans.empty()
                        ? "plumb: interrupted before the first plan\n"
                        : "plumb: interrupted; this is the best of what had been looked at\n");
  }
  if (!common.out.empty() && !result.plans.empty()) write_folder(console, job, common, result);
  if (common.json) {
    print_json(console.out, job, result);
  } else if (!result.plans.empty()) {
    print_text(console.out, job, result, common.calibration);
  } else if (!result.interrupted) {
    print_nearest(console.out, job, result);
  }
  return result.plans.empty() ? 1 : 0;
}

}  // namespace plumb::tools
