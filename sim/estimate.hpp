// How long and how big each op is: from what was measured, or a data sheet, to the costs of a pipeline's
// stages.
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/device_description.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>

namespace plumb {

/// Costs of a model of `layers` layers cut into `stages` equal stages. A stage holds layers / stages layers,
/// which need not be a whole number: its recipe repeats the measured layer, scaled to fit, so that schedules
/// with different numbers of stages share out the same work.
CostModel estimate(const Calibration& calibration, std::uint32_t stages, std::uint32_t layers);

/// One chunk as it was measured (Calibration::chunk_layers layers).
CostModel measured_chunk(const Calibration& calibration);

/// Costs of a model as the layout cuts it, one entry a stage of the layout, from the data sheet and its
/// stated efficiencies. Pipeline ranks are `layout.parallelism.pipeline`; devices are numbered as Megatron
/// does, tensor innermost, then data (the experts' group lies in both), pipeline outermost, and the message
/// between two ranks takes the link that joins their devices. Everything is in the result: recipes with the
/// collectives of tensor and expert parallelism on the communication lane, recompute in the backwards, bytes,
/// gradient reduction, optimizer step, a stated reserve, and where each figure comes from. Throws BadInput
/// for a layout that cannot be (`check_layout`).
CostModel estimate(const DeviceDescription& device, const ModelShape& model, const Layout& layout);

/// The same, where what was measured wins: a stage before its layers, a layer before its parts, between
/// measured shapes a straight line, and the data sheet for what is left, in the setting that most was
/// measured in (a share of a device's multiprocessors is that share of its data sheet). Links, mutual
/// slowdown and whole layers of a calibration without single measurements are taken where it says `measured`
/// of them and is of this model. `sources` says the weakest source of each
/// figure, and of `layer` and `expert_layer` where whole layers were measured. Throws BadInput where the
/// calibration holds nothing of this model's work.
CostModel estimate(const Calibration& calibration, const DeviceDescription& device, const ModelShape& model,
                   const Layout& layout);

/// The data sheet of the device that was measured, by the name its driver gives it; nothing where it is not
/// bundled.
const DeviceDescription* measured_device(const Calibration& calibration);

/// Takes what the device's software does not have out of the layout (fused attention and loss, sequence
/// parallelism), and adds the dropout it has.
void apply_software(const DeviceDescription& device, Layout& layout);

/// What a step of the whole job is worth.
struct Throughput {
  double tokens_per_s = 0;  // of all data-parallel copies
  double mfu = 0;  // model FLOPs (no recompute) over the bf16 peak of all devices (fp32 with fp32 weights)
};
Throughput throughput(Duration step_time, std::uint32_t microbatches, const DeviceDescription& device,
                      const ModelShape& model, const Layout& layout);

}  // namespace plumb
