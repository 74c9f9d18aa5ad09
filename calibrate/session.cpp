#include "calibrate/session.hpp"

#include "calibrate/work.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/model/layer_costs.hpp"

#include <algorithm>
#include <array>
#include <deque>
#include <set>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::array<WorkKind, 5> kinds{WorkKind::forward, WorkKind::backward_input,
                                        WorkKind::backward_weight, WorkKind::backward,
                                        WorkKind::forward_beside_backward};

// Targets in order, each once, and only those that can be measured.
class Plan {
 public:
  explicit Plan(const Measurer& measurer) : measurer_(measurer) {}
  void add(const Target& target) {
    if (seen_.insert(target).second && measurer_.can_measure(target)) targets_.push_back(target);
  }
  std::vector<Target> done() && { return std::move(targets_); }

 private:
  const Measurer& measurer_;
  std::set<Target> seen_;
  std::vector<Target> targets_;
};

// One layer of each sort: with experts and without.
std::vector<std::uint64_t> sample_layers(const ModelShape& model) {
  std::vector<std::uint64_t> layers;
  for (std::uint64_t k = 0; k < model.layers; ++k) {
    const auto same = [&](std::uint64_t other) { return model.has_experts(other) == model.has_experts(k); };
    if (std::none_of(layers.begin(), layers.end(), same)) layers.push_back(k);
  }
  return layers;
}

std::vector<Stage> all_stages(const Layout& layout) {
  std::vector<Stage> stages;
  for (std::uint32_t s = 0; s < layout.stages.size(); ++s) stages.push_back(Stage{s});
  return stages;
}

std::vector<const Layout*> all_cuts(const CalibrationRequest& request) {
  std::vector<const Layout*> cuts{&request.layout};
  for (const Layout& other : request.other_cuts) cuts.push_back(&other);
  return cuts;
}

void add_work(Plan& plan, const CalibrationRequest& request, const Setting& setting) {
  for (const Layout* layout : all_cuts(request)) {
    for (const Stage stage : all_stages(*layout)) {
      for (const WorkKind kind : kinds) {
        plan.add(WorkTarget{stage_work(request.model, *layout, stage, kind), setting});
      }
    }
  }
  for (const std::uint64_t layer : sample_layers(request.model)) {
    for (const WorkKind kind : kinds) {
      plan.add(WorkTarget{layer_work(request.model, request.layout, layer, kind), setting});
    }
  }
  for (const Layout* layout : all_cuts(request)) {
    for (const Stage stage : all_stages(*layout)) {
      plan.add(WorkTarget{stage_work(request.model, *layout, stage, WorkKind::optimizer), setting});
    }
  }
}

// Ranks that share a GPU share its power and its memory: the fewer of them compute, the faster is each.
void add_partial_loads(Plan& plan, const CalibrationRequest& request, const Setting& setting) {
  if (!setting.others_busy) return;
  for (const std::uint32_t idle : {request.ranks / 4, request.ranks / 2}) {
    if (idle == 0) continue;
    Setting some = setting;
    some.idle_others = idle;
    for (const std::uint64_t layer : sample_layers(request.model)) {
      for (const WorkKind kind : kinds)
        plan.add(WorkTarget{layer_work(request.model, request.layout, layer, kind), some});
    }
  }
}

// What ranks that share a GPU leave each other of caches and memory hangs on what they compute.
void add_companies(Plan& plan, const CalibrationRequest& request, const Setting& setting) {
  if (!setting.others_busy || request.transport != "local") return;
  for (const OthersCompute what : {OthersCompute::forwards, OthersCompute::backwards, OthersCompute::pairs}) {
    Setting beside = setting;
    beside.others_compute = what;
    for (const std::uint64_t layer : sample_layers(request.model)) {
      for (const WorkKind kind : kinds) {
        // Pairs are measured beside pairs already, and there is hardly one beside anything else.
        if (kind != WorkKind::forward_beside_backward)
          plan.add(WorkTarget{layer_work(request.model, request.layout, layer, kind), beside});
      }
    }
  }
}

