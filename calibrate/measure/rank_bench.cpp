#include "calibrate/measure/rank_bench.hpp"

#include "calibrate/measure/part_timer.hpp"
#include "calibrate/work.hpp"
#include "runtime/device/device_info.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace plumb::measure {
namespace {

constexpr Duration observing_companies{1'000'000'000};

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
      copies(device::Priority::high),
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
  as_neighbour_ = layer_;
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

Company company_of(WorkKind measured) {
  return measured == WorkKind::forward_beside_backward ? Company::pairs : Company::forwards_and_backwards;
}

Company company_of(const WorkTarget& measured) {
  switch (measured.setting.others_compute) {
    case OthersCompute::forwards:
      return Company::forwards;
    case OthersCompute::backwards:
      return Company::backwards;
    case OthersCompute::pairs:
      return Company::pairs;
    case OthersCompute::as_in_steps:
      break;
  }
  return company_of(measured.work.kind);
}

bool have_one_company(const Target& a, const Target& b) {
  const auto* one = std::get_if<WorkTarget>(&a);
  const auto* other = std::get_if<WorkTarget>(&b);
  return one && other && one->setting == other->setting && company_of(*one) == company_of(*other);
}

std::vector<WorkTarget> work_of(const std::vector<Target>& targets) {
  std::vector<WorkTarget> work;
  for (const Target& target : targets) work.push_back(std::get<WorkTarget>(target));
  return work;
}

void RankBench::be_a_neighbour_with(const ModelShape& model, const CutStage& stage) {
  as_neighbour_ = rigs_.at(stage_work(model, *stage.cut, stage.stage, WorkKind::forward));
}

Background RankBench::busy(Company company) {
  StageRig& rig = *as_neighbour_;
  switch (company) {
    case Company::pairs:
      return {streams_.main, [this, &rig] { launch(rig, WorkKind::forward_beside_backward); }};
    case Company::forwards:
      return {streams_.main, [this, &rig] { launch(rig, WorkKind::forward); }};
    case Company::backwards:
      return {streams_.main, [this, &rig] { launch(rig, WorkKind::backward); }};
    case Company::forwards_and_backwards:
      break;
  }
  return {streams_.main, [this, &rig] {
            launch(rig, WorkKind::forward);
            launch(rig, WorkKind::backward);
          }};
}

void RankBench::launch(StageRig& rig, WorkKind kind) {
  rig.launch(kind);
  send(kind);
}

// A forward's output or a backward's gradient, of a pair both; weights' gradients stay.
void RankBench::send(WorkKind kind) {
  if (kind == WorkKind::backward_weight || kind == WorkKind::optimizer) return;
  for (int i = 0; i < (kind == WorkKind::forward_beside_backward ? 2 : 1); ++i) {
    if (messages_) messages_->send_behind(streams_.main);
    if (send_by_) send_by_();
  }
}

RankBench::Op RankBench::op_of(const WorkTarget& target) const {
  const auto whole = rigs_.find(as_forward(target.work));
  const bool parts = whole == rigs_.end();
  return {parts ? parts_.at(target.work).rig : whole->second, target.work.kind, target.setting, parts};
}

std::vector<Measurement> RankBench::time_in_turns(const std::vector<WorkTarget>& targets,
                                                  const StoppingRule& rule, Load& load,
                                                  const Meanwhile& meanwhile) {
  std::vector<Op> ops;
  std::vector<const WorkTarget*> asked_first;  // [op]
  for (const WorkTarget& target : targets) {
    const Op op = op_of(target);
    const auto known = timed_.find(op);
    const bool under_another_name =
        known != timed_.end() && std::get<TimedWork>(known->second.figures).work != target.work;
    if (under_another_name || timed_parts_.contains(target) ||
        std::find(ops.begin(), ops.end(), op) != ops.end())
      continue;
    ops.push_back(op);
    asked_first.push_back(&target);
  }
  if (!ops.empty()) {
    PartTimer timer(streams_.main_lane, streams_.main);
    std::vector<TimedParts> parts(ops.size());
    std::vector<Turn> turns;
    for (std::size_t i = 0; i < ops.size(); ++i) {
      const Op& op = ops[i];
      Turn turn{[this, &op] {
                  if (const auto before = before_in_a_pipeline(op.kind)) launch(*op.rig, *before);
                  if (op.setting.flushed) flush_.launch(streams_.main);
                },
                [&op] { op.rig->launch(op.kind); }, [this, &op] { send(op.kind); }};
      if (op.parts) {
        turn.launch = [&op, &timer] {
          timer.begin();
          op.rig->launch(op.kind);
          timer.end();
        };
        turn.ended = [&taken = parts[i], &timer] { taken.push_back(timer.take()); };
      }
      turns.push_back(std::move(turn));
    }
    // What is only compared at one clock needs no more than some samples.
    const bool beside_others = ops.front().setting.others_compute != OthersCompute::as_in_steps;
    const std::vector<TurnSamples> sampled = sample_in_turns(
        streams_.main, turns, rule, load, meanwhile, beside_others ? observing_companies : observing_turns);
    for (std::size_t i = 0; i < ops.size(); ++i) {
      ops[i].parts ? keep_parts(ops[i], sampled[i], parts[i]) : keep(ops[i], *asked_first[i], sampled[i]);
    }
  }
  std::vector<Measurement> measured;
  for (const WorkTarget& target : targets) {
    if (const auto part = timed_parts_.find(target); part != timed_parts_.end()) {
      measured.push_back(std::move(timed_parts_.extract(part).mapped()));
      continue;
    }
    measured.push_back(timed_.at(op_of(target)));
    std::get<TimedWork>(measured.back().figures).work = target.work;
  }
  return measured;
}

void RankBench::keep(const Op& op, const WorkTarget& target, const TurnSamples& sampled) {
  TimedWork work;
  work.work = target.work;
  work.setting = target.setting;
  work.work_class = op.kind == WorkKind::optimizer ? "memory" : "gemm";
  work.time = summary_of(sampled.samples);
  work.host_launch = sampled.host_launch;
  timed_.insert_or_assign(op, Measurement{work, sampled.samples});
}

// All parts of an op are timed at once; those that nobody asked for yet wait for it.
void RankBench::keep_parts(const Op& op, const TurnSamples& sampled, const TimedParts& parts) {
  for (const auto& [key, place] : parts_) {
    if (place.rig != op.rig || key.kind != op.kind) continue;
    TimedWork work;
    work.work = key;
    work.setting = op.setting;
    work.work_class = class_of(place.part.part_class, key.kind);
    std::vector<Sample> samples;
    for (std::size_t k = 0; k < sampled.samples.size(); ++k) {
      const auto& timed = parts[sampled.turns[k]];
      if (const auto part = timed.find(place.part.name); part != timed.end())
        samples.push_back({part->second, sampled.samples[k].sm_clock_mhz});
    }
    // A residual sum is in the product before it: it takes nothing more.
    if (samples.empty()) samples.emplace_back();
    work.time = summary_of(samples);
    timed_parts_.insert_or_assign(WorkTarget{key, op.setting}, Measurement{work, std::move(samples)});
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
