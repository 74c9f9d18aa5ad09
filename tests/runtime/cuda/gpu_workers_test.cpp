// Pipelines on one GPU against the same stages without a pipeline. On the fake device too, where whatever no
// event orders happens in another order every time.
#include "runtime/gpu_workers.hpp"

#include "runtime/checkpoint.hpp"
#include "runtime/together.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/parameters.hpp"
#include "tests/runtime/cuda/team.hpp"
#include "tests/support/adds_in_order.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb::cuda {
namespace {

using namespace plumb::test;
using testing::HasSubstr;

TrainingPlan mlp_plan(LoweredSchedule schedule, WeightType type = sizes().types.front()) {
  return plan_for(std::move(schedule), mlp(sizes().mlp_hidden), sizes().tokens, type);
}
// In float32: of bf16 cuDNN's attention adds its gradients up in no fixed order.
TrainingPlan gpt_plan(LoweredSchedule schedule) {
  return plan_for(std::move(schedule), gpt(sizes().gpt_hidden), sizes().tokens, WeightType::fp32);
}
TrainingPlan gpt2_plan(LoweredSchedule schedule) {
  return plan_for(std::move(schedule), gpt2(sizes().gpt_hidden), sizes().tokens, WeightType::fp32);
}

LoweredSchedule schedule(const std::string& name, std::uint32_t ranks, CommPlacement placement,
                         std::uint32_t data_parallel = 1) {
  return schedule_of(name, ranks, placement, data_parallel);
}

// Two owners of a stage, two copies of the pipeline, or microbatches that come in another order than their
// own add up in another order than the model in one piece does: the sums differ by roundings of float32
// (2^-24 of what is added up), so squares by about 1e-15. So does a matrix that two stages share. Everybody
// else does the very same operations in the same order.
double bound(const TrainingPlan& plan) {
  return adds_in_order(plan.schedule) && !plan.model.tied_embeddings ? 0 : 1e-13;
}

// What is chosen once holds for every test: trying products out takes longer than the tests themselves.
std::map<std::string, std::string>& chosen_algorithms() {
  static std::map<std::string, std::string> algorithms;
  return algorithms;
}

void expect_unpipelined(const TrainingPlan& plan) {
  const std::uint32_t shares = plan.schedule.ranks() * plan.schedule.data_parallel;
  const GpuOptions options{shares, &chosen_algorithms()};
  Team team = make_gpu_workers(plan, options);
  load(team, plan);
  step(team);
  const Unpipelined expected = run_unpipelined_on_gpu(plan, data_of(plan), 1, options);
  const GradientCheck check = compare(team, plan, expected.gradients);
  EXPECT_LE(check.max_difference, bound(plan)) << check.worst_parameter;
  EXPECT_EQ(losses(team, plan), expected.losses);
}

class EverySchedule : public testing::TestWithParam<std::tuple<std::string, std::uint32_t>> {};

TEST_P(EverySchedule, ComputesWhatNoPipelineComputes) {
  const auto& [name, ranks] = GetParam();
  for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
    SCOPED_TRACE(placement == CommPlacement::batched ? "batched" : "per op");
    for (const WeightType type : sizes().types)
      expect_unpipelined(mlp_plan(schedule(name, ranks, placement), type));
  }
}

// With everything that a transformer has and an mlp hasn't: tokens, two kinds of parameters, a matrix that
// first and last stage share.
TEST_P(EverySchedule, TrainsATransformerLikeNoPipeline) {
  const auto& [name, ranks] = GetParam();
  expect_unpipelined(gpt2_plan(schedule(name, ranks, CommPlacement::per_op)));
}

std::vector<std::string> names() {
  std::vector<std::string> names;
  for (const Generator* generator : generators()) names.emplace_back(generator->name);
  return names;
}
std::string label(const testing::TestParamInfo<EverySchedule::ParamType>& info) {
  std::string text = std::get<0>(info.param) + "_" + std::to_string(std::get<1>(info.param));
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}
INSTANTIATE_TEST_SUITE_P(Generators, EverySchedule,
                         testing::Combine(testing::ValuesIn(names()), testing::Values(2, 4, 8)), label);

TEST(GpuWorkers, TransformersComputeWhatNoPipelineComputes) {
  for (const char* name : {"1f1b", "zb-h1", "interleaved-1f1b", "zb-v", "dualpipe"}) {
    SCOPED_TRACE(name);
    expect_unpipelined(gpt_plan(schedule(name, 2, CommPlacement::per_op)));
    expect_unpipelined(gpt2_plan(schedule(name, 2, CommPlacement::batched)));
  }
}