// What layers are made of, so that other layouts and models of the same pieces can be estimated.
void add_parts(Plan& plan, const CalibrationRequest& request, const Setting& setting) {
  for (const Stage stage : all_stages(request.layout)) {
    for (const PartGroup& group : stage_groups(request.model, request.layout, stage)) {
      for (const Part& part : group.parts) {
        if (is_collective(part.part_class)) continue;
        const auto add = [&](WorkKind kind, const Work& work) {
          if (work == Work{}) return;
          plan.add(WorkTarget{part_work(part, request.model, request.layout, kind), setting});
        };
        add(WorkKind::forward, part.forward);
        add(WorkKind::backward_input, part.backward_input);
        add(WorkKind::backward_weight, part.backward_weight);
      }
    }
  }
}

void add_memory(Plan& plan, const CalibrationRequest& request) {
  for (const std::uint64_t layer : sample_layers(request.model)) {
    plan.add(MemoryTarget{layer_work(request.model, request.layout, layer, WorkKind::forward)});
  }
  for (const Layout* layout : all_cuts(request)) {
    for (const Stage stage : all_stages(*layout)) {
      plan.add(MemoryTarget{stage_work(request.model, *layout, stage, WorkKind::forward)});
    }
  }
}

// From 1 KiB to 64 MiB, closer where the time begins to grow, and the size that this model sends: in 4 to 32
// MiB what is copied outgrows the cache. Copies tell besides what is no whole number of pages from the rest.
std::set<std::int64_t> message_sizes(const CalibrationRequest& request) {
  std::set<std::int64_t> sizes;
  for (std::int64_t bytes = 1 << 10; bytes < 1 << 20; bytes *= 4) sizes.insert(bytes);
  for (std::int64_t bytes = 1 << 20; bytes <= 1 << 26; bytes *= 2) {
    sizes.insert(bytes);
    if (bytes >= 1 << 22 && bytes < 1 << 26) sizes.insert(bytes + bytes / 2);
  }
  if (request.transport == "local") sizes.insert({(6 << 20) + 2048, (24 << 20) + 2048});
  const std::int64_t element = request.layout.numerics.weights == WeightType::fp32 ? 4 : 2;
  const auto tokens = static_cast<std::int64_t>(request.layout.tokens());
  const auto split = request.layout.parallelism.sequence_parallel ? request.layout.parallelism.tensor : 1;
  sizes.insert(tokens * static_cast<std::int64_t>(request.model.hidden) * element / split);
  sizes.erase(0);
  return sizes;
}

void add_series(Plan& plan, const CalibrationRequest& request, const TransferKey& key) {
  for (const std::int64_t bytes : message_sizes(request)) plan.add(TransferTarget{key, {bytes}});
}

void add_hops(Plan& plan, const CalibrationRequest& request, const Measurer& measurer) {
  for (const auto& pair : measurer.message_pairs())
    add_series(plan, request, {TransferKind::hop, request.transport, "", pair, 1, measurer.setting()});
}

void add_idle_messages(Plan& plan, const CalibrationRequest& request, const Measurer& measurer) {
  Setting idle = measurer.setting();
  idle.others_busy = false;
  for (const auto& pair : measurer.message_pairs()) {
    for (const TransferKind kind : {TransferKind::one_way, TransferKind::both_ways})
      add_series(plan, request, {kind, request.transport, "", pair, 1, idle});
    add_series(plan, request, {TransferKind::at_once, request.transport, "", pair, 4, idle});
  }
}

void add_slowdown(Plan& plan, const CalibrationRequest& request, const Measurer& measurer) {
  constexpr std::array<std::string_view, 7> classes{"gemm",      "attention",  "attention_backward", "memory",
                                                    "send_recv", "all_to_all", "all_reduce"};
  // Copies inside one GPU have no multiprocessors of their own, and neither has what only computes; NCCL's
  // kernels do: as many as the runtime gives them, and some more.
  const std::vector<std::uint32_t> shares = request.transport == "local"
                                                ? std::vector<std::uint32_t>{0}
                                                : std::vector<std::uint32_t>{0, 1, 2, 4, 8};
  for (const std::uint32_t sms : shares) {
    for (const std::string_view a : classes) {
      for (const std::string_view b : classes) {
        plan.add(SlowdownTarget{{std::string(a), std::string(b), sms, measurer.setting()}});
      }
    }
  }
}

