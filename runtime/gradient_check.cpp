#include "runtime/gradient_check.hpp"

#include "runtime/reference/stage.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace plumb {

Layout unpipelined(const ModelShape& model, const Layout& layout) {
  Layout whole = layout;
  whole.stages = {{0, model.layers, 0, true, true, Recompute::none}};
  return whole;
}

Unpipelined run_unpipelined(const TrainingPlan& plan, const TrainingData& data, std::uint64_t step) {
  const reference::Stage<float> model(plan.model, unpipelined(plan.model, plan.layout), Stage{0});
  std::vector<float> weights(model.elements());
  std::vector<float> gradients(model.elements());
  for (const ParameterSpec& parameter : model.parameters()) {
    const std::span<float> into = std::span(weights).subspan(parameter.offset, parameter.elements());
    initialise(parameter, plan.seed, into);
  }
  const reference::StageNeeds needs = model.needs();
  const auto memory = [](Bytes bytes) {
    return std::vector<std::max_align_t>(static_cast<std::size_t>(bytes.count) / sizeof(std::max_align_t) +
                                         1);
  };
  auto for_input = memory(needs.kept_for_input), for_weight = memory(needs.kept_for_weight);
  auto left = memory(needs.gradients_kept), workspace = memory(needs.workspace);
  const auto at = [](std::vector<std::max_align_t>& block) {
    return reinterpret_cast<std::byte*>(block.data());
  };
  const reference::StageMemoryView view{nullptr,        nullptr,  at(for_input),
                                        at(for_weight), at(left), at(workspace)};

  Unpipelined result;
  const std::uint64_t count = std::uint64_t{plan.schedule.microbatches} * plan.schedule.data_parallel;
  for (std::uint64_t m = 0; m < count; ++m) {
    const MicrobatchData microbatch = data.microbatch(step, m);
    result.losses.push_back(model.forward(
        weights, {microbatch.tokens, microbatch.next_tokens, microbatch.input, microbatch.target}, view));
    model.backward_input(weights, gradients, static_cast<float>(loss_scale(plan)), view);
    model.backward_weight(gradients, view);
  }
  for (const ParameterSpec& parameter : model.parameters()) {
    const auto from = gradients.begin() + static_cast<std::ptrdiff_t>(parameter.offset);
    result.gradients[parameter.name].assign(from, from + static_cast<std::ptrdiff_t>(parameter.elements()));
  }
  return result;
}

void add_gradients(Worker& worker, const TrainingPlan& plan, NamedGradients& gradients) {
  for (const Stage stage : worker.program().held) {
    const std::vector<float> flat = worker.gradients(stage);
    for (const ParameterSpec& parameter : stage_parameters(plan.model, plan.layout.stages[stage.value])) {
      const auto from = flat.begin() + static_cast<std::ptrdiff_t>(parameter.offset);
      gradients[parameter.name].assign(from, from + static_cast<std::ptrdiff_t>(parameter.elements()));
    }
  }
}

GradientCheck compare_gradients(const NamedGradients& measured, const NamedGradients& expected) {
  GradientCheck check;
  if (measured.size() != expected.size()) throw BadInput("the gradients", "are not of the same parameters");
  for (const auto& [name, x] : measured) {
    const auto found = expected.find(name);
    if (found == expected.end() || found->second.size() != x.size()) {
      throw BadInput(name, "is not in both sets of gradients");
    }
    const std::vector<float>& y = found->second;
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double a = x[i], b = y[i];
      difference += (a - b) * (a - b);
      size += a * a + b * b;
    }
    if (size == 0) continue;
    // What is no number is the worst of all.
    const double ratio = difference / size;
    if (std::isfinite(ratio) ? ratio > check.max_difference || check.worst_parameter.empty()
                             : std::isfinite(check.max_difference)) {
      check = {ratio, name};
    }
    if (!std::isfinite(ratio)) break;
  }
  return check;
}

}  // namespace plumb
