#include "sim/estimate.hpp"

#include "schedules/ir/error.hpp"

#include <cmath>

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

}  // namespace

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