// Stages of a pipeline that is there twice have two owners even where the pipeline's own have one.
TEST(GpuWorkers, CopiesOfAPipelineSumTheirGradients) {
  expect_unpipelined(mlp_plan(schedule("1f1b", 2, CommPlacement::per_op, 2)));
  expect_unpipelined(mlp_plan(schedule("dualpipe", 2, CommPlacement::per_op, 2)));
  expect_unpipelined(gpt2_plan(schedule("1f1b", 2, CommPlacement::per_op, 2)));
}

// The matrix of a tied head is on two stages, which end a step with one gradient and equal weights: first and
// last stage on two ranks, on one, and on two each. Its gradient counts once in the norm.
TEST(GpuWorkers, StagesThatShareAMatrixKeepItEqual) {
  for (const char* name : {"1f1b", "zb-v", "dualpipe"}) {
    SCOPED_TRACE(name);
    const TrainingPlan plan = gpt2_plan(schedule(name, 2, CommPlacement::per_op));
    Team team = make_gpu_workers(plan);
    load(team, plan);
    std::vector<std::vector<float>> gradients, weights;
    for (std::uint64_t i = 1; i <= 2; ++i) {
      step(team);
      double norm = 0, squares = 0;
      NamedGradients named;
      for (const auto& worker : team) {
        norm += worker->squared_gradient_norm();
        add_gradients(*worker, plan, named);
      }
      for (const auto& [parameter, values] : named) {
        for (const float value : values) squares += static_cast<double>(value) * static_cast<double>(value);
      }
      EXPECT_NEAR(norm, squares, 1e-9 * squares);
      gradients.clear();
      for (const auto& worker : team) {
        for (const Stage stage : worker->program().held) {
          const auto shared = shared_matrix(plan.model, plan.layout.stages[stage.value]);
          if (!shared) continue;
          const std::vector<float> all = worker->gradients(stage);
          const auto from = all.begin() + static_cast<std::ptrdiff_t>(shared->offset);
          gradients.emplace_back(from, from + static_cast<std::ptrdiff_t>(shared->elements()));
        }
      }
      EXPECT_EQ(gradients.size(), std::string(name) == "dualpipe" ? 4u : 2u);
      run_together(team, [&](Worker& worker) { worker.update(i, 1e-3, 1); });
    }
    for (const auto& worker : team) {
      for (const Stage stage : worker->program().held) {
        const auto shared = shared_matrix(plan.model, plan.layout.stages[stage.value]);
        if (!shared) continue;
        const std::vector<float> all = worker->state(stage).weights;
        const auto from = all.begin() + static_cast<std::ptrdiff_t>(shared->offset);
        weights.emplace_back(from, from + static_cast<std::ptrdiff_t>(shared->elements()));
      }
    }
    for (std::size_t i = 1; i < gradients.size(); ++i) {
      EXPECT_EQ(gradients[i], gradients[0]);
      EXPECT_EQ(weights[i], weights[0]);
    }
  }
}

TEST(GpuWorkers, KeepTheBytesThatTheModelSays) {
  const TrainingPlan plan = gpt_plan(schedule("zb-h1", 4, CommPlacement::per_op));
  Team team = make_gpu_workers(plan);
  for (const auto& worker : team) {
    for (const Stage stage : worker->program().held) {
      const StageBytes said = stage_bytes(plan.model, plan.layout, stage);
      const StageMemory& real = worker->stage_memory()[stage.value];
      EXPECT_EQ(real.kept_for_input + real.kept_for_weight, said.kept_by_forward);
      EXPECT_EQ(real.kept_for_input, said.freed_by_backward_input);
      EXPECT_EQ(real.gradients_kept, said.added_by_backward_input);
    }
  }
}

// A linear regression's loss falls under AdamW, and all copies of a stage keep equal weights.
TEST(GpuWorkers, TrainingLowersTheLossAndKeepsCopiesEqual) {
  TrainingPlan plan = mlp_plan(schedule("dualpipe", 2, CommPlacement::per_op));
  Team team = make_gpu_workers(plan);
  load(team, plan);
  std::vector<double> means;
  for (std::uint64_t i = 1; i <= 10; ++i) {
    step(team);
    double mean = 0;
    for (const double loss : losses(team, plan)) mean += loss / plan.schedule.microbatches;
    means.push_back(mean);
    run_together(team, [&](Worker& worker) { worker.update(i, 1e-3, 1); });
  }
  EXPECT_LT(means.back(), 0.99 * means.front());
  EXPECT_EQ(team[0]->state(Stage{0}), team[1]->state(Stage{0}));
}

