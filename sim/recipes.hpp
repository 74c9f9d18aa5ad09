// From the parts of a stage to the recipes of its ops. Private to sim.
#pragma once
#include "calibrate/device_description.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"
#include "sim/measured_work.hpp"
#include "sim/part_time.hpp"

#include <cstddef>
#include <map>
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

/// Recipes of a model's stages on a device: a measured stage before a measured layer, that before measured
/// parts, and what is left is estimated. The arguments must outlive it.
class Recipes {
 public:
  /// `first_foreign_class`: where the classes of the calibration's own layers begin in the cost model.
  Recipes(const DeviceDescription& device, const ModelShape& model, const Layout& layout,
          const MeasuredWork& measured, std::uint32_t first_foreign_class);

  /// Fills in forward, backward_input, backward_weight and backward: segments only.
  void fill(Stage stage, StageCost& cost);
  /// Of all that was filled in.
  const Sources& sources() const { return sources_; }
  /// `layer` or `expert_layer`, where whole layers of that kind were measured -> how.
  const std::map<std::string, Source>& layers() const { return layers_; }
  /// Whether anything at all was measured.
  bool used_measurements() const { return used_measurements_; }

 private:
  // One of a group's layers: what each op runs for it.
  struct Pieces {
    std::vector<Segment> forward, backward_input, backward_weight, backward;
  };
  Pieces pieces_of(const PartGroup& group, std::uint64_t first_layer, Recompute recompute);
  // A layer as it was measured, in place of its parts.
  void take_measured_layer(const PartGroup& group, std::uint64_t layer, Pieces& pieces);
  std::vector<Segment> forward_of(const Part& part);
  std::vector<Segment> input_of(const Part& part);
  std::vector<Segment> weight_of(const Part& part);
  // Adds the part's computation: measured, or `estimate()` seconds.
  Source source_of(bool interpolated);
  template <class Estimate>
  void compute(std::vector<Segment>& out, const Part& part, WorkKind kind, WorkClass work_class,
               const Estimate& estimate);
  double attention_forward(const Part& part) const;
  double attention_backward(const Part& part) const;
  double traffic_of(const Part& part) const;
  void communicate(const Part& part, PartClass kind, Bytes sent, std::vector<Segment>& out) const;

  const DeviceDescription& device_;
  const ModelShape& model_;
  const Layout& layout_;
  Layout plain_;  // without recompute, which is ours to place
  PartTime time_;
  const MeasuredWork& measured_;
  std::uint32_t first_foreign_class_;
  DeviceGroup tensor_;
  DeviceGroup expert_;
  Sources used_;     // by the group at hand
  Sources sources_;  // by all stages so far
  std::map<std::string, Source> layers_;
  bool used_measurements_ = false;
};

}  // namespace plumb