void add_collectives(Plan& plan, const CalibrationRequest& request, const Measurer& measurer) {
  if (request.ranks < 2) return;
  Setting idle = measurer.setting();
  idle.others_busy = false;
  std::vector<std::uint32_t> ranks(request.ranks);
  for (std::uint32_t r = 0; r < request.ranks; ++r) ranks[r] = r;
  for (const TransferKind kind : {TransferKind::all_reduce, TransferKind::reduce_scatter,
                                  TransferKind::all_gather, TransferKind::all_to_all}) {
    for (std::int64_t bytes = 1 << 14; bytes <= 1 << 26; bytes *= 4) {
      plan.add(TransferTarget{{kind, request.transport, "", ranks, 1, idle}, {bytes}});
    }
  }
}

// What two owners of a stage add up inside one GPU, beside ranks that compute.
void add_gradient_sums(Plan& plan, const CalibrationRequest& request, const Measurer& measurer) {
  if (request.transport != "local" || request.ranks < 2) return;
  std::set<std::int64_t> sizes;
  for (const Layout* cut : all_cuts(request)) {
    for (const Stage stage : all_stages(*cut))
      sizes.insert(stage_bytes(request.model, *cut, stage).gradients.count);
  }
  sizes.erase(0);
  for (const std::int64_t bytes : sizes) {
    plan.add(TransferTarget{{TransferKind::all_reduce, request.transport, "", {0, 1}, 1, measurer.setting()},
                            {bytes}});
  }
}

// What the two owners of a stage add up over NCCL at the end of a step, of the gradients that this model has.
// All pairs of owners do so at about the same time, ranks r and P - 1 - r as in a bidirectional pipeline.
void add_sums_of_pairs(Plan& plan, const CalibrationRequest& request, const Measurer& measurer) {
  if (request.transport == "local" || request.ranks < 2) return;
  Setting idle = measurer.setting();
  idle.others_busy = false;
  std::set<std::int64_t> sizes{1 << 20, 1 << 24, 1 << 26};
  for (const Stage stage : all_stages(request.layout)) {
    const std::int64_t bytes = stage_bytes(request.model, request.layout, stage).gradients.count;
    sizes.insert(std::min(bytes, largest_sum.count));
  }
  sizes.erase(0);
  const TransferKey key{TransferKind::all_reduce, request.transport, "",
                        {0, request.ranks - 1},   request.ranks / 2, idle};
  for (const std::int64_t bytes : sizes) plan.add(TransferTarget{key, {bytes}});
}

}  // namespace

std::vector<Target> plan_targets(const CalibrationRequest& request, const Measurer& measurer) {
  Plan plan(measurer);
  if (request.flush) {
    Setting flushed = measurer.setting();
    flushed.flushed = true;
    add_work(plan, request, flushed);
    return std::move(plan).done();
  }
  add_work(plan, request, measurer.setting());
  add_hops(plan, request, measurer);
  add_gradient_sums(plan, request, measurer);
  add_sums_of_pairs(plan, request, measurer);
  add_memory(plan, request);
  add_parts(plan, request, measurer.setting());
  add_partial_loads(plan, request, measurer.setting());
  add_companies(plan, request, measurer.setting());
  add_slowdown(plan, request, measurer);
  add_idle_messages(plan, request, measurer);
  add_collectives(plan, request, measurer);
  return std::move(plan).done();
}

std::vector<Target> missing_targets(const Calibration& calibration, const std::vector<Target>& targets) {
  std::vector<Target> missing;
  for (const Target& target : targets) {
    if (!holds(calibration, target)) missing.push_back(target);
  }
  return missing;
}

namespace {

// What is measured at once: targets that can be sampled in turns stand where the first of them does.
std::deque<std::vector<Target>> groups_of(const std::vector<Target>& targets, const Measurer& measurer) {
  std::deque<std::vector<Target>> groups;
  for (const Target& target : targets) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const std::vector<Target>& group) {
      return measurer.in_turns(group.front(), target);
    });
    if (same == groups.end()) {
      groups.push_back({target});
    } else {
      same->push_back(target);
    }
  }
  return groups;
}

