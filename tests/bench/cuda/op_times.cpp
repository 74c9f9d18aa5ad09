// Why an op lasts longer in a pipeline than alone, and how far ahead of the GPU the host launches.
//   op_times HIDDEN TOKENS RANKS MICROBATCHES LAYERS-PER-STAGE mlp|gpt SCHEDULE [print]
// Host and GPU times of every action of a step; then ops of rank 0 without messages, forwards alone or in
// turns with backwards, with the other ranks idle or as busy.
#include "runtime/cuda/rank_compute.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/executor.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/together.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/model/layout.hpp"
#include "tests/runtime/cuda/team.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace plumb;
using namespace plumb::test;

namespace {

using Clock = std::chrono::steady_clock;

double us(Duration d) { return static_cast<double>(d.ns) / 1e3; }
double median(std::vector<double> v) {
  if (v.empty()) return 0;
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// When the host began and ended launching each action, since the step began.
class Clocked : public Backend {
 public:
  struct Launch {
    double begin, end;
  };
  explicit Clocked(Worker& worker) : worker_(worker) {}
  void begin_step() override {
    launches.clear();
    worker_.begin_step();
    origin_ = Clock::now();
  }
  void compute(const ComputeStep& step) override {
    const double begin = now();
    worker_.compute(step);
    launches.push_back({begin, now()});
  }
  void communicate(const CommStep& step) override {
    const double begin = now();
    worker_.communicate(step);
    communicating += now() - begin;
  }
  void reduce(const ReduceStep& step) override { worker_.reduce(step); }
  void finish_step() override {
    finished_launching = now();
    worker_.finish_step();
  }
  StepTimes times() override { return worker_.times(); }
  void abort() noexcept override { worker_.abort(); }
  std::vector<Launch> launches;
  double finished_launching = 0, communicating = 0;

 private:
  double now() const { return std::chrono::duration<double, std::micro>(Clock::now() - origin_).count(); }
  Worker& worker_;
  Clock::time_point origin_;
};

// Ranks that compute without messages.
struct Alone {
  std::vector<device::GreenContext> shares;
  layers::ProductAlgorithms algorithms;
  std::vector<std::unique_ptr<cuda::RankCompute>> ranks;
  device::Event base{device::EventKind::timing};

  Alone(const TrainingPlan& plan, const std::map<std::string, std::string>& chosen)
      : shares(device::partition(plan.schedule.ranks())),
        algorithms(layers::ProductAlgorithms::from_text(chosen)) {
    for (std::uint32_t r = 0; r < plan.schedule.ranks(); ++r) {
      ranks.push_back(std::make_unique<cuda::RankCompute>(plan, Rank{r}, &shares[r], algorithms));
      ranks.back()->initialise();
      for (std::uint32_t m = 0; m < plan.schedule.microbatches; ++m)
        ranks.back()->load(Microbatch{m}, data_of(plan).microbatch(1, m));
    }
    device::synchronize();
  }

  // Ops of `kinds` in turns on rank 0, and on the others when they are busy; rank 0's median durations.
  void row(const char* name, const std::vector<OpKind>& kinds, const std::vector<OpKind>& others) {
    std::map<OpKind, std::vector<double>> durations;
    for (int repeat = 0; repeat < 6; ++repeat) {
      base.record(ranks[0]->stream());
      base.synchronize();
      std::vector<std::thread> threads;
      for (std::size_t r = 0; r < ranks.size(); ++r) {
        threads.emplace_back([&, r] {
          run(*ranks[r], r == 0 ? kinds : others, [&](OpKind kind, Interval interval) {
            if (r == 0 && repeat > 1) durations[kind].push_back(us(interval.end - interval.begin));
          });
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
    std::printf("  %-34s", name);
    for (const auto& [kind, values] : durations)
      std::printf("  %s %.1f us", std::string(words(kind)).c_str(), median(values));
    std::printf("\n");
    std::fflush(stdout);
  }

  template <class Take>
  void run(cuda::RankCompute& rank, const std::vector<OpKind>& kinds, Take take) {
    std::vector<std::vector<const ComputeStep*>> steps(kinds.size());
    for (std::size_t k = 0; k < kinds.size(); ++k) {
      for (const ProgramStep& step : rank.program().steps) {
        const auto* compute = std::get_if<ComputeStep>(&step);
        if (compute && !compute->action.is_pair() && compute->action.first().kind == kinds[k])
          steps[k].push_back(compute);
      }
    }
    if (kinds.empty()) return;
    std::vector<OpKind> ran;
    for (std::uint32_t i = 0; i < rank.program().actions; ++i) {
      const std::size_t k = i % kinds.size();
      if (steps[k].empty()) continue;
      ComputeStep step = *steps[k][i / kinds.size() % steps[k].size()];
      step.position = i;
      rank.compute(step);
      ran.push_back(kinds[k]);
    }
    rank.stream().synchronize();
    for (std::uint32_t i = 2; i < ran.size(); ++i) take(ran[i], rank.interval(i, base));
  }
};

void real_step(const TrainingPlan& plan, const GpuOptions& options, bool print) {
  Team team = make_gpu_workers(plan, options);
  load(team, plan);
  std::vector<std::unique_ptr<Clocked>> clocked;
  for (const auto& worker : team) clocked.push_back(std::make_unique<Clocked>(*worker));
  for (int i = 0; i < 6; ++i) {
    run_together(team, [&](Worker& worker) {
      worker.clear_gradients();
      execute(worker.program(), *clocked[worker.rank().value]);
    });
  }
  const Timeline timeline = timeline_of(team, plan);
  TimePoint end;
  for (const RankTimeline& rank : timeline.ranks) end = std::max(end, rank.compute.back().end);
  std::printf("real step of %s: %.1f us\n", plan.schedule.name.c_str(), us(end - TimePoint{}));
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    const auto& spans = timeline.ranks[r].compute;
    std::map<std::string, std::vector<double>> durations, launches, leads;
    for (std::size_t i = 0; i < spans.size(); ++i) {
      const auto& launch = clocked[r]->launches[i];
      const std::string kind =
          spans[i].action.is_pair() ? "pair" : std::string(words(spans[i].action.first().kind));
      durations[kind].push_back(us(spans[i].end - spans[i].begin));
      launches[kind].push_back(launch.end - launch.begin);
      leads[kind].push_back(us(spans[i].begin - TimePoint{}) - launch.end);
      if (print) {
        std::printf(
            "    %zu %-12s host %8.1f..%8.1f  gpu %8.1f..%8.1f  lasts %7.1f, gap before %6.1f%s\n", r,
            to_string(spans[i].action).c_str(), launch.begin, launch.end, us(spans[i].begin - TimePoint{}),
            us(spans[i].end - TimePoint{}), us(spans[i].end - spans[i].begin),
            i ? us(spans[i].begin - spans[i - 1].end) : 0.0,
            spans[i].last_input && (i == 0 || spans[i].last_input_sent > spans[i - 1].end) ? " waited" : "");
      }
    }
    std::printf("  rank %zu: all launched after %.1f us, of that messages %.1f\n", r,
                clocked[r]->finished_launching, clocked[r]->communicating);
    for (const auto& [kind, values] : durations) {
      std::printf(
          "    %-16s lasts %.1f us (median of %zu), host launches it in %.1f, %.1f before it begins (least "
          "%.1f)\n",
          kind.c_str(), median(values), values.size(), median(launches[kind]), median(leads[kind]),
          *std::min_element(leads[kind].begin(), leads[kind].end()));
    }
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 8) return std::fprintf(stderr, "see the first lines of op_times.cpp\n"), 2;
  const std::uint64_t hidden = std::stoul(argv[1]);
  const auto ranks = static_cast<std::uint32_t>(std::stoul(argv[3]));
  const auto microbatches = static_cast<std::uint32_t>(std::stoul(argv[4]));
  const ModelShape model = std::string(argv[6]) == "gpt" ? gpt(hidden) : mlp(hidden);
  const auto plan_of = [&](const std::string& name) {
    TrainingPlan plan =
        plan_for(make_lowered(generator(name), {ranks, microbatches, std::nullopt, std::nullopt}, {}), model,
                 std::stoul(argv[2]), WeightType::bf16);
    plan.model.layers = plan.schedule.stages * std::stoul(argv[5]);
    plan.layout.stages = even_stages(plan.model, plan.schedule.stages);
    return plan;
  };
  std::map<std::string, std::string> algorithms;
  const GpuOptions options{ranks, &algorithms};
  const TrainingPlan plan = plan_of(argv[7]);
  std::printf("%s %lu, %lu tokens, %s layers a stage, %u ranks, %u microbatches\n", argv[6], hidden,
              plan.layout.tokens(), argv[5], ranks, microbatches);
  real_step(plan, options, argc > 8);
  const TrainingPlan whole = plan_of("1f1b");
  { Team choose = make_gpu_workers(whole, options); }
  Alone alone(whole, algorithms);
  using enum OpKind;
  alone.row("forwards, others idle", {forward}, {});
  alone.row("forwards, others forward, backward", {forward}, {forward, backward});
  alone.row("both in turns, others idle", {forward, backward}, {});
  alone.row("both in turns, others too", {forward, backward}, {forward, backward});
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
