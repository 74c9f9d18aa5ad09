// Whatever the schedule, a pipeline computes the model's losses and gradients.
#include "runtime/cpu_backend.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/together.hpp"
#include "runtime/train_step.hpp"
#include "schedules/model/layer_costs.hpp"
#include "tests/schedules/generators/shapes.hpp"
#include "tests/support/training.hpp"

#include <algorithm>
#include <mutex>

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::plan_of;
using test::tiny_gpt;
using test::tiny_gpt2;
using test::tiny_mlp;
using test::words_of;

struct Ran {
  NamedGradients gradients;
  StepResult result;
};

Ran run(const TrainingPlan& plan, const TrainingData& data) {
  auto workers = make_cpu_workers(plan);
  Ran ran;
  std::mutex mutex;
  run_together(workers, [&](Worker& worker) {
    const StepResult result = forward_and_backward(worker, plan, data, 1);
    const std::lock_guard lock(mutex);
    ran.result = result;
  });
  for (const auto& worker : workers) add_gradients(*worker, plan, ran.gradients);
  return ran;
}

// Every generator's shape nearest to 2 p microbatches.
std::vector<Shape> shapes_of(const Generator& family, std::uint32_t ranks) {
  std::vector<Shape> shapes;
  for (std::uint32_t m = 2 * ranks; m <= 4 * ranks && shapes.empty(); ++m) {
    try {
      shapes.push_back(legal_shape(family, {ranks, m, std::nullopt, std::nullopt}));
    } catch (const BadInput&) {
      continue;
    }
  }
  return shapes;
}

// DualPipe's own test asks for less than 1e-13 in float32. Where a stage has one owner and its microbatches'
// gradients are added in their order, as the model in one piece does, everything is equal to the bit; two
// owners add up halves.
TEST(Gradients, AreTheModelsForEveryGeneratorOn2And4And8Ranks) {
  std::size_t checked = 0;
  for (const Generator* family : generators()) {
    for (const std::uint32_t ranks : {2u, 4u, 8u}) {
      for (const Shape& shape : shapes_of(*family, ranks)) {
        for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
          const LoweredSchedule schedule = make_lowered(*family, shape, {placement, 1});
          const TrainingPlan plan = plan_of(tiny_gpt(std::max(schedule.stages, 4u)), schedule);
          const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 11);
          const Ran ran = run(plan, data);
          const Unpipelined expected = run_unpipelined(plan, data, 1);
          EXPECT_EQ(ran.result.losses, expected.losses) << words_of(*family, shape);
          const GradientCheck check = compare_gradients(ran.gradients, expected.gradients);
          EXPECT_LT(check.max_difference, 1e-13) << words_of(*family, shape) << ": " << check.worst_parameter;
          EXPECT_FALSE(check.worst_parameter.empty());
          ++checked;
        }
      }
    }
  }
  EXPECT_GE(checked, 2 * 3 * (generators().size() - 2));
}

// The gradients of a weight are added in the order in which the rank runs backward_weight (norms':
// backward_input).
bool adds_in_order(const LoweredSchedule& schedule) {
  std::vector<std::int64_t> weight(schedule.stages, -1), input(schedule.stages, -1);
  for (const LoweredRank& rank : schedule.per_rank) {
    for (const Step& step : rank.steps) {
      const auto* action = std::get_if<Action>(&step);
      if (!action) continue;
      for (const Op& op : *action) {
        const auto follows = [&](std::vector<std::int64_t>& last) {
          return last[op.stage.value] + 1 == op.microbatch.value &&
                 (last[op.stage.value] = op.microbatch.value, true);
        };
        if (gives_weight_gradient(op.kind) && !follows(weight)) return false;
        if (gives_input_gradient(op.kind) && !follows(input)) return false;
      }
    }
  }
  return true;
}

TEST(Gradients, AreEqualToTheBitWhereMicrobatchesAreAddedInOrder) {
  std::vector<std::string_view> bitwise;
  for (const Generator* family : generators()) {
    for (const Shape& shape : shapes_of(*family, 4)) {
      const LoweredSchedule schedule = make_lowered(*family, shape, {});
      if (!adds_in_order(schedule)) continue;
      bitwise.push_back(family->name);
      const TrainingPlan plan = plan_of(tiny_gpt2(std::max(schedule.stages, 4u)), schedule);
      const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 12);
      EXPECT_EQ(run(plan, data).gradients, run_unpipelined(plan, data, 1).gradients)
          << words_of(*family, shape);
    }
  }
  for (const char* name : {"gpipe", "1f1b", "zb-h1", "zb-h2", "interleaved-1f1b", "zb-v", "dualpipe-v"}) {
    EXPECT_NE(std::find(bitwise.begin(), bitwise.end(), name), bitwise.end()) << name;
  }
}

