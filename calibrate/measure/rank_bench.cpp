#include "calibrate/measure/rank_bench.hpp"

#include "calibrate/measure/part_timer.hpp"
#include "calibrate/work.hpp"
#include "runtime/device/device_info.hpp"
#include "schedules/ir/error.hpp"

#include <string_view>
#include <utility>

namespace plumb::measure {
namespace {

/// A layer of the model alone: neither first nor last, so that it has messages on both sides.
Layout layout_of_one_layer(const ModelShape& model, const Layout& layout, std::uint64_t layer) {
  Layout alone = layout;
  alone.stages = {{layer, 1, 0, false, false, Recompute::none}};
  // An mlp's first layer computes no gradient of its input; this one, not being called the first, does.
  PLUMB_CHECK(layer < model.layers);
  return alone;
}

WorkKey as_forward(WorkKey key) {
  key.kind = WorkKind::forward;
  // Only a whole backward's key tells whether it recomputes; nothing here does.
  key.shape.erase("recompute");
  return key;
}

}  // namespace

RankStreams::RankStreams(const device::GreenContext* share, std::uint32_t multiprocessors)
    : main(share ? share->stream() : device::Stream()),
      beside(share ? share->stream() : device::Stream()),
      pair_forward(layers::pair_forward_stream(share)),
      main_lane(main, multiprocessors),
      beside_lane(beside, multiprocessors),
      pair_forward_lane(pair_forward, multiprocessors),
      copy_lane(copies, multiprocessors) {}

std::vector<CutStage> stages_of(const CalibrationRequest& request) {
  std::vector<CutStage> stages;
  const auto add = [&](const Layout& cut) {
    for (std::uint32_t s = 0; s < cut.stages.size(); ++s) stages.push_back({&cut, Stage{s}});
  };
  add(request.layout);
  for (const Layout& cut : request.other_cuts) add(cut);
  return stages;
}

RankBench::RankBench(const CalibrationRequest& request, const std::vector<CutStage>& stages,
                     const device::GreenContext* share, std::uint32_t multiprocessors,
                     layers::ProductAlgorithms& algorithms)
    : streams_(share, multiprocessors) {
  const ModelShape& model = request.model;
  const auto make = [&](const Layout& layout, Stage stage) {
    held_.push_back(std::make_unique<StageRig>(model, layout, stage, algorithms, streams_.main_lane,
                                               streams_.pair_forward_lane));
    return held_.back().get();
  };
  const Layout one = layout_of_one_layer(model, request.layout, 0);
  layer_ = make(one, Stage{0});
  rigs_.emplace(layer_work(model, request.layout, 0, WorkKind::forward), layer_);
  // A stage in the middle with one layer is that layer.
  const WorkKey alone = stage_work(model, one, Stage{0}, WorkKind::forward);
  for (const auto& [cut, stage] : stages) {
    const WorkKey key = stage_work(model, *cut, stage, WorkKind::forward);
    if (!rigs_.contains(key)) rigs_.emplace(key, key == alone ? layer_ : make(*cut, stage));
  }
  for (std::uint32_t s = 0; s < request.layout.stages.size(); ++s) add_parts(request, Stage{s});
}

// Parts of layers are timed in a layer, others in the stage that has them.
void RankBench::add_parts(const CalibrationRequest& request, Stage stage) {
  const auto held = rigs_.find(stage_work(request.model, request.layout, stage, WorkKind::forward));
  for (const PartGroup& group : stage_groups(request.model, request.layout, stage)) {
    StageRig* rig = group.name == "layer" ? layer_ : held == rigs_.end() ? nullptr : held->second;
    if (!rig) continue;
    for (const Part& part : group.parts) {
      for (const WorkKind kind : {WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight})
        parts_.emplace(part_work(part, request.model, request.layout, kind), Place{rig, part});
    }
  }
}

bool RankBench::has(const WorkKey& work) const {
  return rigs_.contains(as_forward(work)) || parts_.contains(work);
}

bool RankBench::has_memory(const WorkKey& work) const { return rigs_.contains(as_forward(work)); }

Background RankBench::busy() {
  return {streams_.main, [&rig = *layer_] {
            rig.launch(WorkKind::forward);
            rig.launch(WorkKind::backward);
          }};
}

Measurement RankBench::time_work(const WorkTarget& target, const StoppingRule& rule, Sampler& sampler) {
  const auto found = rigs_.find(as_forward(target.work));
  if (found == rigs_.end()) return time_part(target, rule, sampler);
  StageRig& rig = *found->second;
  const auto known = timed_.find({&rig, {target.work.kind, target.setting}});
  if (known != timed_.end() && std::get<TimedWork>(known->second.figures).work != target.work) {
    Measurement same = known->second;
    std::get<TimedWork>(same.figures).work = target.work;
    return same;
  }
  const Sampled sampled = sampler.sample({streams_.main,
                                          begin_,
                                          end_,
                                          [&] {
                                            begin_.record(streams_.main);
                                            rig.launch(target.work.kind);
                                            end_.record(streams_.main);
                                          },
                                          {},
                                          [&] { rig.launch_before(target.work.kind); }},
                                         WarmUp::until_the_clock_settles, rule);
  TimedWork work;
  work.work = target.work;
  work.setting = target.setting;
  work.work_class = target.work.kind == WorkKind::optimizer ? "memory" : "gemm";
  work.time = sampled.set.summary();
  work.host_launch = sampled.host_launch;
  Measurement measurement{work, sampled.set.samples()};
  timed_.insert_or_assign({&rig, {target.work.kind, target.setting}}, measurement);
  return measurement;
}

// All parts of the op that this one is met in are timed at once; those that nobody asked for yet wait for it.
Measurement RankBench::time_part(const WorkTarget& target, const StoppingRule& rule, Sampler& sampler) {
  if (!timed_parts_.contains(target)) time_parts(*parts_.at(target.work).rig, target, rule, sampler);
  return std::move(timed_parts_.extract(target).mapped());
}

void RankBench::time_parts(StageRig& rig, const WorkTarget& target, const StoppingRule& rule,
                           Sampler& sampler) {
  const WorkKind kind = target.work.kind;
  PartTimer timer(streams_.main_lane, streams_.main);
  sampler.sample(
      {streams_.main, begin_, end_,
       [&] {
         begin_.record(streams_.main);
         timer.begin();
         rig.launch(kind);
         end_.record(streams_.main);
       },
       [&](const Sample& sample) { timer.take(sample.sm_clock_mhz); }, [&] { rig.launch_before(kind); }},
      WarmUp::until_the_clock_settles, rule);
  for (const auto& [key, place] : parts_) {
    if (place.rig != &rig || key.kind != kind) continue;
    TimedWork work;
    work.work = key;
    work.setting = target.setting;
    work.work_class = class_of(place.part.part_class, key.kind);
    // A residual sum is in the product before it: it takes nothing more.
    std::vector<Sample> samples{Sample{}};
    if (const SampleSet* timed = timer.samples(place.part.name)) samples = timed->samples();
    work.time = summary_of(samples);
    timed_parts_.insert_or_assign(WorkTarget{key, target.setting}, Measurement{work, std::move(samples)});
  }
}

Measurement RankBench::memory_of(const MemoryTarget& target) const {
  const StageRig& rig = *rigs_.at(as_forward(target.work));
  const layers::StageNeeds& n = rig.needs();
  MeasuredMemory m;
  m.work = target.work;
  m.weights = rig.weight_bytes();
  m.gradients = rig.gradient_bytes();
  m.kept_by_forward = n.kept_for_input + n.kept_for_weight;
  m.freed_by_backward_input = n.kept_for_input;
  m.added_by_backward_input = n.gradients_kept;
  m.freed_by_backward_weight = n.kept_for_weight + n.gradients_kept;
  m.workspace = {{WorkKind::forward, n.forward_scratch},
                 {WorkKind::backward_input, n.backward_input_scratch},
                 {WorkKind::backward_weight, n.backward_weight_scratch},
                 {WorkKind::backward, n.backward_scratch}};
  return {m, {}};
}

Provenance provenance_of(const device::DeviceInfo& info, const device::ClockReader& clock) {
  Provenance p;
  p.gpu = info.name;
  p.gpus = 1;
  p.sms = info.multiprocessors;
  p.gpu_memory = info.memory;
  p.driver = info.driver;
  p.cuda = info.cuda_runtime;
  p.nccl_header = info.nccl_built_with;
  p.nccl_library = info.nccl;
  p.cudnn = info.cudnn;
  p.cublas = info.cublas;
  p.most_sm_clock_mhz = clock.most_mhz();
  p.memory_clock_mhz = clock.memory_mhz();
  return p;
}

}  // namespace plumb::measure
