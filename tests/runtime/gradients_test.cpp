// Whatever the schedule, a pipeline computes the model's losses and gradients.
#include "runtime/cpu_backend.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/shared_matrix.hpp"
#include "runtime/together.hpp"
#include "runtime/train_step.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/parameters.hpp"
#include "tests/schedules/generators/shapes.hpp"
#include "tests/support/adds_in_order.hpp"
#include "tests/support/training.hpp"

#include <algorithm>
#include <mutex>

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::adds_in_order;
using test::plan_of;
using test::tiny_gpt;
using test::tiny_gpt2;
using test::tiny_mlp;
using test::tiny_qwen3;
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

// Of every generator the fewest microbatches from p on that it takes, and the fewest beyond 2 p.
std::vector<Shape> shapes_of(const Generator& family, std::uint32_t ranks) {
  std::vector<Shape> shapes;
  for (const std::uint32_t least : {ranks, 2 * ranks + 1}) {
    for (std::uint32_t m = least; m <= least + 2 * ranks; ++m) {
      try {
        shapes.push_back(legal_shape(family, {ranks, m, std::nullopt, std::nullopt}));
        break;
      } catch (const BadInput&) {
        continue;
      }
    }
  }
  return shapes;
}

ModelShape tied(ModelShape model) {
  model.tied_embeddings = true;
  return model;
}

// DualPipe's own test asks for less than 1e-13 in float32. Where a stage has one owner and its microbatches'
// gradients are added in their order, everything is equal to the bit, but for a matrix that first and last
// stage share: in one piece it gets head's and embedding's gradients of a microbatch before the next one's,
// and here all of the head's are added to all of the embedding's.
void expect_the_models(const LoweredSchedule& schedule, const ModelShape& model, const std::string& what) {
  const TrainingPlan plan = plan_of(model, schedule);
  const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 11);
  Ran ran = run(plan, data);
  Unpipelined expected = run_unpipelined(plan, data, 1);
  EXPECT_EQ(ran.result.losses, expected.losses) << what;
  const GradientCheck check = compare_gradients(ran.gradients, expected.gradients);
  EXPECT_LT(check.max_difference, 1e-13) << what << ": " << check.worst_parameter;
  EXPECT_FALSE(check.worst_parameter.empty());
  if (!adds_in_order(schedule)) return;
  if (model.tied_embeddings) {
    ran.gradients.erase("embedding.weight");
    expected.gradients.erase("embedding.weight");
  }
  for (const auto& [name, gradient] : ran.gradients) {
    EXPECT_TRUE(gradient == expected.gradients.at(name)) << what << ": " << name << " to the bit";
  }
}

TEST(Gradients, AreTheModelsForEveryGeneratorOn2And4And8Ranks) {
  for (const Generator* family : generators()) {
    for (const std::uint32_t ranks : {2u, 4u, 8u}) {
      const std::vector<Shape> shapes = shapes_of(*family, ranks);
      EXPECT_EQ(shapes.size(), 2u) << family->name << " on " << ranks << " ranks";
      for (const Shape& shape : shapes) {
        const bool batched = &shape == &shapes.back();
        const LoweredSchedule schedule =
            make_lowered(*family, shape, {batched ? CommPlacement::batched : CommPlacement::per_op, 1});
        const std::uint32_t layers = std::max(schedule.stages, 4u);
        for (const ModelShape& model :
             {tiny_mlp(layers), tiny_gpt(layers), tied(tiny_gpt2(layers)), tiny_qwen3(layers)}) {
          expect_the_models(schedule, model, words_of(*family, shape) + ", " + model.name);
        }
      }
    }
  }
}

// Which of the families add in order is a property of their lists, so that equality to the bit is asked for
// somewhere: of all that run each stage's backward_weight in the order of its microbatches.
TEST(Gradients, AreEqualToTheBitUnderTheFamiliesThatAddMicrobatchesInOrder) {
  std::vector<std::string_view> in_order;
  for (const Generator* family : generators()) {
    const std::vector<Shape> shapes = shapes_of(*family, 4);
    if (adds_in_order(make_lowered(*family, shapes.front(), {}))) in_order.push_back(family->name);
  }
  for (const char* name : {"gpipe", "1f1b", "zb-h1", "zb-h2", "interleaved-1f1b", "zb-v", "dualpipe-v"}) {
    EXPECT_NE(std::find(in_order.begin(), in_order.end(), name), in_order.end()) << name;
  }
  for (const char* two_owners : {"dualpipe", "chimera"}) {
    EXPECT_EQ(std::find(in_order.begin(), in_order.end(), two_owners), in_order.end()) << two_owners;
  }
}

