#include "sim/estimate.hpp"

#include "calibrate/fit.hpp"
#include "calibrate/provenance.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"
#include "sim/measured_work.hpp"
#include "sim/part_time.hpp"
#include "sim/recipes.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

// `layers` / `stages` layers of the measured one, each scaled alike.
OpCost stage_of_layers(const std::vector<Segment>& layer, std::uint32_t layers, std::uint32_t stages) {
  const std::uint32_t copies = (layers + stages - 1) / stages;
  OpCost cost;
  cost.recipe.reserve(copies * layer.size());
  for (std::uint32_t k = 0; k < copies; ++k) {
    for (Segment segment : layer) {
      // duration x layers / (stages x copies), rounded half up; all integers.
      const std::int64_t parts = std::int64_t{stages} * copies;
      segment.duration.ns = (2 * segment.duration.ns * layers + parts) / (2 * parts);
      cost.recipe.push_back(segment);
    }
  }
  return cost;
}

double seconds(Duration duration) { return static_cast<double>(duration.ns) * 1e-9; }
Duration rounded(double seconds) { return {std::llround(seconds * 1e9)}; }
Bytes part_of(Bytes whole, std::uint64_t some, std::uint64_t of) {
  return {static_cast<std::int64_t>(static_cast<double>(whole.count) * static_cast<double>(some) /
                                    static_cast<double>(of))};
}

// A pipeline rank is `width` devices wide, rank after rank; its message to another rank goes from each device
// to the one at the same place there. Over the node's links only if that holds for all of them.
bool on_one_node(std::uint32_t a, std::uint32_t b, std::uint32_t width, std::uint32_t per_node) {
  for (std::uint32_t i = 0; i < width; ++i) {
    if ((a * width + i) / per_node != (b * width + i) / per_node) return false;
  }
  return true;
}

Link message_link(const Link& link, const Efficiencies& efficiencies) {
  Link out{link.latency + efficiencies.message_launch, link.bandwidth};
  if (out.bandwidth) out.bandwidth->value *= efficiencies.collective;
  return out;
}

void set_links(CostModel& cost, const DeviceDescription& device, const Parallelism& parallelism) {
  const std::uint32_t width = parallelism.tensor * parallelism.data;
  const Link near = message_link(device.node_link, device.efficiencies);
  cost.link = message_link(device.network, device.efficiencies);
  if (parallelism.devices() <= device.devices_per_node) {
    cost.link = near;
    return;
  }
  for (std::uint32_t a = 0; a < parallelism.pipeline; ++a) {
    for (std::uint32_t b = a + 1; b < parallelism.pipeline && (b - a) * width < device.devices_per_node;
         ++b) {
      if (!on_one_node(a, b, width, device.devices_per_node)) continue;
      cost.links[{Rank{a}, Rank{b}}] = near;
      cost.links[{Rank{b}, Rank{a}}] = near;
    }
  }
}

// What follows the last microbatch: gradients summed over the copies, the optimizer, new weights to all.
class StepEnd {
 public:
  StepEnd(const DeviceDescription& device, const Layout& layout)
      : efficiencies_(device.efficiencies),
        layout_(layout),
        time_(device, layout.numerics.weights),
        dense_(group_of(layout.parallelism.data, layout.parallelism.tensor, device)),
        experts_(group_of(
            std::max(1u, layout.parallelism.tensor * layout.parallelism.data / layout.parallelism.expert),
            layout.parallelism.expert, device)),
        // Two owners of a stage stand at opposite ends of the pipeline.
        owners_(layout.parallelism.devices() <= device.devices_per_node ? DeviceGroup{2, 2}
                                                                        : DeviceGroup{2, 1}) {}

  // Over the data-parallel copies of one owner, and of both where the stage has two: they stand at opposite
  // ends of the pipeline, on other nodes if the job has several.
  Duration reduction(const StageBytes& bytes, const StageCost& cost, std::uint32_t owners) const {
    const bool shard = layout_.parallelism.shard_optimizer && layout_.parallelism.data > 1;
    const PartClass kind = shard ? PartClass::reduce_scatter : PartClass::all_reduce;
    const double all = over_copies(kind, bytes.gradients, bytes, owners);
    return all > 0 ? exposed(all, total(cost.backward)) : Duration{};
  }