// Every gradient counts once, wherever its owners are. Sums in float64 of up to a million squares.
TEST(GpuWorkers, TheNormIsOfEveryGradientOnce) {
  const TrainingPlan plan = mlp_plan(schedule("dualpipe", 2, CommPlacement::per_op));
  Team team = make_gpu_workers(plan);
  load(team, plan);
  step(team);
  double said = 0;
  for (const auto& worker : team) said += worker->squared_gradient_norm();
  double squares = 0;
  for (const Stage stage : team[0]->program().held) {
    for (const float gradient : team[0]->gradients(stage)) squares += double{gradient} * gradient;
  }
  EXPECT_GT(squares, 0);
  EXPECT_NEAR(said, squares, 1e-12 * squares);
}

// Weights and moments of a run that was stored and taken up by other workers are, bit for bit, those of the
// run that went on.
TEST(GpuWorkers, ResumingIsAsIfNothingHadHappened) {
  const std::string folder = (std::filesystem::temp_directory_path() / "plumb-gpu-workers-test").string();
  for (const TrainingPlan& plan : {mlp_plan(schedule("dualpipe", 2, CommPlacement::per_op)),
                                   gpt2_plan(schedule("zb-h1", 2, CommPlacement::per_op))}) {
    SCOPED_TRACE(plan.model.name);
    std::filesystem::remove_all(folder);
    const GpuOptions options{0, &chosen_algorithms()};
    const auto train = [&](Team& team, std::uint64_t at) {
      load(team, plan);
      step(team);
      run_together(team, [&](Worker& worker) { worker.update(at, 1e-3, 1); });
    };
    Team through = make_gpu_workers(plan, options);
    train(through, 1);
    run_together(through, [&](Worker& worker) { save_checkpoint(worker, plan, folder, 1); });
    Team resumed = make_gpu_workers(plan, options);
    run_together(resumed, [&](Worker& worker) { load_checkpoint(worker, plan, folder); });
    train(through, 2);
    train(resumed, 2);
    for (std::size_t i = 0; i < through.size(); ++i) {
      for (const Stage stage : through[i]->program().held)
        EXPECT_TRUE(resumed[i]->state(stage) == through[i]->state(stage))
            << "rank " << i << ", stage " << stage.value;
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(GpuWorkers, TheDeadlineNamesTheRankAndWhatItWaitsFor) {
  TrainingPlan plan = mlp_plan(schedule("1f1b", 2, CommPlacement::per_op));
  plan.deadline = Duration{200'000'000};
  Team team = make_gpu_workers(plan);
  load(team, plan);
  try {
    run_together(team, [](Worker& worker) {
      worker.begin_step();
      if (worker.rank() == Rank{0}) return;  // it sends nothing
      for (const ProgramStep& one : worker.program().steps) {
        if (const auto* compute = std::get_if<ComputeStep>(&one)) worker.compute(*compute);
        if (const auto* comm = std::get_if<CommStep>(&one)) worker.communicate(*comm);
      }
    });
    ADD_FAILURE() << "rank 1 went on without its input";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 1, step"));
    EXPECT_THAT(error.what(), HasSubstr("1RECV_F0 from rank 0"));
  }
}

TEST(GpuWorkers, AreDatedOnOneClock) {
  const TrainingPlan plan = mlp_plan(schedule("1f1b", 4, CommPlacement::per_op));
  Team team = make_gpu_workers(plan);
  load(team, plan);
  step(team);
  const Timeline timeline = timeline_of(team, plan);
  // No op begins before its input has come, and the first begins at 0.
  EXPECT_EQ(timeline.ranks[0].compute.front().begin, TimePoint{});
  for (const MessageSpan& message : timeline.messages) {
    EXPECT_LE(message.send_ready, message.begin);
    EXPECT_LE(message.begin, message.end);
  }
  for (const RankTimeline& rank : timeline.ranks) {
    TimePoint before{};
    for (const ComputeSpan& span : rank.compute) {
      EXPECT_LE(before, span.begin);
      EXPECT_LE(span.last_input_sent, span.begin);
      before = span.end;
    }
  }
}

}  // namespace
}  // namespace plumb::cuda
