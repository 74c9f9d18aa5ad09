// From the parts of a stage to the recipes of its ops. Private to sim.
#pragma once
#include "calibrate/device_description.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"
#include "sim/part_time.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace plumb {

/// The classes of estimated recipes: what the compute lane does, what the communication lane does, and
/// pipeline messages.
const std::vector<std::string>& estimated_classes();
/// How much each slows each in millionths. Assumed: computation beside a collective lasts 1.15 times as long
/// (arXiv 2507.03114 measured 1.19 on the average of its models; DeepSeek's profile has 1.11), a collective
/// beside computation 1.1 times, computation beside a pipeline message 1.05 times.
std::vector<std::vector<std::uint32_t>> estimated_slowdown();
WorkClass message_work_class();

/// Recipes of a model's stages on a device. The arguments must outlive it.
class Recipes {
 public:
  Recipes(const DeviceDescription& device, const ModelShape& model, const Layout& layout);

  /// Fills in forward, backward_input, backward_weight and backward: segments only.
  void fill(Stage stage, StageCost& cost) const;

 private:
  // One of a group's layers: what each op runs for it.
  struct Pieces {
    std::vector<Segment> forward, backward_input, backward_weight, backward;
  };
  Pieces pieces_of(const PartGroup& group, Recompute recompute) const;
  std::vector<Segment> forward_of(const Part& part) const;
  std::vector<Segment> input_of(const Part& part) const;
  std::vector<Segment> weight_of(const Part& part) const;
  double attention_forward(const Part& part) const;
  double attention_backward(const Part& part) const;
  double traffic_of(const Part& part) const;
  void communicate(const Part& part, PartClass kind, Bytes sent, std::vector<Segment>& out) const;

  const DeviceDescription& device_;
  const ModelShape& model_;
  const Layout& layout_;
  Layout plain_;  // without recompute, which is ours to place
  PartTime time_;
  DeviceGroup tensor_;
  DeviceGroup expert_;
};

}  // namespace plumb
