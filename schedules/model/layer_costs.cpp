#include "schedules/model/layer_costs.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/model/layer_parts.hpp"

#include <algorithm>

namespace plumb {
namespace {

std::vector<PartGroup> groups_of(const LayerParts& make, const ModelShape& model, const Numerics& numerics,
                                 const StageContent& content) {
  std::vector<PartGroup> groups;
  if (content.embedding && model.architecture == Architecture::transformer)
    groups.push_back({"embedding", 1, make.embedding()});
  const std::uint64_t end = content.first_layer + content.layers;
  for (std::uint64_t layer = content.first_layer; layer < end;) {
    const bool experts = model.has_experts(layer);
    std::uint64_t next = layer + 1;
    while (next < end && model.has_experts(next) == experts) ++next;
    PartGroup group{experts ? "expert_layer" : "layer", next - layer, make.layer(experts)};
    recompute(group.parts, content.recompute, model, numerics);
    groups.push_back(std::move(group));
    layer = next;
  }
  for (std::uint64_t i = 0; i < content.multi_token_layers; ++i)
    groups.push_back({"multi_token", 1, make.multi_token(content, i == 0)});
  if (content.head) groups.push_back({"head", 1, make.head(content)});
  return groups;
}

// All of the model on one device, one sequence.
std::vector<PartGroup> whole(const ModelShape& model, std::uint64_t sequence,
                             std::uint64_t multi_token_layers) {
  Layout layout;
  layout.sequence = sequence;
  layout.micro_batch_size = 1;
  layout.numerics.fused_loss = false;  // no product twice
  layout.stages = {{0, model.layers, multi_token_layers, true, true, Recompute::none}};
  return stage_groups(model, layout, Stage{0});
}

std::uint64_t owned_parameters(const PartGroup& group) {
  std::uint64_t sum = 0;
  for (const Part& part : group.parts) sum += part.parameters - part.copied_parameters;
  return sum * group.times;
}

// Alive while a part's fused backward runs, beside what forward kept: its transient tensors, its output's
// gradient, and its input's, which the linears in front have as their outputs' (parts without transient
// tensors work in place). Beside a norm that counts one tensor of the residual stream too many.
Bytes fused_workspace(const std::vector<Part>& parts, std::size_t i) {
  const auto transient = [](const Part& part) {
    return std::max(part.backward_input.workspace, part.backward_weight.workspace);
  };
  Bytes sum = transient(parts[i]) + parts[i].gradient_kept;
  std::size_t before = i;
  while (before > 0 && transient(parts[before - 1]) == Bytes{} && parts[before - 1].gradient_kept == Bytes{})
    --before;
  while (before > 0 && parts[before - 1].gradient_kept != Bytes{}) sum += parts[--before].gradient_kept;
  return sum;
}

std::uint64_t divided(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }
Bytes bytes(std::uint64_t count, std::uint64_t each) { return {static_cast<std::int64_t>(count * each)}; }

}  // namespace

std::vector<PartGroup> stage_groups(const ModelShape& model, const Layout& layout, Stage stage) {
  PLUMB_CHECK(stage.value < layout.stages.size());
  const LayerParts make(model, layout);
  return groups_of(make, model, layout.numerics, layout.stages[stage.value]);
}

std::vector<Part> stage_parts(const ModelShape& model, const Layout& layout, Stage stage) {
  std::vector<Part> parts;
  for (const PartGroup& group : stage_groups(model, layout, stage)) {
    for (std::uint64_t i = 0; i < group.times; ++i)
      parts.insert(parts.end(), group.parts.begin(), group.parts.end());
  }
  return parts;
}

std::uint64_t parameters(const ModelShape& model) {
  std::uint64_t sum = 0;
  for (const PartGroup& group : whole(model, 1, 0)) sum += owned_parameters(group);
  return sum;
}

std::uint64_t active_parameters(const ModelShape& model) {
  std::uint64_t sum = 0;
  for (const PartGroup& group : whole(model, 1, 0)) {
    std::uint64_t experts = 0;
    for (const Part& part : group.parts) experts += part.expert_parameters;
    sum += owned_parameters(group);
    if (experts > 0) {
      const ExpertsShape& shape = *model.experts;
      sum -= group.times * (experts - experts / shape.routed * shape.per_token);
    }
  }
  return sum;
}

std::uint64_t multi_token_parameters(const ModelShape& model) {
  std::uint64_t sum = 0;
  for (const PartGroup& group : whole(model, 1, model.multi_token_layers)) {
    if (group.name == "multi_token") sum += owned_parameters(group);
  }
  return sum;
}

double train_flops_per_token(const ModelShape& model, std::uint64_t sequence) {
  double flops = 0;
  for (const PartGroup& group : whole(model, sequence, 0)) {
    double once = 0;
    for (const Part& part : group.parts)
      once += part.forward.flops + part.backward_input.flops + part.backward_weight.flops;
    flops += once * static_cast<double>(group.times);
  }
  return flops / static_cast<double>(sequence);
}

StageBytes stage_bytes(const ModelShape& model, const Layout& layout, Stage stage) {
  const Numerics& numerics = layout.numerics;
  const Parallelism& parallelism = layout.parallelism;
  const std::uint64_t element = numerics.weights == WeightType::fp32 ? 4 : 2;
  const LayerParts make(model, layout);
  StageBytes out;
  const auto at_least = [](Bytes& most, Bytes now) { most = std::max(most, now); };
  Bytes again_for_input;  // of the layer that is recomputed: alive while backward_input runs
  Bytes again_in_all;
  for (const PartGroup& group : stage_groups(model, layout, stage)) {
    const auto times = static_cast<std::int64_t>(group.times);
    Bytes layer_for_input;
    Bytes layer_in_all;
    for (const Part& part : group.parts) {
      out.parameters += part.parameters * group.times;
      out.expert_parameters += part.expert_parameters * group.times;
      out.weights += bytes(part.parameters, part.fp8 ? 1 : element) * times;
      for (const KeptTensor& tensor : part.kept) {
        if (tensor.recomputed) {
          layer_in_all += tensor.bytes;
          if (tensor.for_weight) out.added_by_backward_input += tensor.bytes * times;
          if (!tensor.for_weight) layer_for_input += tensor.bytes;
        } else {
          out.kept_by_forward += tensor.bytes * times;
          if (!tensor.for_weight) out.freed_by_backward_input += tensor.bytes * times;
        }
      }
      out.added_by_backward_input += part.gradient_kept * times;
      at_least(out.forward_workspace, part.forward.workspace);
      at_least(out.backward_input_workspace, part.backward_input.workspace);
      at_least(out.backward_weight_workspace, part.backward_weight.workspace);
    }
    for (std::size_t i = 0; i < group.parts.size(); ++i)
      at_least(out.backward_workspace, fused_workspace(group.parts, i));
    again_for_input = std::max(again_for_input, layer_for_input);
    again_in_all = std::max(again_in_all, layer_in_all);
  }
  out.backward_input_workspace += again_for_input;
  out.backward_workspace += again_in_all;
  out.gradients = bytes(out.parameters, numerics.gradients == GradientType::fp32 ? 4 : 2);
  const std::uint64_t dense_copies = parallelism.shard_optimizer ? parallelism.data : 1;
  const std::uint64_t expert_copies =
      parallelism.shard_optimizer ? std::uint64_t{parallelism.tensor} * parallelism.data / parallelism.expert
                                  : 1;
  out.optimizer_state = bytes(divided(out.parameters - out.expert_parameters, dense_copies) +
                                  divided(out.expert_parameters, std::max<std::uint64_t>(1, expert_copies)),
                              numerics.weights == WeightType::fp32 ? 8 : 12);
  // Between MTP modules on two stages the main hidden state travels too: a module's own, and the one for the
  // final norm.
  const auto message = [&](std::size_t before) {
    std::uint64_t done = 0;
    for (std::size_t s = 0; s <= before; ++s) done += layout.stages[s].multi_token_layers;
    return make.residual_stream() * (done > 0 && done < model.multi_token_layers ? 2 : 1);
  };
  if (stage.value + 1 < layout.stages.size()) out.activation_message = message(stage.value);
  if (stage.value > 0) out.gradient_message = message(stage.value - 1);
  return out;
}

}  // namespace plumb
