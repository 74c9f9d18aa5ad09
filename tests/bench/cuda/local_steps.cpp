// Schedules on one GPU, measured against a simulation of them.
//   local_steps HIDDEN TOKENS RANKS[,RANKS…] MICROBATCHES-PER-RANK[,…] SCHEDULE[:CHUNKS][,…] [check] [fp32]
//   [gpt]
// save: each last step's timeline as JSON. check: gradients against the same microbatches one by one, for the
// first number of microbatches. Costs come from two schedules other than those that are compared wherever
// those have the op: 1f1b (forward, backward), zb-h1 (the halves), dualpipe (pairs), at as many ranks;
// medians by kind of op and of stage.
#include "runtime/device/stream.hpp"
#include "runtime/gpu_workers.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "sim/report.hpp"
#include "sim/simulate.hpp"
#include "tests/runtime/cuda/team.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>

using namespace plumb;
using namespace plumb::test;

namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::stringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');) words.push_back(word);
  return words;
}

struct Settings {
  std::uint64_t hidden = 2048;
  std::uint64_t tokens = 4096;
  WeightType weights = WeightType::bf16;
  bool check = false;
  bool text = false;
  std::string save;
};

// first, middle or last of the model
int position(std::uint32_t stage, std::uint32_t stages) {
  return stage == 0 ? 0 : stage + 1 == stages ? 2 : 1;
}

using Key = std::tuple<OpKind, int, int>;  // a pair: forward, and both positions; else the second is -1

struct Measured {
  std::map<Key, std::vector<std::int64_t>> durations;
  std::vector<std::int64_t>
      hops;  // from the end of the maker to the begin of the op, where that rank was idle
  std::vector<std::int64_t> copies;
  std::vector<std::int64_t> gaps;  // between actions where nothing is waited for
  std::vector<std::int64_t> reductions;
};

