#include "tools/memory_limit.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <span>

#include <fmt/format.h>

namespace plumb::tools {
namespace {

Bytes fullest(const Report& report) {
  Bytes most;
  for (const RankReport& rank : report.ranks) most = std::max(most, rank.peak_bytes.value_or(Bytes{}));
  return most;
}

// The action that begins at that time, or was the last to begin before it.
Action running_at(const RankTimeline& rank, TimePoint time) {
  Action action;
  for (const ComputeSpan& span : rank.compute) {
    if (span.begin > time) break;
    action = span.action;
  }
  return action;
}

std::vector<std::uint32_t> stages_of(const LoweredSchedule& schedule, Rank rank) {
  std::vector<std::uint32_t> stages;
  for (const Step& step : schedule.per_rank[rank.value].steps) {
    const auto* action = std::get_if<Action>(&step);
    if (action == nullptr) continue;
    for (const Op& op : *action) {
      if (std::find(stages.begin(), stages.end(), op.stage.value) == stages.end())
        stages.push_back(op.stage.value);
    }
  }
  return stages;
}

// `full:0-2,full:5,selective`.
std::string recompute_flag(const std::vector<StageContent>& stages) {
  const auto word = [](Recompute how) {
    return how == Recompute::full ? "full" : how == Recompute::selective ? "selective" : "none";
  };
  // What most stages do is said last, without naming them.
  std::array<std::size_t, 3> counts{};
  for (const StageContent& stage : stages) ++counts[static_cast<std::size_t>(stage.recompute)];
  const auto most = static_cast<Recompute>(std::max_element(counts.begin(), counts.end()) - counts.begin());
  std::string flag;
  for (std::size_t first = 0; first < stages.size();) {
    std::size_t last = first;
    while (last + 1 < stages.size() && stages[last + 1].recompute == stages[first].recompute) ++last;
    if (stages[first].recompute != most) {
      flag += fmt::format("{}:{}", word(stages[first].recompute), first);
      if (last > first) flag += fmt::format("-{}", last);
      flag += ',';
    }
    first = last + 1;
  }
  if (most == Recompute::none && !flag.empty()) {
    flag.pop_back();
    return flag;
  }
  return flag + word(most);
}

class Remedies {
 public:
  Remedies(const StepToRun& step, const Prediction& prediction, Bytes limit)
      : step_(step), prediction_(prediction), limit_(limit) {}

  std::vector<Remedy> find() {
    if (step_.model) {
      recompute(Recompute::selective);
      recompute(Recompute::full);
      smaller_microbatches();
    }
    fewer_microbatches();
    other_schedules();
    std::stable_sort(found_.begin(), found_.end(),
                     [](const Remedy& a, const Remedy& b) { return a.step_time < b.step_time; });
    return std::move(found_);
  }

 private:
  // Keeps the change if the step fits with it. `share` of the step's sequences are computed.
  bool try_step(const StepToRun& changed, std::string change, double share = 1) {
    const Report report = changed.predict(Detail::actions).report;
    const Bytes peak = fullest(report);
    if (peak > limit_) return false;
    const auto time = static_cast<double>(report.step_time.ns) / share;
    found_.push_back({std::move(change), Duration{std::llround(time)}, peak});
    return true;
  }

  // A rank's memory depends on its own stages alone, so each takes as few as it needs, and no rank waits for
  // another's answer. Fewer rounds than a rank has stages.
  void recompute(Recompute how) {
    StepToRun changed = step_;
    std::vector<StageContent>& stages = changed.model->layout.stages;
    Prediction now = prediction_;
    for (;;) {
      bool grown = false;
      for (const Crossing& crossing : crossings(now, limit_)) {
        for (const std::uint32_t s : stages_of(step_.schedule, crossing.rank)) {
          if (stages[s].recompute >= how) continue;
          stages[s].recompute = how;
          grown = true;
          break;
        }
      }
      if (!grown) return;
      changed.cost = changed.model->costs();
      now = changed.predict(Detail::actions);
      if (fullest(now.report) <= limit_) break;
    }
    found_.push_back({"--recompute " + recompute_flag(stages), now.report.step_time, fullest(now.report)});
  }

  void smaller_microbatches() {
    if (step_.generator == nullptr) return;
    const std::uint64_t size = step_.model->layout.micro_batch_size;
    for (std::uint64_t by = 2; by <= size; ++by) {
      if (size % by != 0) continue;
      StepToRun changed = step_;
      changed.model->layout.micro_batch_size = size / by;
      changed.shape.microbatches *= static_cast<std::uint32_t>(by);
      if (!reschedule(changed, *step_.generator)) continue;
      if (try_step(changed, fmt::format("--micro-batch-size {} --microbatches {}", size / by,
                                        changed.shape.microbatches)))
        return;
    }
  }

  void fewer_microbatches() {
    if (step_.generator == nullptr) return;
    for (std::uint32_t by = 2; by <= step_.shape.microbatches; by *= 2) {
      if (step_.shape.microbatches % by != 0) return;
      StepToRun changed = step_;
      changed.shape.microbatches /= by;
      if (!reschedule(changed, *step_.generator)) continue;
      if (try_step(changed,
                   fmt::format("--microbatches {} (and {} steps for one)", changed.shape.microbatches, by),
                   1.0 / by))
        return;
    }
  }

