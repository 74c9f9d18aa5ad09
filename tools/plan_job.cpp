#include "tools/plan_job.hpp"

#include "calibrate/lookup.hpp"
#include "schedules/ir/error.hpp"
#include "sim/estimate.hpp"

#include <algorithm>
#include <array>
#include <cstdint>

#include <fmt/format.h>

namespace plumb::tools {
namespace {

Recompute parse_recompute(const std::string& text) {
  for (const Recompute one : {Recompute::none, Recompute::selective, Recompute::full}) {
    if (text == to_string(one)) return one;
  }
  throw BadInput("--recompute", fmt::format("'{}' is neither none, selective nor full", text));
}

// ` --flag value`, or nothing.
std::string flag_unless(const char* flag, const std::string& value, const char* unless) {
  return value == unless ? "" : fmt::format(" {} {}", flag, value);
}
std::string flag_if(const char* flag, const std::optional<std::uint64_t>& value) {
  return value ? fmt::format(" {} {}", flag, *value) : "";
}

std::string model_flags(const ModelOptions& model) {
  return flag_unless("--model", model.model, "") + flag_if("--hidden", model.hidden) +
         flag_if("--layers", model.layers) + flag_if("--heads", model.heads) +
         flag_if("--kv-heads", model.key_value_heads) + flag_if("--ffn", model.ffn) +
         flag_if("--vocab", model.vocab) + flag_unless("--dtype", model.weights, "bf16");
}

std::string cost_flags(const PlanModelOptions& options, const PlanCommon& common) {
  return flag_unless("--gpu", options.device.gpu, "") +
         flag_unless("--software", options.device.software, "") +
         flag_unless("--gradients", options.model.gradients, "fp32") +
         (options.model.no_optimizer_sharding ? " --no-optimizer-sharding" : "") +
         (common.placement == CommPlacement::batched ? " --comms batched" : "");
}

// Devices of a sweep are whole ones.
void require_whole_device(const Calibration& calibration) {
  const Setting setting = main_setting(calibration);
  if (setting.of <= 1) return;
  throw BadInput("--calibration",
                 fmt::format("{} was measured on {} ranks that share one GPU, and --devices are whole ones; "
                             "--ranks {} --microbatches M plans such a pipeline",
                             calibration.name, setting.of, setting.of));
}

}  // namespace

CostModel PlanJob::costs(const Layout& layout) const {
  if (!calibration) return estimate(device, model, layout);
  try {
    return estimate(*calibration, device, model, layout);
  } catch (const BadInput&) {
    // It holds nothing of this one; a layout that cannot be is refused again.
    return estimate(device, model, layout);
  }
}

std::string PlanJob::title() const {
  return fmt::format("{} on {} {}", model.name, grouped(request.devices), device.name);
}

std::string PlanJob::setting() const {
  return fmt::format("{} sequences of {} tokens a step, at most {} a device",
                     grouped(static_cast<double>(request.global_batch)),
                     grouped(static_cast<double>(request.sequence)), to_text(request.memory));
}

std::string PlanJob::where_costs_are_from() const {
  return calibration ? "measured where there are measurements, else estimated"
                     : "estimated from the data sheet";
}

PlanJob load_plan_job(const PlanModelOptions& options, const PlanCommon& common, Console& console) {
  PlanJob job;
  const ModelConfig config = options.model.load();
  print_warnings(console, config);
  job.model = config.shape;
  if (job.model.architecture != Architecture::transformer) {
    throw BadInput("--model", "an mlp's stages are cut by hand; plan it with --ranks and --costs");
  }
  if (!options.devices) throw BadInput("--devices", "is required with --model");
  if (!options.global_batch) throw BadInput("--global-batch", "is required with --model");
  if (!common.calibration.empty()) {
    job.calibration = load_calibration(common.calibration);
    require_whole_device(*job.calibration);
  }
  if (!options.device.gpu.empty()) {
    job.device = options.device.load();
  } else if (!job.calibration) {
    throw BadInput("--gpu", "is required with a model, as in --gpu h100, or a --calibration");
  } else if (const DeviceDescription* known = measured_device(*job.calibration)) {
    job.device = *known;
  } else {
    throw BadInput("--gpu", fmt::format("is required: {} says of no known device what it was measured on",
                                        common.calibration));
  }
  SearchRequest& request = job.request;
  request.model = job.model;
  request.devices = *options.devices;
  request.devices_per_node = job.device.devices_per_node;
  request.global_batch = *options.global_batch;
  // One stage is enough to read the flags.
  const Layout flags = options.model.layout(job.model, 1, 1);
  request.sequence = flags.sequence;
  request.memory = options.memory.empty() ? job.device.memory : parse_bytes(options.memory, "--memory");
  Layout software;
  apply_software(job.device, software);
  request.numerics = software.numerics;
  request.numerics.weights = flags.numerics.weights;
  request.numerics.gradients = flags.numerics.gradients;
  request.sequence_parallel = software.parallelism.sequence_parallel && flags.parallelism.sequence_parallel;
  request.shard_optimizer = flags.parallelism.shard_optimizer;
  request.pipeline = options.pipeline;
  request.tensor = options.tensor;
  request.expert = options.expert;
  request.micro_batch_sizes = options.micro_batch_sizes;
  request.chunks = common.chunks;
  for (const std::string& text : options.recompute) request.recompute.push_back(parse_recompute(text));
  for (const std::string& name : common.schedules) request.schedules.push_back(&generator(name));
  request.placement = common.placement;
  request.execution = common.execution;
  request.threads = options.threads;
  job.model_flags = model_flags(options.model);
  job.cost_flags = cost_flags(options, common);
  return job;
}

std::string duration_source(const LayoutPlan& plan) {
  // Strongest first; anything else is estimated.
  constexpr std::array<std::string_view, 2> better{"measured", "interpolated"};
  std::size_t weakest = 0;
  for (const char* op : {"forward", "backward_input", "backward_weight", "backward"}) {
    const auto found = plan.report.sources.find(op);
    if (found == plan.report.sources.end()) continue;
    const auto at = std::find(better.begin(), better.end(), found->second);
    weakest = std::max(weakest, static_cast<std::size_t>(at - better.begin()));
  }
  if (weakest < better.size()) return std::string(better[weakest]);
  return plan.report.sources.contains("layer") || plan.report.sources.contains("expert_layer")
             ? "layers measured"
             : "estimated";
}

std::string name_of(const LayoutPlan& plan) {
  std::string name(plan.generator->name);
  if (plan.shape.group) name += fmt::format(" --group {}", *plan.shape.group);
  return name;
}

Recompute recompute_of(const LayoutPlan& plan) { return plan.layout.stages.front().recompute; }

// 1,024: with commas, for people.
std::string grouped(double value) {
  std::string digits = fmt::format("{:.0f}", value);
  for (std::size_t k = digits.size(); k > 3; k -= 3) digits.insert(k - 3, ",");
  return digits;
}

}  // namespace plumb::tools