std::int64_t median(std::vector<std::int64_t> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void collect(const Timeline& timeline, Measured& out) {
  for (const RankTimeline& rank : timeline.ranks) {
    TimePoint before{};
    for (const ComputeSpan& span : rank.compute) {
      const Op& op = span.action.first();
      const Key key = span.action.is_pair() ? Key{OpKind::forward, position(op.stage.value, timeline.stages),
                                                  position(span.action.second().stage.value, timeline.stages)}
                                            : Key{op.kind, position(op.stage.value, timeline.stages), -1};
      out.durations[key].push_back((span.end - span.begin).ns);
      const std::int64_t gap = (span.begin - before).ns;
      if (&span != &rank.compute.front()) {
        if (span.last_input && span.last_input_sent > before)
          out.hops.push_back((span.begin - span.last_input_sent).ns);
        if (!span.last_input) out.gaps.push_back(gap);
      }
      before = span.end;
    }
    for (const CollectiveSpan& span : rank.collectives) out.reductions.push_back((span.end - span.begin).ns);
  }
  for (const MessageSpan& message : timeline.messages) out.copies.push_back((message.end - message.begin).ns);
}

Report report_of(const Timeline& timeline) {
  MemoryProfile memory;
  memory.ranks.resize(timeline.ranks.size());
  return summarize(timeline, memory);
}

struct Run {
  std::vector<std::int64_t> steps;
  Timeline last;
  GradientCheck difference;
  double loss_difference = 0;
  Bytes peak;
};

Run run(const TrainingPlan& plan, int steps, bool check, const GpuOptions& options) {
  Run result;
  Team team = make_gpu_workers(plan, options);
  load(team, plan);
  for (int i = 0; i < steps; ++i) {
    step(team);
    step(team);  // right behind another one, as in training: reading a record takes a while in which the GPU
                 // cools
    const Timeline timeline = timeline_of(team, plan);
    if (i > 0) result.steps.push_back(report_of(timeline).step_time.ns);
    result.last = timeline;
  }
  for (const auto& worker : team) result.peak = std::max(result.peak, worker->program().peak_activations);
  if (check) {
    const Unpipelined expected = run_unpipelined_on_gpu(plan, data_of(plan), 1, options);
    result.difference = compare(team, plan, expected.gradients);
    const std::vector<double> got = losses(team, plan);
    for (std::size_t m = 0; m < got.size(); ++m)
      result.loss_difference =
          std::max(result.loss_difference, std::abs(got[m] - expected.losses[m]) / expected.losses[m]);
  }
  return result;
}

TrainingPlan plan_of(const Settings& settings, const std::string& schedule, std::uint32_t ranks,
                     std::uint32_t microbatches) {
  const auto colon = schedule.find(':');
  Shape shape{ranks, microbatches, std::nullopt, std::nullopt};
  if (colon != std::string::npos)
    shape.chunks = static_cast<std::uint32_t>(std::stoul(schedule.substr(colon + 1)));
  LoweredSchedule lowered = make_lowered(generator(schedule.substr(0, colon)), shape, {});
  return plan_for(std::move(lowered), settings.text ? gpt(settings.hidden) : mlp(settings.hidden),
                  settings.tokens, settings.weights);
}

CostModel costs(const Measured& measured, std::uint32_t stages) {
  CostModel cost;
  const auto at = [&](Key key) {
    auto found = measured.durations.find(key);
    // A schedule of fewer ranks may have no middle stage, or no such pair: the nearest that there is.
    if (found == measured.durations.end()) {
      for (found = measured.durations.begin(); found != measured.durations.end(); ++found) {
        if (std::get<0>(found->first) == std::get<0>(key) &&
            (std::get<2>(found->first) < 0) == (std::get<2>(key) < 0))
          break;
      }
    }
    return Duration{found == measured.durations.end() ? 0 : median(found->second)};
  };
  for (std::uint32_t s = 0; s < stages; ++s) {
    StageCost stage;
    const auto one = [&](OpKind kind) {
      return OpCost{{{Lane::compute, at({kind, position(s, stages), -1}), WorkClass{},
                      std::string(words(kind)), false}},
                    {}};
    };
    stage.forward = one(OpKind::forward);
    stage.backward_input = one(OpKind::backward_input);
    stage.backward_weight = one(OpKind::backward_weight);
    stage.backward = one(OpKind::backward);
    stage.gradient_reduction = {median(measured.reductions)};
    cost.stages.push_back(stage);
  }
  cost.classes = {"work"};
  for (std::uint32_t f = 0; f < stages; ++f) {
    for (std::uint32_t b = 0; b < stages; ++b)
      cost.measured_pairs[{Stage{f}, Stage{b}}] =
          at({OpKind::forward, position(f, stages), position(b, stages)});
  }
  cost.link.latency = {median(measured.hops)};
  return cost;
}

double ms(std::int64_t ns) { return static_cast<double>(ns) / 1e6; }

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 6) return std::fprintf(stderr, "see the first lines of local_steps.cpp\n"), 2;
  Settings settings;
  settings.hidden = std::stoul(argv[1]);
  settings.tokens = std::stoul(argv[2]);
  for (int i = 6; i < argc; ++i) {
    if (std::string(argv[i]) == "check") settings.check = true;
    if (std::string(argv[i]).starts_with("save=")) settings.save = std::string(argv[i]).substr(5);
    if (std::string(argv[i]) == "gpt") settings.text = true;
    if (std::string(argv[i]) == "fp32") settings.weights = WeightType::fp32;
  }
  for (const std::string& ranks_text : split(argv[3])) {
    const auto ranks = static_cast<std::uint32_t>(std::stoul(ranks_text));
    std::map<std::string, std::string> algorithms;
    const GpuOptions options{ranks, &algorithms};
    Measured measured;
    for (const char* name : {"1f1b", "zb-h1", "dualpipe"}) {
      const TrainingPlan plan = plan_of(settings, name, ranks, 3 * ranks);
      collect(run(plan, 3, false, options).last, measured);
    }
    std::printf("%u ranks, H %lu, %lu tokens: costs (us)", ranks, settings.hidden, settings.tokens);
    for (const auto& [key, values] : measured.durations) {
      std::printf("  %s%d%s %.0f", std::string(words(std::get<0>(key))).c_str(), std::get<1>(key),
                  std::get<2>(key) < 0 ? "" : ("+b" + std::to_string(std::get<2>(key))).c_str(),
                  ms(median(values)) * 1e3);
    }
    std::printf("\n  hop %.1f us, copy %.1f, gap without input %.1f, reduction %.1f\n",
                ms(median(measured.hops)) * 1e3, ms(median(measured.copies)) * 1e3,
                ms(median(measured.gaps)) * 1e3, ms(median(measured.reductions)) * 1e3);
    const std::vector<std::string> all_microbatches = split(argv[4]);
    for (const std::string& each : all_microbatches) {
      const auto microbatches = ranks * static_cast<std::uint32_t>(std::stoul(each));
      for (const std::string& schedule : split(argv[5])) {
        const TrainingPlan plan = plan_of(settings, schedule, ranks, microbatches);
        const bool check = settings.check && &each == &all_microbatches.front();
        Run result = run(plan, 6, check, options);
        if (!settings.save.empty()) {
          std::ofstream file(settings.save + "/" + schedule + "_" + ranks_text + "x" +
                             std::to_string(microbatches) + ".json");
          write_timeline(file, result.last);
        }
        std::sort(result.steps.begin(), result.steps.end());
        const std::int64_t step_ns = result.steps[result.steps.size() / 2];
        Measured own;
        collect(result.last, own);
        const auto predict = [&](const Measured& from, PairRelease release) {
          ExecutionOptions execution;
          execution.pair_release = release;
          return report_of(simulate(plan.schedule, costs(from, plan.schedule.stages), execution))
              .step_time.ns;
        };
        const auto exact = [&] {
          CostModel cost = costs(own, plan.schedule.stages);
          cost.measured_pairs.clear();
          for (std::uint32_t r = 0; r < ranks; ++r) {
            for (const ComputeSpan& span : result.last.ranks[r].compute)
              cost.overrides.push_back({Rank{r}, span.action, span.end - span.begin});
          }
          return report_of(simulate(plan.schedule, cost, {})).step_time.ns;
        };
        const Report report = report_of(result.last);
        const auto error = [&](std::int64_t predicted) {
          return 100 * (static_cast<double>(predicted) / static_cast<double>(step_ns) - 1);
        };
        std::printf(
            "  %-14s m %3u: step %8.3f ms (%.3f..%.3f) idle %.3f, predicted %+.2f %% (pairs forward first "
            "%+.2f), "
            "by its own costs %+.2f, op for op %+.2f; hop %.0f us; peak %ld",
            schedule.c_str(), microbatches, ms(step_ns), ms(result.steps.front()), ms(result.steps.back()),
            report.idle_share, error(predict(measured, PairRelease::atomic)),
            error(predict(measured, PairRelease::forward_first)), error(predict(own, PairRelease::atomic)),
            100 * (static_cast<double>(exact()) / static_cast<double>(report.step_time.ns) - 1),
            ms(median(own.hops)) * 1e3, result.peak.count);
        if (check) {
          std::printf("; gradients %.2e (%s), losses %.1e", result.difference.max_difference,
                      result.difference.worst_parameter.c_str(), result.loss_difference);
        }
        std::printf("\n");
        std::fflush(stdout);
      }
    }
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
