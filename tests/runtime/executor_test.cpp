// The real executor over a virtual clock gives the simulator's Timeline to the nanosecond: so what differs
// between a prediction and a measurement is costs, never meaning.
#include "runtime/executor.hpp"

#include "runtime/fake_backend.hpp"
#include "runtime/step_record.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/ir/liveness.hpp"
#include "sim/memory.hpp"
#include "sim/simulate.hpp"
#include "tests/schedules/generators/shapes.hpp"
#include "tests/support/timelines.hpp"

#include <algorithm>

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::for_every_shape;
using test::schedule_of;
using test::words_of;

std::vector<StageMemory> messages_of(const CostModel& cost) {
  std::vector<StageMemory> memory;
  for (const StageCost& stage : cost.stages) {
    StageMemory& made = memory.emplace_back();
    made.activation_message = stage.activation_message;
    made.gradient_message = stage.gradient_message;
  }
  return memory;
}

Timeline executed(const LoweredSchedule& schedule, const CostModel& cost,
                  PairRelease release = PairRelease::atomic) {
  FakeWorld world(schedule, cost, release);
  std::vector<RankProgram> programs;
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r)
    programs.push_back(make_rank_program(schedule, Rank{r}));
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) execute(programs[r], world.rank(Rank{r}));
  std::vector<StepTimes> records;
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) records.push_back(world.rank(Rank{r}).times());
  return assemble_timeline(schedule, records, messages_of(cost));
}

// Every stage's ops last differently, so that a mix-up of stages, kinds or directions shows; messages take a
// third to twice of an op, so that both sides wait for each other.
CostModel uneven(std::uint32_t stages, bool stated_pairs) {
  CostModel cost;
  cost.name = "uneven";
  cost.classes = {"compute"};
  const auto op = [](std::int64_t ns, const char* name) {
    OpCost made;
    made.recipe = {Segment{Lane::compute, Duration{ns}, WorkClass{0}, name, false}};
    return made;
  };
  for (std::uint32_t s = 0; s < stages; ++s) {
    StageCost stage;
    stage.forward = op(1000 + 37 * s, "forward");
    stage.backward_input = op(1100 - 13 * s, "backward_input");
    stage.backward_weight = op(700 + 101 * (s % 3), "backward_weight");
    stage.backward = op(1800 + 29 * (s % 5), "backward");
    stage.activation_message = Bytes{300 + 400 * (s % 4)};
    stage.gradient_message = Bytes{900 - 50 * (s % 7)};
    stage.gradient_reduction = Duration{1500 + 100 * s};
    stage.optimizer_step = Duration{400 + 10 * s};
    cost.stages.push_back(stage);
  }
  if (stated_pairs) cost.any_pair = Duration{2500};
  cost.link = {Duration{50}, BytesPerSecond{1e9}};
  cost.links[{Rank{0}, Rank{1}}] = {Duration{700}, BytesPerSecond{2e9}};
  return cost;
}

TEST(Executor, GivesTheSimulatorsTimelineForEveryGeneratorAndShape) {
  const CostModel unit = unit_costs({Duration{10}, Duration{10}, Duration{10}, {}, Duration{25}, {}});
  std::size_t compared = 0;
  for (const Generator* family : generators()) {
    for_every_shape(*family, 4, [&](const Shape& shape) {
      if (testing::Test::HasFailure()) return;
      for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
        const std::uint32_t copies = 1 + shape.microbatches % 2;
        const LoweredSchedule schedule = make_lowered(*family, shape, {placement, copies});
        const CostModel cost = uneven(schedule.stages, shape.microbatches % 3 == 0);
        ASSERT_EQ(executed(schedule, cost), simulate(schedule, cost)) << words_of(*family, shape);
        ASSERT_EQ(executed(schedule, unit), simulate(schedule, unit)) << words_of(*family, shape);
        ExecutionOptions early;
        early.pair_release = PairRelease::forward_first;
        ASSERT_EQ(executed(schedule, cost, PairRelease::forward_first), simulate(schedule, cost, early))
            << words_of(*family, shape) << ", forwards of pairs released first";
        compared += 3;
      }
    });
  }
  EXPECT_GT(compared, 10000u);
}

