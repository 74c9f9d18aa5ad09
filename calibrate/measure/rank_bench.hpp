// One rank's place on a GPU, and the work of a model that is measured there.
#pragma once
#include "calibrate/measure/background.hpp"
#include "calibrate/measure/sampler.hpp"
#include "calibrate/measure/stage_rig.hpp"
#include "calibrate/measurer.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/matmul.hpp"
#include "schedules/model/layer_costs.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace plumb::measure {

/// A rank's streams: two for its ops, the forwards of its pairs, and what it copies. Copies run in an
/// ordinary stream of the primary context, where they do not queue behind the ops' waves of blocks.
struct RankStreams {
  device::Stream main, beside, pair_forward, copies;
  layers::Lane main_lane, beside_lane, pair_forward_lane, copy_lane;
  /// On a share of the GPU, or (nullptr) on all of its `multiprocessors`.
  RankStreams(const device::GreenContext* share, std::uint32_t multiprocessors);
};

/// A stage of one way to cut the model; `cut` is the request's.
struct CutStage {
  const Layout* cut = nullptr;
  Stage stage;
};
/// The stages of all of the request's cuts.
std::vector<CutStage> stages_of(const CalibrationRequest& request);

/// Stages, a layer, and the parts of both, ready to be timed in the rank's main stream. Lanes and rigs refer
/// to its streams, so it stays where it is.
class RankBench {
 public:
  /// A layer it always has; of `stages` those of one sort are held once.
  RankBench(const CalibrationRequest& request, const std::vector<CutStage>& stages,
            const device::GreenContext* share, std::uint32_t multiprocessors,
            layers::ProductAlgorithms& algorithms);
  RankBench(const RankBench&) = delete;
  RankBench& operator=(const RankBench&) = delete;

  RankStreams& streams() { return streams_; }
  StageRig& layer() { return *layer_; }

  /// Whether this is work of a stage, layer or part that is here; of its memory, a stage or layer.
  bool has(const WorkKey& work) const;
  bool has_memory(const WorkKey& work) const;

  /// Computes forwards and backwards of a layer in the main stream until the result is destroyed.
  Background busy();
  Measurement time_work(const WorkTarget& target, const StoppingRule& rule, Sampler& sampler);
  Measurement memory_of(const MemoryTarget& target) const;

 private:
  // Where a part's work is met: in which op of which rig.
  struct Place {
    StageRig* rig = nullptr;
    Part part;
  };

  void add_parts(const CalibrationRequest& request, Stage stage);
  Measurement time_part(const WorkTarget& target, const StoppingRule& rule, Sampler& sampler);
  void time_parts(StageRig& rig, const WorkTarget& target, const StoppingRule& rule, Sampler& sampler);

  RankStreams streams_;
  std::vector<std::unique_ptr<StageRig>> held_;
  std::map<WorkKey, StageRig*> rigs_;  // by the key of the forward; two names may have one
  StageRig* layer_ = nullptr;
  // What a rig was timed at under the name asked for first.
  std::map<std::pair<const StageRig*, std::pair<WorkKind, Setting>>, Measurement> timed_;
  std::map<WorkKey, Place> parts_;
  std::map<WorkTarget, Measurement> timed_parts_;  // that were not asked for yet
  device::Event begin_{device::EventKind::timing}, end_{device::EventKind::timing};
};

/// What both kinds of measurer say of the GPU they run on.
Provenance provenance_of(const device::DeviceInfo& info, const device::ClockReader& clock);

}  // namespace plumb::measure