std::string name_of(const std::vector<Target>& group) {
  const std::string first = to_string(group.front());
  return group.size() == 1 ? first : fmt::format("{}, in turns with {} more", first, group.size() - 1);
}

}  // namespace

bool measure_missing(Measurer& measurer, const std::vector<Target>& targets, const StoppingRule& rule,
                     Calibration& calibration, const SessionHooks& hooks) {
  const std::vector<Target> todo = missing_targets(calibration, targets);
  calibration.missing.clear();
  for (const Target& target : todo) calibration.missing.push_back(to_string(target));
  // Whatever ends this early leaves a whole document.
  derive_layer(calibration);
  const Duration begun = hooks.now();
  std::deque<std::vector<Target>> groups = groups_of(todo, measurer);
  std::size_t tried = 0;  // of `todo`
  bool complete = true;
  bool failed_before = false;
  while (!groups.empty()) {
    if (hooks.interrupted()) return false;
    const std::vector<Target> group = std::move(groups.front());
    groups.pop_front();
    const Duration elapsed = hooks.now() - begun;
    const Duration each = tried == 0 ? rule.budget : Duration{elapsed.ns / static_cast<std::int64_t>(tried)};
    hooks.progress({targets.size() - todo.size() + tried, targets.size(), name_of(group), elapsed,
                    each * static_cast<std::int64_t>(todo.size() - tried)});
    std::vector<Measurement> measured;
    try {
      measured =
          group.size() == 1 ? measurer.measure(group.front(), rule) : measurer.measure_in_turns(group, rule);
    } catch (const DeviceError& error) {
      // What fails alone costs nothing else; where the next thing fails too, the device is gone.
      if (!measurer.goes_on_after_failure() || failed_before) throw;
      if (group.size() > 1) {
        // One by one they tell which it is.
        for (auto target = group.rbegin(); target != group.rend(); ++target) groups.push_front({*target});
        continue;
      }
      failed_before = true;
      complete = false;
      ++tried;
      if (hooks.failed) hooks.failed(name_of(group), error.what());
      continue;
    }
    failed_before = false;
    tried += group.size();
    for (const Measurement& one : measured) add(calibration, one);
    for (const Target& target : group) std::erase(calibration.missing, to_string(target));
    derive_layer(calibration);
    hooks.keep(calibration, measured);
  }
  return complete;
}

std::string why_not_resume(const Provenance& begun, const Provenance& here) {
  const auto differ = [](const std::string& a, const std::string& b) {
    return !a.empty() && !b.empty() && a != b;
  };
  if (!same_gpu_class(begun.gpu, here.gpu))
    return fmt::format("it was begun on {}, this is {}", begun.gpu, here.gpu);
  if (begun.sms != 0 && here.sms != 0 && begun.sms != here.sms) {
    return fmt::format("it was begun with {} SMs, here are {}", begun.sms, here.sms);
  }
  if (differ(begun.cuda, here.cuda))
    return fmt::format("it was begun with CUDA {}, this is {}", begun.cuda, here.cuda);
  if (differ(begun.nccl_library, here.nccl_library)) {
    return fmt::format("it was begun with NCCL {}, this is {}", begun.nccl_library, here.nccl_library);
  }
  return "";
}

std::string samples_line(const Measurement& measurement) {
  std::string durations;
  std::string clocks;
  const std::vector<bool> aside = throttled(measurement.samples);
  std::string set_aside;
  for (std::size_t k = 0; k < measurement.samples.size(); ++k) {
    const char* comma = k > 0 ? "," : "";
    durations += fmt::format("{}{}", comma, measurement.samples[k].duration.ns);
    clocks += fmt::format("{}{}", comma, measurement.samples[k].sm_clock_mhz);
    if (aside[k]) set_aside += fmt::format("{}{}", set_aside.empty() ? "" : ",", k);
  }
  std::string rank;
  if (const auto* work = std::get_if<TimedWork>(&measurement.figures); work != nullptr && work->rank) {
    rank = fmt::format(R"("rank":{},)", *work->rank);
  }
  return fmt::format(R"({{"target":{},{}"durations_ns":[{}],"sm_clock_mhz":[{}],"set_aside":[{}]}})",
                     json_quoted(to_string(target_of(measurement))), rank, durations, clocks, set_aside);
}

}  // namespace plumb
