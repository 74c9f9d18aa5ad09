// One rank's place on a GPU, and the work of a model that is measured there.
#pragma once
#include "calibrate/measure/background.hpp"
#include "calibrate/measure/cache_flush.hpp"
#include "calibrate/measure/rank_messages.hpp"
#include "calibrate/measure/sampler.hpp"
#include "calibrate/measure/stage_rig.hpp"
#include "calibrate/measure/turn_sampler.hpp"
#include "calibrate/measurer.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/matmul.hpp"
#include "schedules/model/layer_costs.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
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

/// What a rank computes beside one that is measured: what that one does, too, unless its setting says
/// otherwise.
enum class Company : std::uint8_t { forwards_and_backwards, forwards, backwards, pairs };
Company company_of(WorkKind measured);
Company company_of(const WorkTarget& measured);

/// Whether the two can be sampled in turns: work of one setting, in one company.
bool have_one_company(const Target& a, const Target& b);
/// Of targets that all are work.
std::vector<WorkTarget> work_of(const std::vector<Target>& targets);

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

  /// From here on messages of that size follow each op, be it measured or beside one that is.
  void send_messages(Bytes bytes) { messages_.emplace(bytes); }
  /// The same by other means: called where a message is to follow what is in the main stream.
  void send_by(std::function<void()> send) { send_by_ = std::move(send); }
  /// What an op of this kind sends, behind what is in the main stream.
  void send(WorkKind kind);
  /// From here on `busy` computes that stage, one of those given, instead of a layer: then it has the weights
  /// in memory and caches that a rank of the pipeline has.
  void be_a_neighbour_with(const ModelShape& model, const CutStage& stage);
  /// Computes forwards and backwards of a layer, or one of them, or pairs of both, until the result is
  /// destroyed.
  Background busy(Company company = Company::forwards_and_backwards);
  /// All in turns, in the order in which they were asked for. Nothing goes on meanwhile where all was timed
  /// before, under another name.
  std::vector<Measurement> time_in_turns(const std::vector<WorkTarget>& targets, const StoppingRule& rule,
                                         Load& load, const Meanwhile& meanwhile = {});
  Measurement time_work(const WorkTarget& target, const StoppingRule& rule, Load& load) {
    return time_in_turns({target}, rule, load).front();
  }
  Measurement memory_of(const MemoryTarget& target) const;

 private:
  // Where a part's work is met: in which op of which rig.
  struct Place {
    StageRig* rig = nullptr;
    Part part;
  };

  // What is launched for a target: several may be met in one.
  struct Op {
    StageRig* rig = nullptr;
    WorkKind kind = WorkKind::forward;
    Setting setting;
    bool parts = false;  // timed part by part
    auto operator<=>(const Op&) const = default;
  };
  using TimedParts = std::vector<std::map<std::string, Duration>>;  // [turn]

  void add_parts(const CalibrationRequest& request, Stage stage);
  Op op_of(const WorkTarget& target) const;
  void keep(const Op& op, const WorkTarget& target, const TurnSamples& sampled);
  void keep_parts(const Op& op, const TurnSamples& sampled, const TimedParts& parts);

  /// And what it sends.
  void launch(StageRig& rig, WorkKind kind);

  StageRig* as_neighbour_ = nullptr;
  RankStreams streams_;
  std::optional<RankMessages> messages_;
  std::function<void()> send_by_;
  std::vector<std::unique_ptr<StageRig>> held_;
  std::map<WorkKey, StageRig*> rigs_;  // by the key of the forward; two names may have one
  StageRig* layer_ = nullptr;
  std::map<WorkKey, Place> parts_;
  // Whole ops under the name asked for first, and parts that were not asked for yet.
  std::map<Op, Measurement> timed_;
  std::map<WorkTarget, Measurement> timed_parts_;
  CacheFlush flush_;
};

/// What both kinds of measurer say of the GPU they run on.
Provenance provenance_of(const device::DeviceInfo& info, const device::ClockReader& clock);

}  // namespace plumb::measure