// Two copies of the pipeline: twice the microbatches, one sum, the same on every owner.
TEST(Gradients, OfDataParallelCopiesAreSummedOverAllOwners) {
  for (const char* name : {"1f1b", "zb-v", "dualpipe"}) {
    const LoweredSchedule schedule =
        make_lowered(generator(name), {2, 4, {}, {}}, {CommPlacement::per_op, 3});
    const TrainingPlan plan = plan_of(tied(tiny_gpt(4)), schedule);
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

// Whoever holds the shared matrix has the same gradient of it and, after the optimizer's step, the same
// weights: first and last stage on two ranks, on one rank, and on two ranks each.
TEST(Gradients, OfATiedHeadAndItsEmbeddingAreOneSum) {
  for (const char* name : {"1f1b", "zb-v", "dualpipe"}) {
    const LoweredSchedule schedule = make_lowered(generator(name), {4, 8, {}, {}}, {});
    const TrainingPlan plan = plan_of(tied(tiny_gpt(8)), schedule);
    const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 15);
    auto workers = make_cpu_workers(plan);
    run_together(workers, [&](Worker& worker) {
      for (std::uint64_t step = 1; step <= 3; ++step) train_step(worker, plan, data, step);
    });
    std::vector<std::vector<float>> gradients, weights;
    for (const auto& worker : workers) {
      for (const Stage stage : worker->program().held) {
        const auto shared = shared_matrix(plan.model, plan.layout.stages[stage.value]);
        if (!shared) continue;
        const auto part = [&](const std::vector<float>& flat) {
          const auto from = flat.begin() + static_cast<std::ptrdiff_t>(shared->offset);
          return std::vector<float>(from, from + static_cast<std::ptrdiff_t>(shared->elements()));
        };
        gradients.push_back(part(worker->gradients(stage)));
        weights.push_back(part(worker->state(stage).weights));
      }
    }
    EXPECT_EQ(gradients.size(), std::string(name) == "dualpipe" ? 4u : 2u) << name;
    for (std::size_t i = 1; i < gradients.size(); ++i) {
      EXPECT_EQ(gradients[i], gradients[0]) << name;
      EXPECT_EQ(weights[i], weights[0]) << name;
    }
  }
}

// First and last stage of 1F1B are on the first and the last rank, of a V on one rank, and DualPipe has both
// of them on both of these.
TEST(SharedPairs, AreTheRanksThatHoldTheMatrix) {
  const auto pairs = [](const char* name, const ModelShape& model) {
    return shared_pairs(plan_of(model, make_lowered(generator(name), {4, 8, {}, {}}, {})));
  };
  using Pairs = std::vector<SharedPair>;
  EXPECT_EQ(pairs("1f1b", tied(tiny_gpt(8))), (Pairs{{Rank{0}, Rank{3}}}));
  EXPECT_EQ(pairs("zb-v", tied(tiny_gpt(8))), (Pairs{{Rank{0}, Rank{0}}}));
  EXPECT_EQ(pairs("dualpipe", tied(tiny_gpt(8))), (Pairs{{Rank{0}, Rank{0}}, {Rank{3}, Rank{3}}}));
  EXPECT_EQ(pairs("1f1b", tiny_gpt(8)), Pairs{});
  // A schedule of somebody's own, whose last stage is on both ranks and whose first is on one.
  LoweredSchedule uneven;
  uneven.name = "uneven";
  uneven.stages = uneven.microbatches = 2;
  uneven.per_rank.resize(2);
  const auto add = [&](std::uint32_t rank, std::uint32_t stage, std::uint32_t microbatch) {
    uneven.per_rank[rank].steps.emplace_back(
        Action(Op{Stage{stage}, Microbatch{microbatch}, OpKind::forward}));
  };
  add(0, 0, 0);
  add(0, 0, 1);
  add(0, 1, 0);
  add(1, 1, 1);
  EXPECT_THROW(shared_pairs(plan_of(tied(tiny_gpt(4)), uneven)), BadInput);
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
void expect_the_formulas_peaks(const LoweredSchedule& schedule, const ModelShape& model,
                               const std::string& what) {
  const TrainingPlan plan = plan_of(model, schedule);
  const auto workers = make_cpu_workers(plan);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
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
    EXPECT_EQ(workers[r]->program().peak_activations, peak) << what << " rank " << r;
    EXPECT_EQ(live, Bytes{}) << what << " rank " << r;
  }
}

// Ranks that are no power of two as well; a family that does not take a number says so with its limits.
TEST(Gradients, AndPeaksOfActivationsAreTheModelsOnAnyNumberOfRanks) {
  for (const std::uint32_t ranks : {2u, 3u, 5u, 6u, 7u, 8u}) {
    std::size_t families = 0;
    for (const Generator* family : generators()) {
      const std::vector<Shape> shapes = shapes_of(*family, ranks);
      for (const Shape& shape : shapes) {
        const LoweredSchedule schedule = make_lowered(*family, shape, {});
        // One layer more than stages, so that stages differ.
        const ModelShape model = tied(tiny_gpt2(schedule.stages + 1));
        const std::string what = words_of(*family, shape);
        expect_the_formulas_peaks(schedule, model, what);
        if (ranks % 2 == 1 || ranks == 6) expect_the_models(schedule, model, what);
      }
      families += !shapes.empty();
    }
    // DualPipe and Chimera run two pipelines through each other, of an even number of ranks.
    EXPECT_EQ(families, generators().size() - (ranks % 2 == 1 ? 2 : 0)) << ranks << " ranks";
  }
}

}  // namespace
}  // namespace plumb
