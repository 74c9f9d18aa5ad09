#include "runtime/cuda/rank_compute.hpp"

#include "runtime/device/device_info.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/memory_state.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>

namespace plumb::cuda {
namespace {

TimePoint since(const device::Event& base, const device::Event& event) {
  return TimePoint{} + device::between(base, event);
}

layers::DataType type_of(const Layout& layout) {
  switch (layout.numerics.weights) {
    case WeightType::bf16:
      return layers::DataType::bf16;
    case WeightType::fp32:
      return layers::DataType::fp32;
    case WeightType::fp8:
      break;
  }
  throw BadInput("the layout", "a GPU's runtime computes in bf16 or fp32");
}

// Rounds to the nearest, ties to even.
std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

RankCompute::RankCompute(const TrainingPlan& plan, Rank rank, const device::GreenContext* share,
                         layers::ProductAlgorithms& algorithms, std::uint32_t left_free)
    : plan_(plan),
      first_stream_(share ? share->stream() : device::Stream()),
      second_stream_(layers::pair_forward_stream(share)),
      held_(plan.schedule.stages),
      stage_memory_(plan.schedule.stages) {
  PLUMB_CHECK(plan.layout.stages.size() == plan.schedule.stages);
  const std::uint32_t all = share ? share->multiprocessors() : device::device_info().multiprocessors;
  PLUMB_CHECK(left_free < all);
  const std::uint32_t multiprocessors = all - left_free;
  first_ = std::make_unique<layers::Lane>(first_stream_, multiprocessors);
  second_ = std::make_unique<layers::Lane>(second_stream_, multiprocessors);

  program_ = make_rank_program(plan.schedule, rank);  // which stages are held
  make_stages(algorithms);
  program_ = make_rank_program(plan.schedule, rank, stage_memory_, plan.arena);
  const Bytes free = device::memory_state().free;
  if (free < program_.arena) {
    throw DeviceError(
        fmt::format("rank {} needs {} for activations and messages, and {} of the GPU's memory are free",
                    rank.value, to_text(program_.arena), to_text(free)));
  }
  arena_ = device::Buffer(program_.arena);
  actions_.resize(program_.actions);
  for (const ProgramStep& step : program_.steps) {
    const auto* compute = std::get_if<ComputeStep>(&step);
    if (!compute || !compute->action.is_pair()) continue;
    actions_[compute->position].halves = static_cast<std::uint32_t>(halves_.size());
    halves_.emplace_back().action = compute->action;
  }
  make_data();
}

RankCompute::~RankCompute() = default;

void RankCompute::make_stages(layers::ProductAlgorithms& algorithms) {
  const layers::DataType type = type_of(plan_.layout);
  // What is received has the size that the neighbour's stage gives it, wherever that stage is.
  for (std::uint32_t s = 0; s < held_.size(); ++s) {
    const StageBytes bytes = stage_bytes(plan_.model, plan_.layout, Stage{s});
    stage_memory_[s].activation_message = bytes.activation_message;
    stage_memory_[s].gradient_message = bytes.gradient_message;
  }
  for (const Stage stage : program_.held) {
    Held& held = held_[stage.value];
    held.parameters = std::make_unique<StageParameters>(
        stage_parameters(plan_.model, plan_.layout.stages[stage.value]), type);
    held.stage = std::make_unique<layers::ModelStage>(plan_.model, plan_.layout, stage,
                                                      held.parameters->all(), algorithms, *first_);
    const layers::StageNeeds& needs = held.stage->needs();
    StageMemory& memory = stage_memory_[stage.value];
    PLUMB_CHECK(needs.output == memory.activation_message);
    memory.kept_for_input = needs.kept_for_input;
    memory.kept_for_weight = needs.kept_for_weight;
    memory.gradients_kept = needs.gradients_kept;
    memory.workspace = {needs.forward_scratch, needs.backward_input_scratch, needs.backward_weight_scratch,
                        needs.backward_scratch};
  }
}

void RankCompute::choose_products(layers::ProductAlgorithms& algorithms) {
  for (const Stage stage : program_.held) held_[stage.value].stage->choose_products(algorithms, *first_);
}

void RankCompute::initialise() {
  for (const Stage stage : program_.held) held_[stage.value].parameters->initialise(*first_, plan_.seed);
}

// Places for the data of the microbatches that enter here, and for the targets of those that end here.
void RankCompute::make_data() {
  const std::uint32_t microbatches = plan_.schedule.microbatches;
  const std::uint64_t tokens = plan_.layout.tokens();
  const bool text = plan_.model.architecture == Architecture::transformer;
  const std::uint64_t each = text ? tokens * sizeof(std::int32_t)
                                  : tokens * plan_.model.hidden * layers::bytes_of(type_of(plan_.layout));
  inputs_.resize(microbatches);
  targets_.resize(microbatches);
  std::uint64_t end = 0;
  const auto take = [&](Buffer& buffer) {
    buffer = {end, each};
    end += (each + 255) / 256 * 256;
  };
  for (const ProgramStep& step : program_.steps) {
    const auto* compute = std::get_if<ComputeStep>(&step);
    if (!compute) continue;
    for (const Op& op : compute->action) {
      if (op.kind != OpKind::forward) continue;
      if (op.stage.value == 0) take(inputs_[op.microbatch.value]);
      if (op.stage.value + 1 == plan_.schedule.stages) take(targets_[op.microbatch.value]);
    }
  }
  data_ = device::Buffer(Bytes{static_cast<std::int64_t>(end)});
  losses_ = device::Buffer(Bytes{static_cast<std::int64_t>(microbatches * sizeof(float))});
}

void RankCompute::begin_step() {
  device::fill(first_stream_, losses_.data(), 0, static_cast<std::size_t>(losses_.bytes().count));
}

void* RankCompute::place(const Buffer& buffer) const {
  return buffer.empty() ? nullptr : arena_.as<std::byte>() + buffer.offset;
}

layers::Launching RankCompute::launching(const Op& op, const OpBuffers& buffers,
                                         const layers::Lane& lane) const {
  layers::StageBuffers at;
  at.input = place(buffers.input);
  at.output = place(buffers.output);
  at.kept_for_input = place(buffers.kept_for_input);
  at.kept_for_weight = place(buffers.kept_for_weight);
  at.gradients_kept = place(buffers.gradients_kept);
  if (!buffers.workspace.empty()) {
    at.scratch =
        layers::Scratch(place(buffers.workspace), Bytes{static_cast<std::int64_t>(buffers.workspace.bytes)});
  }
  const auto data = [&](const Buffer& buffer) { return data_.as<std::byte>() + buffer.offset; };
  layers::StageTarget target;
  target.scale = static_cast<float>(loss_scale(plan_));
  if (op.kind == OpKind::forward) {
    if (op.stage.value == 0) at.input = data(inputs_[op.microbatch.value]);
    if (needs_target(op.microbatch)) target.target = data(targets_[op.microbatch.value]);
    target.loss = losses_.as<float>() + op.microbatch.value;
  }
  return held_[op.stage.value].stage->launching(op.kind, lane, at, target);
}

void RankCompute::compute(const ComputeStep& step) {
  const ActionEvents& events = actions_[step.position];
  events.begin.record(first_stream_);
  if (!step.action.is_pair()) {
    launching(step.action.first(), step.buffers[0], *first_).finish();
  } else {
    second_stream_.wait(events.begin);
    interleave(launching(step.action.first(), step.buffers[0], *second_),
               launching(step.action.second(), step.buffers[1], *first_));
    const Halves& halves = halves_[events.halves];
    halves.end[0].record(second_stream_);
    halves.end[1].record(first_stream_);
    first_stream_.wait(halves.end[0]);
  }
  events.end.record(first_stream_);
}

const device::Event& RankCompute::end_of(std::uint32_t position, std::uint8_t op) const {
  const ActionEvents& events = actions_[position];
  return events.halves == no_index ? events.end : halves_[events.halves].end[op];
}

Interval RankCompute::interval(std::uint32_t position, const device::Event& base) const {
  return {since(base, actions_[position].begin), since(base, actions_[position].end)};
}

std::vector<SegmentSpan> RankCompute::segments(const device::Event& base) const {
  std::vector<SegmentSpan> segments;
  for (const ActionEvents& events : actions_) {
    if (events.halves == no_index) continue;
    const Halves& halves = halves_[events.halves];
    for (std::size_t k = 0; k < 2; ++k) {
      const Op& op = k == 0 ? halves.action.first() : halves.action.second();
      segments.push_back({op, Lane::compute, std::string(words(op.kind)), since(base, events.begin),
                          since(base, halves.end[k])});
    }
  }
  return segments;
}

void RankCompute::load(Microbatch microbatch, const MicrobatchData& data) {
  const auto put = [&](const Buffer& to, const void* from) {
    device::copy(first_stream_, data_.as<std::byte>() + to.offset, from, to.bytes);
    first_stream_.synchronize();
  };
  const auto put_floats = [&](const Buffer& to, const std::vector<float>& values) {
    if (to.empty()) return;
    if (type_of(plan_.layout) == layers::DataType::fp32) {
      PLUMB_CHECK(values.size() * sizeof(float) == to.bytes);
      return put(to, values.data());
    }
    PLUMB_CHECK(values.size() * sizeof(std::uint16_t) == to.bytes);
    std::vector<std::uint16_t> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), to_bf16);
    put(to, rounded.data());
  };
  const auto put_tokens = [&](const Buffer& to, const std::vector<std::int32_t>& tokens) {
    if (to.empty()) return;
    PLUMB_CHECK(tokens.size() * sizeof(std::int32_t) == to.bytes);
    put(to, tokens.data());
  };
  if (plan_.model.architecture == Architecture::transformer) {
    put_tokens(inputs_[microbatch.value], data.tokens);
    put_tokens(targets_[microbatch.value], data.next_tokens);
  } else {
    put_floats(inputs_[microbatch.value], data.input);
    put_floats(targets_[microbatch.value], data.target);
  }
}

std::vector<std::pair<Microbatch, double>> RankCompute::losses() {
  std::vector<float> values(plan_.schedule.microbatches);
  device::copy(first_stream_, values.data(), losses_.data(), values.size() * sizeof(float));
  first_stream_.synchronize();
  std::vector<std::pair<Microbatch, double>> losses;
  for (std::uint32_t m = 0; m < values.size(); ++m) {
    if (needs_target(Microbatch{m})) losses.emplace_back(Microbatch{m}, values[m]);
  }
  return losses;
}

StageParameters& RankCompute::parameters(Stage stage) {
  PLUMB_CHECK(held_[stage.value].parameters);
  return *held_[stage.value].parameters;
}

}  // namespace plumb::cuda