  Duration optimizer(const StageBytes& bytes, const StageCost& cost) const {
    const bool master = layout_.numerics.weights != WeightType::fp32;
    const double per_parameter = master ? 12 : 8;
    const double parameters = static_cast<double>(bytes.optimizer_state.count) / per_parameter;
    const double element = layout_.numerics.weights == WeightType::fp32 ? 4 : 2;
    const double gradient = layout_.numerics.gradients == GradientType::fp32 ? 4 : 2;
    // State is read and written, the gradient read for the norm and again for the step, the weight written.
    const Bytes moved{static_cast<std::int64_t>(parameters * (2 * per_parameter + 2 * gradient + element))};
    double all = time_.memory(moved, 1);
    Duration weights;
    if (layout_.parallelism.shard_optimizer) {
      weights = exposed(over_copies(PartClass::all_gather, bytes.weights, bytes, 1), total(cost.forward));
    }
    const double share = static_cast<double>(layout_.parallelism.pipeline) /
                         static_cast<double>(std::max<std::size_t>(1, layout_.stages.size()));
    all += seconds(efficiencies_.host_step) * std::min(1.0, share);
    return rounded(all) + weights;
  }

  // The embedding and the head that is tied to it sum their gradients, over the two stages that hold them.
  Duration tied(const ModelShape& model) const {
    const std::uint64_t elements = model.vocab * model.hidden / layout_.parallelism.tensor;
    const std::int64_t gradient = layout_.numerics.gradients == GradientType::fp32 ? 4 : 2;
    return rounded(time_.collective(PartClass::all_reduce,
                                    Bytes{static_cast<std::int64_t>(elements) * gradient}, owners_));
  }

 private:
  double over_copies(PartClass kind, Bytes whole, const StageBytes& bytes, std::uint32_t owners) const {
    if (bytes.parameters == 0) return 0;
    const auto with_owners = [&](DeviceGroup group) {
      if (owners_.per_node > 1) group.per_node *= owners;
      group.devices *= owners;
      return group;
    };
    const Bytes experts = part_of(whole, bytes.expert_parameters, bytes.parameters);
    return time_.collective(kind, whole - experts, with_owners(dense_)) +
           time_.collective(kind, experts, with_owners(experts_));
  }
  // An eighth is the last bucket's, which there is nothing left to run beside.
  Duration exposed(double all, Duration beside) const {
    return rounded(std::max(all - efficiencies_.reduction_overlap * seconds(beside),
                            efficiencies_.reduction_overlap > 0 ? all / 8 : all));
  }

  const Efficiencies& efficiencies_;
  const Layout& layout_;
  PartTime time_;
  DeviceGroup dense_;
  DeviceGroup experts_;
  DeviceGroup owners_;
};

void set_memory(StageCost& cost, const StageBytes& bytes) {
  cost.weights = bytes.weights;
  cost.gradients = bytes.gradients;
  cost.optimizer_state = bytes.optimizer_state;
  cost.activation_message = bytes.activation_message;
  cost.gradient_message = bytes.gradient_message;
  const Bytes left = bytes.kept_by_forward - bytes.freed_by_backward_input + bytes.added_by_backward_input;
  cost.forward.memory = {bytes.kept_by_forward, bytes.forward_workspace, {}};
  cost.backward.memory = {{}, bytes.backward_workspace, -bytes.kept_by_forward};
  cost.backward_input.memory = {bytes.added_by_backward_input, bytes.backward_input_workspace,
                                -bytes.freed_by_backward_input};
  cost.backward_weight.memory = {{}, bytes.backward_weight_workspace, -left};
}

// Where a rank has a share of a GPU's multiprocessors, or one of several ranks has the GPU in turn, its data
// sheet is as much smaller.
DeviceDescription device_as_measured(const Calibration& calibration, DeviceDescription device) {
  const Setting setting = main_setting(calibration);
  if (calibration.work.empty() || setting.of <= 1) return device;
  const double ranks = setting.of;
  const double share =
      setting.sms > 0 ? static_cast<double>(setting.sms) / device.multiprocessors : 1 / ranks;
  device.peak = {device.peak.bf16 * share, device.peak.fp8 * share, device.peak.fp32 * share};
  device.memory_bandwidth.value /= ranks;
  if (setting.sms > 0) device.multiprocessors = setting.sms;
  return device;
}

bool is_measured(const Calibration& calibration, const char* figure) {
  const auto found = calibration.sources.find(figure);
  return found != calibration.sources.end() && found->second == "measured";
}

// What was measured of one of our classes. Calibrations of before attention's backward was a class of its own
// have it with its forward.
std::optional<std::size_t> measured_class(const Calibration& calibration, const std::string& name) {
  const auto place = [&](const std::string& wanted) -> std::optional<std::size_t> {
    const auto& classes = calibration.classes;
    const auto found = std::find(classes.begin(), classes.end(), wanted);
    const auto at = static_cast<std::size_t>(found - classes.begin());
    return at < calibration.slowdown_ppm.size() ? std::optional(at) : std::nullopt;
  };
  const auto own = place(name);
  return own || name != "attention_backward" ? own : place("attention");
}

