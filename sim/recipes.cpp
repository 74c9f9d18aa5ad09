#include "sim/recipes.hpp"

#include "calibrate/work.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_parts.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

namespace plumb {
namespace {

// In the order of estimated_classes().
constexpr WorkClass gemm_class{0};
constexpr WorkClass attention_class{1};
constexpr WorkClass attention_backward_class{2};
constexpr WorkClass memory_class{3};
constexpr WorkClass host_class{4};
constexpr std::uint32_t first_collective = 5;
constexpr std::uint32_t message_class = 9;

WorkClass class_of(PartClass kind) {
  switch (kind) {
    case PartClass::gemm:
      return gemm_class;
    case PartClass::attention:
      return attention_class;
    case PartClass::memory:
      return memory_class;
    case PartClass::all_gather:
      return WorkClass{first_collective};
    case PartClass::reduce_scatter:
      return WorkClass{first_collective + 1};
    case PartClass::all_reduce:
      return WorkClass{first_collective + 2};
    case PartClass::all_to_all:
      return WorkClass{first_collective + 3};
  }
  return memory_class;
}

// What backward does where forward did `kind`.
PartClass conjugate(PartClass kind) {
  if (kind == PartClass::all_gather) return PartClass::reduce_scatter;
  if (kind == PartClass::reduce_scatter) return PartClass::all_gather;
  return kind;
}

Duration rounded(double seconds) { return {std::llround(seconds * 1e9)}; }

void append(std::vector<Segment>& out, const std::vector<Segment>& more) {
  out.insert(out.end(), more.begin(), more.end());
}

bool communicates(const std::vector<Segment>& segments) {
  return std::any_of(segments.begin(), segments.end(),
                     [](const Segment& segment) { return segment.lane == Lane::communication; });
}

GemmShape input_gradient(const GemmShape& shape) { return {shape.m, shape.k, shape.n, shape.count}; }
GemmShape weight_gradient(const GemmShape& shape) { return {shape.n, shape.k, shape.m, shape.count}; }

// The host launches parts one after the other; where that takes longer than the parts, the device waits.
// Layer by layer, so that a stage's cost is the sum of its layers'.
void wait_for_host(std::vector<Segment>& segments, double host) {
  Duration wait = rounded(host);
  for (const Segment& segment : segments) wait -= segment.duration;
  if (wait > Duration{}) segments.push_back({Lane::compute, wait, host_class, "host", false});
}

// In the place of estimated segments: as many of them, each scaled alike, so that they last what was
// measured.
void scale_to(std::vector<Segment>& segments, Duration measured) {
  Duration sum;
  for (const Segment& segment : segments) sum += segment.duration;
  if (sum <= Duration{}) return;
  std::int64_t before = 0;
  std::int64_t given = 0;
  for (Segment& segment : segments) {
    before += segment.duration.ns;
    const std::int64_t until = std::llround(static_cast<double>(measured.ns) * static_cast<double>(before) /
                                            static_cast<double>(sum.ns));
    segment.duration.ns = until - given;
    given = until;
  }
}

}  // namespace

const std::vector<std::string>& estimated_classes() {
  static const std::vector<std::string> classes{
      "gemm",       "attention",      "attention_backward", "memory",     "host",
      "all_gather", "reduce_scatter", "all_reduce",         "all_to_all", "send_recv"};
  return classes;
}

std::vector<std::vector<std::uint32_t>> estimated_slowdown() {
  constexpr std::uint32_t none = 1'000'000;
  const std::size_t classes = estimated_classes().size();
  std::vector<std::vector<std::uint32_t>> rows(classes, std::vector<std::uint32_t>(classes, none));
  for (std::uint32_t work = 0; work < host_class.value; ++work) {
    for (std::uint32_t other = first_collective; other < message_class; ++other) {
      rows[work][other] = 1'150'000;
      rows[other][work] = 1'100'000;
    }
    rows[work][message_class] = 1'050'000;
  }
  return rows;
}

WorkClass message_work_class() { return WorkClass{message_class}; }

Recipes::Recipes(const DeviceDescription& device, const ModelShape& model, const Layout& layout,
                 const MeasuredWork& measured, std::uint32_t first_foreign_class)
    : device_(device),
      model_(model),
      layout_(layout),
      plain_(layout),
      time_(device, layout.numerics.weights),
      measured_(measured),
      first_foreign_class_(first_foreign_class),
      tensor_(group_of(layout.parallelism.tensor, 1, device)),
      expert_(group_of(layout.parallelism.expert, 1, device)) {
  for (StageContent& stage : plain_.stages) stage.recompute = Recompute::none;
}

double Recipes::traffic_of(const Part& part) const {
  return part.name.ends_with("loss") ? device_.efficiencies.loss_traffic : device_.efficiencies.traffic;
}

void Recipes::communicate(const Part& part, PartClass kind, Bytes sent, std::vector<Segment>& out) const {
  const bool experts = kind == PartClass::all_to_all;
  double seconds = time_.collective(kind, sent, experts ? expert_ : tensor_);
  if (!experts) seconds *= 1 - device_.efficiencies.tensor_overlap;
  if (seconds > 0) out.push_back({Lane::communication, rounded(seconds), class_of(kind), part.name, false});
}

// Two products for each head with the scores between them in memory, unless the attention is fused.
double Recipes::attention_forward(const Part& part) const {
  if (layout_.numerics.fused_attention)
    return time_.fused_attention(part.forward.flops, layout_.sequence, part.forward.moved);
  const AttentionShape& shape = model_.attention;
  const std::uint64_t value_dim = shape.latent ? shape.latent->value_dim : shape.head_dim;
  const std::uint64_t rows = layout_.sequence;
  const std::uint64_t count = layout_.micro_batch_size * (shape.heads / layout_.parallelism.tensor);
  return time_.product({rows, rows, shape.head_dim, count}, false, {}) +
         time_.product({rows, value_dim, rows, count}, false, {}) + time_.memory(part.forward.moved, 1);
}

double Recipes::attention_backward(const Part& part) const {
  if (layout_.numerics.fused_attention)
    return time_.fused_attention(part.backward_input.flops, layout_.sequence, part.backward_input.moved);
  const AttentionShape& shape = model_.attention;
  const std::uint64_t value_dim = shape.latent ? shape.latent->value_dim : shape.head_dim;
  const std::uint64_t rows = layout_.sequence;
  const std::uint64_t count = layout_.micro_batch_size * (shape.heads / layout_.parallelism.tensor);
  return time_.product({rows, rows, value_dim, count}, false, {}) +
         time_.product({rows, value_dim, rows, count}, false, {}) +
         2 * time_.product({rows, shape.head_dim, rows, count}, false, {}) +
         time_.memory(part.backward_input.moved, 1);
}

Source Recipes::source_of(bool interpolated) {
  used_measurements_ = true;
  return interpolated ? Source::interpolated : Source::measured;
}

template <class Estimate>
void Recipes::compute(std::vector<Segment>& out, const Part& part, WorkKind kind, WorkClass work_class,
                      const Estimate& estimate) {
  Duration duration;
  std::optional<std::uint32_t> tail;
  if (const auto measured = measured_.find([&] { return part_work(part, model_, layout_, kind); })) {
    duration = measured->duration;
    tail = measured->tail_ppm;
    used_.add(kind, source_of(measured->interpolated));
  } else {
    duration = rounded(estimate());
    used_.add(kind, Source::estimated);
  }
  if (duration > Duration{}) out.push_back({Lane::compute, duration, work_class, part.name, false, tail});
}

std::vector<Segment> Recipes::forward_of(const Part& part) {
  std::vector<Segment> out;
  const Work& work = part.forward;
  if (part.part_class == PartClass::gemm) {
    compute(out, part, WorkKind::forward, gemm_class,
            [&] { return time_.product(part.gemm, part.fp8, work.moved); });
  } else if (part.part_class == PartClass::attention) {
    compute(out, part, WorkKind::forward, attention_class, [&] { return attention_forward(part); });
  } else if (work.moved != Bytes{}) {
    compute(out, part, WorkKind::forward, memory_class,
            [&] { return time_.memory(work.moved, traffic_of(part)); });
  }
  if (is_collective(part.part_class)) communicate(part, part.part_class, work.sent, out);
  return out;
}

std::vector<Segment> Recipes::input_of(const Part& part) {
  std::vector<Segment> out;
  const Work& work = part.backward_input;
  if (is_collective(part.part_class)) communicate(part, conjugate(part.part_class), work.sent, out);
  if (part.part_class == PartClass::gemm) {
    compute(out, part, WorkKind::backward_input, gemm_class, [&] {
      double seconds = time_.product(input_gradient(part.gemm), part.fp8, work.moved);
      // A fused loss makes the logits once more first.
      const double again = std::round(work.flops / part.forward.flops) - 1;
      if (again > 0) seconds += again * time_.product(part.gemm, part.fp8, {});
      return seconds;
    });
  } else if (part.part_class == PartClass::attention) {
    compute(out, part, WorkKind::backward_input, attention_backward_class,
            [&] { return attention_backward(part); });
  } else if (work.moved != Bytes{}) {
    compute(out, part, WorkKind::backward_input, memory_class,
            [&] { return time_.memory(work.moved, traffic_of(part)); });
  }
  return out;
}

std::vector<Segment> Recipes::weight_of(const Part& part) {
  std::vector<Segment> out;
  const Work& work = part.backward_weight;
  if (is_collective(part.part_class)) communicate(part, part.part_class, work.sent, out);
  if (part.part_class == PartClass::gemm) {
    compute(out, part, WorkKind::backward_weight, gemm_class,
            [&] { return time_.product(weight_gradient(part.gemm), part.fp8, work.moved); });
  } else if (work.moved != Bytes{}) {
    compute(out, part, WorkKind::backward_weight, memory_class,
            [&] { return time_.memory(work.moved, traffic_of(part)); });
  }
  return out;
}

void Recipes::take_measured_layer(const PartGroup& group, std::uint64_t layer, Pieces& pieces) {
  const std::array<std::pair<WorkKind, std::vector<Segment>*>, 4> ops{
      {{WorkKind::forward, &pieces.forward},
       {WorkKind::backward_input, &pieces.backward_input},
       {WorkKind::backward_weight, &pieces.backward_weight},
       {WorkKind::backward, &pieces.backward}}};
  for (const auto& op : ops) {
    const WorkKind kind = op.first;
    std::vector<Segment>* segments = op.second;
    // A measured layer is one device's: its collectives are not in it.
    if (!communicates(*segments)) {
      if (const auto measured = measured_.find([&] { return layer_work(model_, layout_, layer, kind); })) {
        scale_to(*segments, measured->duration);
        used_.set(kind, source_of(measured->interpolated));
        layers_[group.name] = std::max(layers_[group.name], used_.of(kind));
        continue;
      }
    }
    if (group.name != "expert_layer") continue;
    if (auto whole = measured_.expert_layer(kind)) {
      *segments = std::move(whole->segments);
      for (Segment& segment : *segments) segment.work_class.value += first_foreign_class_;
      used_.set(kind, source_of(whole->interpolated));
      layers_[group.name] = std::max(layers_[group.name], used_.of(kind));
    }
  }
}

Recipes::Pieces Recipes::pieces_of(const PartGroup& group, std::uint64_t first_layer, Recompute recompute) {
  const double host_forward = static_cast<double>(device_.efficiencies.host_forward.ns) * 1e-9;
  const double host_backward = static_cast<double>(device_.efficiencies.host_backward.ns) * 1e-9;
  const double host_collective = static_cast<double>(device_.efficiencies.collective_launch.ns) * 1e-9;
  const auto host = [&](const Part& part, double computed) {
    return is_collective(part.part_class) ? host_collective : computed;
  };
  Pieces pieces;
  used_ = {};
  double launches_forward = 0, launches_input = 0, launches_weight = 0, launches_backward = 0;
  for (const Part& part : group.parts) {
    const std::vector<Segment> segments = forward_of(part);
    if (segments.empty()) continue;
    append(pieces.forward, segments);
    launches_forward += host(part, host_forward);
  }
  const auto repeated = [&](const Part& part) {
    return recompute == Recompute::selective && repeated_by_selective(part, model_, layout_.numerics);
  };
  for (std::size_t i = group.parts.size(); i-- > 0;) {
    const Part* part = &group.parts[i];
    // Made again first: the scores ahead of their own backward, anything else, in forward order, ahead of the
    // backward of the part that reads it.
    std::size_t first = i;
    std::size_t end = i;
    if (!layout_.numerics.fused_attention) {
      if (repeated(*part)) ++end;
    } else if (!repeated(*part)) {
      while (first > 0 && repeated(group.parts[first - 1])) --first;
    }
    std::vector<Segment> input;
    for (std::size_t k = first; k < end; ++k) {
      append(input, forward_of(group.parts[k]));
      launches_backward += host(group.parts[k], host_forward);
      launches_input += host(group.parts[k], host_forward);
    }
    append(input, input_of(*part));
    std::vector<Segment> weight = weight_of(*part);
    if (input.empty() && weight.empty()) continue;
    append(pieces.backward_input, input);
    append(pieces.backward, input);
    // Nobody waits for a weight's gradient: while the input's is summed over the group, it is computed.
    for (Segment& segment : weight) segment.deferred = true;
    append(pieces.backward, weight);
    // On its own it reads the output's gradient from memory once more, and gathers ahead.
    for (Segment& segment : weight) {
      if (segment.lane == Lane::communication) continue;
      segment.deferred = false;
      segment.duration += rounded(time_.streamed(part->gradient_kept));
    }
    append(pieces.backward_weight, weight);
    launches_backward += host(*part, host_backward);
    if (!input.empty()) launches_input += host(*part, host_backward);
    if (!weight.empty()) launches_weight += host(*part, host_backward);
  }
  wait_for_host(pieces.forward, launches_forward);
  wait_for_host(pieces.backward_input, launches_input);
  wait_for_host(pieces.backward_weight, launches_weight);
  wait_for_host(pieces.backward, launches_backward);
  used_.add(WorkKind::backward, used_.of(WorkKind::backward_input));
  used_.add(WorkKind::backward, used_.of(WorkKind::backward_weight));
  const bool is_layer = group.name == "layer" || group.name == "expert_layer";
  if (is_layer) take_measured_layer(group, first_layer, pieces);
  // In full, a layer is made again before its backward.
  if (recompute == Recompute::full && group.name != "embedding" && group.name != "head") {
    pieces.backward.insert(pieces.backward.begin(), pieces.forward.begin(), pieces.forward.end());
    pieces.backward_input.insert(pieces.backward_input.begin(), pieces.forward.begin(), pieces.forward.end());
    used_.add(WorkKind::backward, used_.of(WorkKind::forward));
    used_.add(WorkKind::backward_input, used_.of(WorkKind::forward));
  }
  return pieces;
}

void Recipes::fill(Stage stage, StageCost& cost) {
  const Recompute recompute = layout_.stages[stage.value].recompute;
  const std::vector<PartGroup> groups = stage_groups(model_, plain_, stage);
  std::vector<Pieces> all;
  Sources of_stage;
  std::uint64_t layer = layout_.stages[stage.value].first_layer;
  for (const PartGroup& group : groups) {
    all.push_back(pieces_of(group, layer, recompute));
    of_stage.add(used_);
    if (group.name == "layer" || group.name == "expert_layer") layer += group.times;
    for (std::uint64_t i = 0; i < group.times; ++i) append(cost.forward.recipe, all.back().forward);
  }
  for (std::size_t g = groups.size(); g-- > 0;) {
    for (std::uint64_t i = 0; i < groups[g].times; ++i) {
      append(cost.backward_input.recipe, all[g].backward_input);
      append(cost.backward_weight.recipe, all[g].backward_weight);
      append(cost.backward.recipe, all[g].backward);
    }
  }
  const std::array<std::pair<WorkKind, OpCost*>, 4> ops{{{WorkKind::forward, &cost.forward},
                                                         {WorkKind::backward_input, &cost.backward_input},
                                                         {WorkKind::backward_weight, &cost.backward_weight},
                                                         {WorkKind::backward, &cost.backward}}};
  for (const auto& [of, op] : ops) {
    const WorkKind kind = of;
    if (communicates(op->recipe)) continue;
    if (const auto measured = measured_.find([&] { return stage_work(model_, layout_, stage, kind); })) {
      scale_to(op->recipe, measured->duration);
      of_stage.set(kind, source_of(measured->interpolated));
    }
  }
  // A pair that was measured is known better than what its segments make of each other.
  if (!communicates(cost.forward.recipe) && !communicates(cost.backward.recipe)) {
    const auto pair =
        measured_.find([&] { return stage_work(model_, layout_, stage, WorkKind::forward_beside_backward); });
    if (pair) cost.overlapped = pair->duration;
  }
  sources_.add(of_stage);
  // With one lane at work nothing can be put off.
  if (!communicates(cost.backward.recipe)) {
    for (Segment& segment : cost.backward.recipe) segment.deferred = false;
  }
  // An op without work still is one: the first stage of a model may have no parameters.
  for (OpCost* op : {&cost.forward, &cost.backward_input, &cost.backward_weight, &cost.backward}) {
    if (op->recipe.empty()) op->recipe.push_back({Lane::compute, {}, memory_class, "nothing", false});
  }
}

}  // namespace plumb
