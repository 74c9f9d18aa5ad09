#include "tools/plan_next.hpp"

#include "runtime/runnable.hpp"
#include "schedules/ir/error.hpp"
#include "tools/planner/launch_flags.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace plumb::tools {
namespace {

// ` --flag N`, where it is not 1.
std::string flag_over_one(const char* flag, std::uint64_t value) {
  return value == 1 ? "" : fmt::format(" {} {}", flag, value);
}

// How the plan's model lies on its ranks: what says the same to calibrate, validate, run and simulate.
std::string layout_flags(const LayoutPlan& plan) {
  return flag_over_one("--micro-batch-size", plan.layout.micro_batch_size) +
         fmt::format(" --sequence {}", plan.layout.sequence) +
         (recompute_of(plan) == Recompute::none
              ? ""
              : fmt::format(" --recompute {}", to_string(recompute_of(plan)))) +
         fmt::format(" --layout \"{}\"", to_megatron(plan.layout.stages));
}

std::string shape_flags(const LayoutPlan& plan) {
  return fmt::format(" --ranks {} --microbatches {}", plan.shape.ranks, plan.shape.microbatches) +
         (plan.generator->takes_chunks ? fmt::format(" --chunks {}", *plan.shape.chunks) : "") +
         (plan.shape.group ? fmt::format(" --group {}", *plan.shape.group) : "");
}

// The command that looks at one plan alone: the same step, to the nanosecond.
std::string simulate_command(const PlanJob& job, const LayoutPlan& plan, const std::string& calibration) {
  const Parallelism& parallelism = plan.layout.parallelism;
  const bool measured = job.calibration && duration_source(plan) != "estimated";
  return fmt::format("plumb simulate {}{}{}{}", plan.generator->name, job.model_flags, job.cost_flags,
                     measured ? " --calibration " + calibration : "") +
         shape_flags(plan) + flag_over_one("--tp", parallelism.tensor) +
         flag_over_one("--dp", parallelism.data) + flag_over_one("--ep", parallelism.expert) +
         layout_flags(plan);
}

// Why plumb run does not compute it; nothing where it does.
std::string why_not_run(const PlanJob& job, const LayoutPlan& plan) {
  if (plan.layout.numerics.weights == WeightType::fp8) return "fp8 can be simulated but not run here";
  if (plan.layout.numerics.gradients == GradientType::bf16) return "it sums weight gradients in fp32";
  try {
    TrainingPlan training;
    training.model = job.model;
    training.layout = plan.layout;
    require_runnable(training);
    return "";
  } catch (const BadInput& refused) {
    return refused.what();
  }
}

// From an estimate to what this very model takes on these very devices.
std::vector<std::string> measuring_steps(const PlanJob& job, const LayoutPlan& plan) {
  if (const std::string why = why_not_run(job, plan); !why.empty()) {
    return {"plumb run does not train this one (" + why + ").",
            "to have it measured instead of estimated, from PyTorch profiles of your own run:",
            "  plumb calibrate --kineto rank*.pt.trace.json.gz --out measured.json",
            fmt::format("  plumb plan --ranks {} --microbatches {} --calibration measured.json",
                        plan.shape.ranks, plan.shape.microbatches)};
  }
  const std::string model = job.model_flags + layout_flags(plan);
  const std::string chunks = *plan.shape.chunks == 1 ? "" : fmt::format(" --chunks {}", *plan.shape.chunks);
  std::vector<std::string> out{
      fmt::format("to have it measured instead of estimated, on {} GPU{} (under torchrun, srun or mpirun), "
                  "and this plan again with --calibration measured.json:",
                  plan.shape.ranks, plan.shape.ranks == 1 ? "" : "s"),
      fmt::format("  plumb calibrate{} --ranks {}{} --transport nccl --out measured.json", model,
                  plan.shape.ranks, chunks)};
  // A validation's schedules take the group that is their default.
  if (!plan.shape.group) {
    out.emplace_back("to see whether the prediction holds:");
    out.push_back(fmt::format(
        "  plumb validate --calibration measured.json --schedules {}{}{} --ranks {} --microbatches {} "
        "--transport nccl",
        plan.generator->name, plan.generator->takes_chunks ? fmt::format(":{}", *plan.shape.chunks) : "",
        model, plan.shape.ranks, plan.shape.microbatches));
  }
  out.push_back(plan.layout.parallelism.data > 1 && plan.layout.parallelism.shard_optimizer
                    ? "to train it with plumb, where every copy keeps all of the optimizer's state "
                      "(--no-optimizer-sharding plans for that):"
                    : "to train it with plumb:");
  out.push_back(fmt::format("  plumb run --schedule {}{}{}{} --transport nccl --data FILE",
                            plan.generator->name, shape_flags(plan),
                            flag_over_one("--dp", plan.layout.parallelism.data), model));
  return out;
}

}  // namespace

std::vector<std::string> next_steps(const PlanJob& job, const SearchResult& result,
                                    const std::string& calibration) {
  std::vector<std::string> out;
  const LayoutPlan& best = result.plans.front();
  const auto add = [&](const std::vector<std::string>& lines) {
    for (const std::string& line : lines) out.push_back("  " + line);
  };
  const auto runs_in_megatron = [&](const LayoutPlan& plan) {
    return megatron_flags(plan, job.model, job.request.global_batch).has_value();
  };
  if (const auto flags = megatron_flags(best, job.model, job.request.global_batch)) {
    out.emplace_back("with Megatron-LM:");
    add(*flags);
  } else {
    const auto nearest = std::find_if(result.plans.begin(), result.plans.end(), runs_in_megatron);
    out.push_back(fmt::format("Megatron-LM has no {}.", best.generator->title));
    if (nearest != result.plans.end()) {
      out.push_back(fmt::format("The fastest that it has is {}, {}: {:.1f} % longer a step:",
                                name_of(*nearest), to_text(nearest->layout, nearest->shape),
                                100.0 * static_cast<double>((nearest->step_time() - best.step_time()).ns) /
                                    static_cast<double>(best.step_time().ns)));
      add(*megatron_flags(*nearest, job.model, job.request.global_batch));
    }
  }
  if (const auto lines = torchtitan_config(best, job.request.global_batch, "schedule.csv")) {
    out.emplace_back("with torchtitan:");
    add(*lines);
    if (std::any_of(lines->begin(), lines->end(),
                    [](const std::string& line) { return line.find("schedule_csv") != std::string::npos; })) {
      out.push_back(
          fmt::format("  # plumb schedule {} --ranks {} --microbatches {}{}{} --format csv > schedule.csv",
                      best.generator->name, best.shape.ranks, best.shape.microbatches,
                      best.generator->takes_chunks ? fmt::format(" --chunks {}", *best.shape.chunks) : "",
                      best.shape.group ? fmt::format(" --group {}", *best.shape.group) : ""));
    }
  } else {
    out.push_back(fmt::format(
        "PyTorch's pipeline runtime keeps a stage on one rank, {} on two; schedule.json of --out holds "
        "its order.",
        best.generator->title));
  }
  out.emplace_back("to look closer:");
  out.push_back("  " + simulate_command(job, best, calibration));
  for (std::string& line : measuring_steps(job, best)) out.push_back(std::move(line));
  return out;
}

}  // namespace plumb::tools
