#include "tools/run_outcome.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace plumb::tools {
namespace {

std::int64_t at_share(std::vector<Duration> sorted, double share) {
  if (sorted.empty()) return 0;
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)].ns;
}

nlohmann::json spread_of(const std::vector<Duration>& durations) {
  return {{"median", at_share(durations, 0.5)},
          {"min", at_share(durations, 0)},
          {"p95", at_share(durations, 0.95)},
          {"n", durations.size()}};
}

// Of the step whose share is the median.
ExecutorOverhead typical_overhead(std::vector<ExecutorOverhead> all) {
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end(), [](const ExecutorOverhead& a, const ExecutorOverhead& b) {
    return a.share() < b.share();
  });
  return *middle;
}

}  // namespace

std::string to_json(const RunOutcome& outcome) {
  nlohmann::json document;
  document["schema"] = "plumb.run/1";
  document["step_time_ns"] = spread_of(outcome.steps);
  document["training_step_ns"] = spread_of(outcome.whole);
  document["loss"] = outcome.losses;
  document["ranks"] = nlohmann::json::array();
  for (std::size_t r = 0; r < outcome.report.ranks.size(); ++r) {
    const RankReport& rank = outcome.report.ranks[r];
    document["ranks"].push_back({{"compute_busy_ns", rank.compute_busy.ns},
                                 {"idle_ns", rank.idle.ns},
                                 {"peak_activation_bytes", outcome.peaks[r].count}});
    if (!rank.peak_bytes) continue;  // ranks in processes of their own keep theirs to themselves
    nlohmann::json& told = document["ranks"].back();
    told["peak_bytes"] = rank.peak_bytes->count;
    for (std::size_t u = 0; u < memory_uses; ++u)
      told["memory_bytes"][to_string(static_cast<MemoryUse>(u))] = rank.peak_memory.by_use[u].count;
  }
  document["idle_share"] = outcome.report.idle_share;
  const ExecutorOverhead overhead = typical_overhead(outcome.overheads);
  document["executor_overhead"] = {
      {"share", overhead.share()}, {"gaps_ns", overhead.gaps.ns}, {"longest_ns", overhead.longest.ns}};
  if (outcome.check) {
    document["gradient_check"] = {{"max_difference", outcome.check->max_difference},
                                  {"worst_parameter", outcome.check->worst_parameter}};
  }
  return document.dump();
}

std::string to_text(const RunOutcome& outcome, const TrainingPlan& plan) {
  std::string text = fmt::format("{}: {} rank{}, {} microbatch{}\n", plan.schedule.name,
                                 plan.schedule.ranks(), plan.schedule.ranks() == 1 ? "" : "s",
                                 plan.schedule.microbatches, plan.schedule.microbatches == 1 ? "" : "es");
  const Duration median{at_share(outcome.steps, 0.5)};
  const double tokens =
      static_cast<double>(plan.layout.tokens()) * plan.schedule.microbatches * plan.schedule.data_parallel;
  text += fmt::format("step      {} median of {}, from {} to {} (95 %)\n", plumb::to_text(median),
                      outcome.steps.size(), plumb::to_text(Duration{at_share(outcome.steps, 0)}),
                      plumb::to_text(Duration{at_share(outcome.steps, 0.95)}));
  const Duration whole{at_share(outcome.whole, 0.5)};
  text += fmt::format("tokens/s  {:.0f}, of {} with data and optimizer\n",
                      tokens / static_cast<double>(whole.ns) * 1e9, plumb::to_text(whole));
  text += fmt::format("idle      {:.1f} % of all ranks' time\n", 100 * outcome.report.idle_share);
  const ExecutorOverhead overhead = typical_overhead(outcome.overheads);
  text += fmt::format(
      "executor  {:.2f} % of the step is gaps on its critical path that no dependency explains: {}",
      100 * overhead.share(), plumb::to_text(overhead.gaps));
  if (overhead.before) {
    text += fmt::format(", the longest {} before {} on rank {}", plumb::to_text(overhead.longest),
                        to_string(*overhead.before), overhead.rank.value);
  }
  text += "\n";
  text += fmt::format("loss      {:.6g}, at first {:.6g}\n", outcome.losses.back(), outcome.losses.front());
  if (!std::isfinite(outcome.losses.back()))
    text += "          the training has diverged: a smaller --lr may keep it together\n";
  if (outcome.check) {
    text += outcome.check->max_difference == 0
                ? "gradients are those of the model without a pipeline, exactly\n"
                : fmt::format(
                      "gradients differ from the model's without a pipeline by at most {:.3g} of their "
                      "squared size ({})\n",
                      outcome.check->max_difference, outcome.check->worst_parameter);
  }
  for (std::size_t r = 0; r < outcome.report.ranks.size(); ++r) {
    const RankReport& rank = outcome.report.ranks[r];
    text += fmt::format(
        "rank {:<4} busy {}, idle {}, activations at most {}{}\n", r, plumb::to_text(rank.compute_busy),
        plumb::to_text(rank.idle), plumb::to_text(outcome.peaks[r]),
        rank.peak_bytes ? fmt::format(", memory at most {}", plumb::to_text(*rank.peak_bytes)) : "");
  }
  return text;
}

}  // namespace plumb::tools