// The calibration's classes behind ours, and what it measured of how they slow each other. Its `compute` and
// its communication speak for ours of that kind.
void add_slowdown(CostModel& cost, const Calibration& calibration) {
  const std::size_t ours = cost.classes.size();
  constexpr std::uint32_t none = 1'000'000;
  cost.classes.insert(cost.classes.end(), calibration.classes.begin(), calibration.classes.end());
  for (auto& row : cost.slowdown_ppm) row.resize(cost.classes.size(), none);
  cost.slowdown_ppm.resize(cost.classes.size(), std::vector<std::uint32_t>(cost.classes.size(), none));
  const auto& measured = calibration.slowdown_ppm;
  for (std::size_t a = 0; a < measured.size(); ++a) {
    for (std::size_t b = 0; b < measured.size(); ++b) cost.slowdown_ppm[ours + a][ours + b] = measured[a][b];
  }
  // Classes of one name are one class.
  for (std::size_t x = 0; x < ours; ++x) {
    const auto a = measured_class(calibration, cost.classes[x]);
    for (std::size_t y = 0; a && y < ours; ++y) {
      if (const auto b = measured_class(calibration, cost.classes[y]))
        cost.slowdown_ppm[x][y] = measured[*a][*b];
    }
  }
}

// An earlier stage that costs what this one does: the same content but for where its layers begin, in the
// midst of the pipeline, with no MTP module before either.
std::optional<std::uint32_t> earlier_twin(const ModelShape& model, const Layout& layout,
                                          std::uint32_t stage) {
  const StageContent& content = layout.stages[stage];
  const auto last = static_cast<std::uint32_t>(layout.stages.size()) - 1;
  if (stage < 2 || stage == last || content.multi_token_layers > 0) return std::nullopt;
  for (std::uint32_t other = stage; other-- > 1;) {
    StageContent moved = layout.stages[other];
    if (moved.multi_token_layers > 0) return std::nullopt;
    const std::uint64_t first = std::exchange(moved.first_layer, content.first_layer);
    bool same = moved == content;
    for (std::uint64_t k = 0; same && k < content.layers; ++k)
      same = model.has_experts(first + k) == model.has_experts(content.first_layer + k);
    if (same) return other;
  }
  return std::nullopt;
}

// What two owners of a stage need to add up its gradients, from an all-reduce of that many bytes.
// Of n ranks each sends 2 (n - 1) / n of the bytes, of two as many as there are: where only more than two
// were measured, two take the shorter time in that proportion.
std::optional<Duration> measured_exchange(const Calibration& calibration, Bytes gradients) {
  const TransferSeries* best = nullptr;
  for (const TransferSeries& series : calibration.transfers) {
    if (!series.fit || series.key.kind != TransferKind::all_reduce) continue;
    if (!best || series.key.ranks.size() < best->key.ranks.size()) best = &series;
  }
  if (!best || best->key.ranks.size() < 2) return std::nullopt;
  const auto ranks = static_cast<double>(best->key.ranks.size());
  const double ns = static_cast<double>(duration_at(*best->fit, gradients).duration.ns);
  return Duration{std::llround(ns * ranks / (2 * (ranks - 1)))};
}

CostModel estimate_with(const Calibration* calibration, const DeviceDescription& device,
                        const ModelShape& model, const Layout& layout) {
  check_layout(model, layout);
  CostModel cost;
  cost.name = fmt::format("{} on {}", model.name, calibration ? calibration->name : device.name);
  cost.classes = estimated_classes();
  cost.slowdown_ppm = estimated_slowdown();
  cost.message_class = message_work_class();
  cost.reserve = device.reserve;
  set_links(cost, device, layout.parallelism);
  cost.sources = {{"link", "estimated"},           {"gradient_reduction", "estimated"},
                  {"optimizer_step", "estimated"}, {"memory", "estimated"},
                  {"slowdown", "assumed"},         {"reserve", "assumed"}};
  if (calibration) {
    add_slowdown(cost, *calibration);
    if (is_measured(*calibration, "slowdown")) cost.sources["slowdown"] = "measured";
    if (is_measured(*calibration, "link")) {
      cost.link = calibration->link;
      cost.links.clear();
      cost.sources["link"] = "measured";
    }
  }
  const MeasuredWork measured(calibration, model, layout);
  Recipes recipes(device, model, layout, measured, static_cast<std::uint32_t>(estimated_classes().size()));
  const StepEnd step_end(device, layout);
  cost.stages.resize(layout.stages.size());
  for (std::uint32_t s = 0; s < layout.stages.size(); ++s) {
    StageCost& stage = cost.stages[s];
    if (const auto twin = earlier_twin(model, layout, s)) {
      stage = cost.stages[*twin];
      continue;
    }
    const StageBytes bytes = stage_bytes(model, layout, Stage{s});
    recipes.fill(Stage{s}, stage);
    set_memory(stage, bytes);
    stage.gradient_reduction = step_end.reduction(bytes, stage, 1);
    stage.owner_exchange =
        std::max(Duration{}, step_end.reduction(bytes, stage, 2) - stage.gradient_reduction);
    if (calibration && layout.parallelism.data == 1) {
      if (const auto exchange = measured_exchange(*calibration, bytes.gradients))
        stage.owner_exchange = *exchange;
    }
    stage.optimizer_step = step_end.optimizer(bytes, stage);
  }
  if (model.tied_embeddings && cost.stages.size() > 1) {
    cost.stages.front().optimizer_step += step_end.tied(model);
    cost.stages.back().optimizer_step += step_end.tied(model);
  }
  for (const WorkKind kind :
       {WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight, WorkKind::backward}) {
    cost.sources[std::string(words(kind))] = to_string(recipes.sources().of(kind));
  }
  for (const auto& [layer, source] : recipes.layers()) cost.sources[layer] = to_string(source);
  if (calibration && !recipes.used_measurements()) {
    throw BadInput(
        "--calibration",
        fmt::format("{} holds nothing of {} as it is laid out here: no stage, layer or part of these "
                    "sizes; --gpu alone estimates it",
                    calibration->name, model.name));
  }
  return cost;
}

}  // namespace