TEST(Gradients, OfAnMlpAndOfGpt2AreTheModels) {
  for (const char* name : {"1f1b", "zb-h1", "zb-v", "dualpipe", "dualpipe-v", "chimera"}) {
    const LoweredSchedule schedule = make_lowered(generator(name), {4, 8, {}, {}}, {});
    for (const ModelShape& model : {tiny_mlp(8), tiny_gpt2(8)}) {
      const TrainingPlan plan = plan_of(model, schedule);
      const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 13);
      const Ran ran = run(plan, data);
      const Unpipelined expected = run_unpipelined(plan, data, 1);
      EXPECT_EQ(ran.result.losses, expected.losses) << name;
      const GradientCheck check = compare_gradients(ran.gradients, expected.gradients);
      EXPECT_LT(check.max_difference, 1e-13) << name << ": " << check.worst_parameter;
    }
  }
}

// Two copies of the pipeline: twice the microbatches, one sum, the same on every owner.
TEST(Gradients, OfDataParallelCopiesAreSummedOverAllOwners) {
  for (const char* name : {"1f1b", "dualpipe"}) {
    const LoweredSchedule schedule =
        make_lowered(generator(name), {2, 4, {}, {}}, {CommPlacement::per_op, 3});
    const TrainingPlan plan = plan_of(tiny_gpt(4), schedule);
    const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 14);
    auto workers = make_cpu_workers(plan);
    ASSERT_EQ(workers.size(), 6u);
    run_together(workers, [&](Worker& worker) { run_schedule(worker, data, 1); });
    const Unpipelined expected = run_unpipelined(plan, data, 1);
    ASSERT_EQ(expected.losses.size(), 12u);
    for (std::size_t w = 0; w < workers.size(); ++w) {
      for (const Stage stage : workers[w]->program().held) {
        EXPECT_EQ(workers[w]->gradients(stage), workers[w % 2]->gradients(stage)) << name << " worker " << w;
      }
    }
    NamedGradients gradients;
    for (const auto& worker : workers) add_gradients(*worker, plan, gradients);
    const GradientCheck check = compare_gradients(gradients, expected.gradients);
    EXPECT_LT(check.max_difference, 1e-13) << name << ": " << check.worst_parameter;
  }
}

// The check itself sees one wrong gradient: 1 % of one parameter is (0.01)^2 / (1 + 1.01^2).
TEST(Gradients, TheCheckNamesTheParameterThatDiffers) {
  const NamedGradients expected{{"a", {1, 2}}, {"b", {3, 4}}, {"zero", {0, 0}}};
  NamedGradients measured = expected;
  EXPECT_EQ(compare_gradients(measured, expected).max_difference, 0);
  for (float& value : measured["b"]) value *= 1.01f;
  const GradientCheck check = compare_gradients(measured, expected);
  EXPECT_EQ(check.worst_parameter, "b");
  EXPECT_NEAR(check.max_difference, 1e-4 / (1 + 1.01 * 1.01), 1e-9);
  measured["a"][0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(compare_gradients(measured, expected).worst_parameter, "a");
  measured.erase("a");
  EXPECT_THROW(compare_gradients(measured, expected), BadInput);
}

// The arena is planned from what the stages really keep; the formulas of schedules/model say the same, to the
// byte.
TEST(Gradients, PeakActivationsAreTheFormulasToTheByte) {
  for (const char* name : {"1f1b", "zb-h1", "zb-v", "dualpipe", "interleaved-1f1b"}) {
    const LoweredSchedule schedule = make_lowered(generator(name), {4, 8, {}, {}}, {});
    const TrainingPlan plan = plan_of(tiny_gpt(8), schedule);
    const auto workers = make_cpu_workers(plan);
    for (std::uint32_t r = 0; r < 4; ++r) {
      Bytes live, peak;
      for (const Step& step : schedule.per_rank[r].steps) {
        const auto* action = std::get_if<Action>(&step);
        if (!action) continue;
        for (const Op& op : *action) {
          const StageBytes bytes = stage_bytes(plan.model, plan.layout, op.stage);
          if (op.kind == OpKind::forward) live += bytes.kept_by_forward;
          if (op.kind == OpKind::backward_input) live += bytes.added_by_backward_input;
          peak = std::max(peak, live);
        }
        for (const Op& op : *action) {
          const StageBytes bytes = stage_bytes(plan.model, plan.layout, op.stage);
          if (op.kind == OpKind::backward_input) live -= bytes.freed_by_backward_input;
          if (op.kind == OpKind::backward) live -= bytes.kept_by_forward;
          if (op.kind == OpKind::backward_weight) {
            live -= bytes.kept_by_forward - bytes.freed_by_backward_input + bytes.added_by_backward_input;
          }
        }
      }
      EXPECT_EQ(workers[r]->program().peak_activations, peak) << name << " rank " << r;
      EXPECT_EQ(live, Bytes{});
    }
  }
}

}  // namespace
}  // namespace plumb