  void other_schedules() {
    if (step_.generator == nullptr) return;
    for (const Generator* generator : generators()) {
      if (generator == step_.generator) continue;
      StepToRun changed = step_;
      changed.shape.group.reset();
      if (!generator->takes_chunks) changed.shape.chunks.reset();
      if (reschedule(changed, *generator)) try_step(changed, std::string(generator->name));
    }
  }

  // Makes the schedule of changed.shape, and its costs; false where there is none.
  bool reschedule(StepToRun& changed, const Generator& generator) const {
    try {
      changed.schedule =
          make_lowered(generator, changed.shape, {step_.schedule.placement, step_.schedule.data_parallel});
      if (changed.model) {
        Layout& layout = changed.model->layout;
        if (layout.stages.size() != changed.schedule.stages) {
          const Recompute how = layout.stages.front().recompute;
          layout.stages = even_stages(changed.model->model, changed.schedule.stages);
          for (StageContent& stage : layout.stages) stage.recompute = how;
        }
        changed.cost = changed.model->costs();
      } else if (step_.cost.stages.size() > 1 && step_.cost.stages.size() != changed.schedule.stages) {
        return false;
      } else if (step_.schedule.stages != changed.schedule.stages) {
        return false;  // costs are of one of this schedule's chunks
      }
      return true;
    } catch (const BadInput&) {
      return false;  // not a legal shape
    }
  }

  const StepToRun& step_;
  const Prediction& prediction_;
  const Bytes limit_;
  std::vector<Remedy> found_;
};

}  // namespace

std::vector<Crossing> crossings(const Prediction& prediction, Bytes limit) {
  std::vector<Crossing> crossed;
  for (std::uint32_t r = 0; r < prediction.memory.ranks.size(); ++r) {
    const RankMemory& memory = prediction.memory.ranks[r];
    if (memory.curve.empty())
      throw BadInput("--memory",
                     "these costs say nothing of bytes: give a model, or a plumb.costs/1 with them");
    if (memory.peak.total() <= limit) continue;
    Crossing crossing{Rank{r}, memory.peak_action, memory.peak_time, memory.peak.total(),
                      memory.peak.total()};
    for (const MemoryPoint& point : memory.curve) {
      if (point.bytes <= limit) continue;
      if (point.time <= memory.peak_time) {
        crossing.time = point.time;
        crossing.held = point.bytes;
        crossing.action = running_at(prediction.timeline.ranks[r], point.time);
      }
      break;
    }
    crossed.push_back(crossing);
  }
  return crossed;
}

std::vector<Remedy> remedies(const StepToRun& step, const Prediction& prediction, Bytes limit) {
  return Remedies(step, prediction, limit).find();
}

std::string memory_json(const std::vector<Crossing>& crossed, const std::vector<Remedy>& remedies,
                        Bytes limit) {
  std::string out = fmt::format(",\"out_of_memory\":{{\"limit_bytes\":{},\"ranks\":[", limit.count);
  const char* comma = "";
  for (const Crossing& crossing : crossed) {
    out +=
        fmt::format("{}{{\"rank\":{},\"action\":\"{}\",\"time_ns\":{},\"held_bytes\":{},\"peak_bytes\":{}}}",
                    comma, crossing.rank.value, to_string(crossing.action), crossing.time.ns,
                    crossing.held.count, crossing.peak.count);
    comma = ",";
  }
  out += "],\"remedies\":[";
  comma = "";
  for (const Remedy& remedy : remedies) {
    out += fmt::format("{}{{\"change\":{},\"step_time_ns\":{},\"peak_bytes\":{}}}", comma,
                       json_quoted(remedy.change), remedy.step_time.ns, remedy.peak.count);
    comma = ",";
  }
  return out + "]}";
}

std::string memory_text(const std::vector<Crossing>& crossed, const std::vector<Remedy>& remedies,
                        Duration step_time, Bytes limit) {
  std::string out = fmt::format(
      "\nOut of memory: {} than {} a device.\n",
      crossed.size() == 1 ? "1 rank needs more" : fmt::format("{} ranks need more", crossed.size()),
      to_text(limit));
  constexpr std::size_t shown = 8;
  for (const Crossing& crossing : std::span(crossed).first(std::min(shown, crossed.size()))) {
    out += fmt::format("  rank {:<4} crosses it at {} ({} after the step began) and peaks at {}\n",
                       crossing.rank.value, to_string(crossing.action), to_text(crossing.time - TimePoint{}),
                       to_text(crossing.peak));
  }
  if (crossed.size() > shown) out += fmt::format("  and {} more ranks\n", crossed.size() - shown);
  if (remedies.empty()) return out + "No single change fits: more devices, or a smaller model.\n";
  out += "What fits, the fastest first:\n";
  for (const Remedy& remedy : remedies) {
    out +=
        fmt::format("  {:<52} step {} ({:+.1f} %), at most {}\n", remedy.change, to_text(remedy.step_time),
                    100 * (static_cast<double>(remedy.step_time.ns) / static_cast<double>(step_time.ns) - 1),
                    to_text(remedy.peak));
  }
  return out;
}

}  // namespace plumb::tools