// Two segments on two lanes with nothing beside them follow each other, and so does a record's finer detail.
TEST(Executor, GivesTheSegmentsOfARecipe) {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{10}, {}, {}, Duration{5}});
  cost.stages[0].forward.recipe = {{Lane::compute, Duration{10}, WorkClass{0}, "attention"},
                                   {Lane::communication, Duration{20}, WorkClass{0}, "dispatch"}};
  const LoweredSchedule schedule = lower(schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}));
  const Timeline timeline = executed(schedule, cost);
  EXPECT_EQ(timeline.ranks[0].segments.size(), 4u);
  EXPECT_EQ(timeline, simulate(schedule, cost));
}

// A program may be run again: nothing of the step before is left over.
TEST(Executor, RunsAStepAfterAnother) {
  const LoweredSchedule schedule = make_lowered(generator("zb-h1"), {4, 8, {}, {}}, {});
  const CostModel cost = uneven(4, true);
  FakeWorld world(schedule, cost);
  std::vector<RankProgram> programs;
  for (std::uint32_t r = 0; r < 4; ++r) programs.push_back(make_rank_program(schedule, Rank{r}));
  std::vector<StepTimes> first, second;
  for (std::vector<StepTimes>* records : {&first, &second}) {
    for (std::uint32_t r = 4; r-- > 0;) execute(programs[r], world.rank(Rank{r}));
    for (std::uint32_t r = 0; r < 4; ++r) records->push_back(world.rank(Rank{r}).times());
  }
  EXPECT_EQ(first, second);
}

// The recorded memory is the simulator's where both are told the same bytes. The peaks of activations are
// compared apart from the total's, which in a runtime also holds what a stage hands over to the next one on
// its rank.
TEST(Executor, RecordsTheMemoryThatTheSimulatorPredicts) {
  for (const char* name : {"1f1b", "zb-h1", "zb-v", "dualpipe", "interleaved-1f1b"}) {
    const LoweredSchedule schedule = make_lowered(generator(name), {4, 8, {}, {}}, {});
    CostModel cost = uneven(schedule.stages, true);
    std::vector<StageMemory> memory;
    for (std::uint32_t s = 0; s < schedule.stages; ++s) {
      StageCost& stage = cost.stages[s];
      StageMemory made{
          stage.activation_message, stage.gradient_message, Bytes{1000 + s}, Bytes{500}, Bytes{50}, {}};
      stage.forward.memory = {Bytes{1500 + s}, Bytes{}, Bytes{}};
      stage.backward_input.memory = {Bytes{50}, Bytes{}, -Bytes{1000 + s}};
      stage.backward_weight.memory = {Bytes{}, Bytes{}, Bytes{-550}};
      stage.backward.memory = {Bytes{}, Bytes{}, -Bytes{1500 + s}};
      stage.weights = Bytes{100000};
      memory.push_back(made);
    }
    const Timeline timeline = simulate(schedule, cost);
    const MemoryProfile predicted = profile_memory(timeline, schedule, cost);
    Liveness liveness(schedule, cost);
    FakeWorld world(schedule, cost);
    std::vector<RankProgram> programs;
    for (std::uint32_t r = 0; r < 4; ++r) programs.push_back(make_rank_program(schedule, Rank{r}, memory));
    for (std::uint32_t r = 0; r < 4; ++r) execute(programs[r], world.rank(Rank{r}));
    for (std::uint32_t r = 0; r < 4; ++r) {
      const RankMemory recorded =
          recorded_memory(programs[r], world.rank(Rank{r}).times(), held_throughout(schedule, Rank{r}, cost));
      const RankMemory& expected = predicted.ranks[r];
      Bytes live, peak;
      for (const LivenessChange& change : liveness.of(Rank{r})) {
        const bool counts =
            change.use == MemoryUse::activations || change.use == MemoryUse::weight_gradient_remnants;
        if (counts) peak = std::max(peak, live += change.bytes);
      }
      EXPECT_EQ(programs[r].peak_activations, peak) << name << " rank " << r;
      EXPECT_EQ(recorded.peak_live_activations, expected.peak_live_activations) << name << " rank " << r;
      EXPECT_EQ(recorded.peak[MemoryUse::weights], expected.peak[MemoryUse::weights]);
    }
  }
}

}  // namespace
}  // namespace plumb