CostModel estimate(const DeviceDescription& device, const ModelShape& model, const Layout& layout) {
  return estimate_with(nullptr, device, model, layout);
}

CostModel estimate(const Calibration& calibration, const DeviceDescription& device, const ModelShape& model,
                   const Layout& layout) {
  return estimate_with(&calibration, device_as_measured(calibration, device), model, layout);
}

const DeviceDescription* measured_device(const Calibration& calibration) {
  for (const DeviceDescription& device : bundled_devices()) {
    if (!calibration.provenance.gpu.empty() && same_gpu_class(calibration.provenance.gpu, device.name))
      return &device;
  }
  return nullptr;
}

void apply_software(const DeviceDescription& device, Layout& layout) {
  const Efficiencies& software = device.efficiencies;
  layout.numerics.fused_attention = layout.numerics.fused_attention && software.fused_attention;
  layout.numerics.fused_loss = layout.numerics.fused_loss && software.fused_loss;
  layout.numerics.dropout = layout.numerics.dropout || software.dropout;
  layout.parallelism.sequence_parallel = layout.parallelism.sequence_parallel && software.sequence_parallel;
}

Throughput throughput(Duration step_time, std::uint32_t microbatches, const DeviceDescription& device,
                      const ModelShape& model, const Layout& layout) {
  const double tokens = static_cast<double>(layout.tokens()) * microbatches * layout.parallelism.data;
  const double peak = layout.numerics.weights == WeightType::fp32 ? device.peak.fp32 : device.peak.bf16;
  Throughput out;
  if (step_time.ns <= 0) return out;
  out.tokens_per_s = tokens / seconds(step_time);
  out.mfu = out.tokens_per_s * train_flops_per_token(model, layout.sequence) /
            (peak * static_cast<double>(layout.parallelism.devices()));
  return out;
}

CostModel estimate(const Calibration& calibration, std::uint32_t stages, std::uint32_t layers) {
  PLUMB_CHECK(stages > 0 && layers > 0);
  CostModel cost;
  cost.name = calibration.name;
  cost.classes = calibration.classes;
  cost.slowdown_ppm = calibration.slowdown_ppm;
  cost.message_class = calibration.message_class;
  cost.link = calibration.link;
  cost.sources = calibration.sources;
  StageCost stage;
  stage.forward = stage_of_layers(calibration.forward, layers, stages);
  stage.backward_input = stage_of_layers(calibration.backward_input, layers, stages);
  stage.backward_weight = stage_of_layers(calibration.backward_weight, layers, stages);
  stage.backward = stage_of_layers(calibration.backward, layers, stages);
  stage.activation_message = calibration.activation_message;
  stage.gradient_message = calibration.gradient_message;
  // Two owners exchange all of a stage's gradients once in either direction.
  stage.gradient_reduction = calibration.link.latency;
  if (calibration.link.bandwidth) {
    const double bytes = static_cast<double>(calibration.gradient_bytes_per_layer.count) * layers / stages;
    stage.gradient_reduction.ns += std::llround(bytes / calibration.link.bandwidth->value * 1e9);
  }
  cost.stages = {stage};
  return cost;
}

CostModel measured_chunk(const Calibration& calibration) {
  return estimate(calibration, 1, calibration.chunk_layers);
}

}  // namespace plumb
