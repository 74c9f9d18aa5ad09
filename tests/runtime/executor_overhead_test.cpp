#include "runtime/executor_overhead.hpp"

#include "schedules/generators/generator.hpp"
#include "sim/simulate.hpp"
#include "tests/schedules/generators/shapes.hpp"
#include "tests/support/timelines.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::for_every_shape;
using test::schedule_of;
using test::words_of;

// 1F1B of two stages and two microbatches, ops of 10 and messages of 1:
//   rank 0: F0 0..10, F1 10..20,            B0 32..42,            B1 52..62
//   rank 1:           F0 11..21, B0 21..31, F1 31..41, B1 41..51
LoweredSchedule two_by_two() {
  return lower(schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"}));
}
CostModel tens() {
  CostModel cost = unit_costs({Duration{10}, Duration{10}, Duration{10}, {}, {}, Duration{10}});
  cost.link.latency = Duration{1};
  return cost;
}
ComputeSpan& span(Timeline& timeline, std::size_t rank, std::size_t position) {
  return timeline.ranks[rank].compute[position];
}
// Everything of a rank from `position` on happens so much later.
void delay(Timeline& timeline, std::size_t rank, std::size_t position, Duration by) {
  for (std::size_t i = position; i < timeline.ranks[rank].compute.size(); ++i) {
    span(timeline, rank, i).begin = span(timeline, rank, i).begin + by;
    span(timeline, rank, i).end = span(timeline, rank, i).end + by;
  }
}

// What the simulator lets begin, begins when its dependencies allow it.
TEST(ExecutorOverhead, OfASimulatedStepIsNothing) {
  for (const Generator* family : generators()) {
    for_every_shape(*family, 4, [&](const Shape& shape) {
      for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
        const LoweredSchedule schedule =
            make_lowered(*family, shape, {placement, 1 + shape.microbatches % 2});
        CostModel cost = tens();
        for (StageCost& stage : cost.stages) stage.gradient_reduction = Duration{17};
        const Timeline timeline = simulate(schedule, cost);
        const ExecutorOverhead overhead = executor_overhead(schedule, timeline);
        ASSERT_EQ(overhead.gaps, Duration{})
            << words_of(*family, shape) << " before "
            << (overhead.before ? to_string(*overhead.before) : "a reduction");
        TimePoint end;
        for (const RankTimeline& rank : timeline.ranks) {
          end = std::max(end, rank.compute.back().end);
          for (const CollectiveSpan& one : rank.collectives) end = std::max(end, one.end);
        }
        ASSERT_EQ(overhead.step, end - TimePoint{}) << words_of(*family, shape);
      }
    });
  }
}

// Rank 1's last backward begins 2 after its forward has ended, so its gradient arrives at 54 instead of 52;
// rank 0's, which waits for it, begins 3 later still.
TEST(ExecutorOverhead, SumsTheGapsAlongTheCriticalPath) {
  const LoweredSchedule schedule = two_by_two();
  Timeline timeline = simulate(schedule, tens());
  const TimePoint end = span(timeline, 0, 3).end;
  delay(timeline, 1, 3, Duration{2});
  for (MessageSpan& message : timeline.messages) {
    if (message.send != Op{Stage{1}, Microbatch{1}, OpKind::send_backward}) continue;
    message.send_ready = message.send_ready + Duration{2};
    message.begin = message.begin + Duration{2};
    message.end = message.end + Duration{2};
  }
  delay(timeline, 0, 3, Duration{5});
  const ExecutorOverhead overhead = executor_overhead(schedule, timeline);
  EXPECT_EQ(overhead.gaps, Duration{5});
  EXPECT_EQ(overhead.longest, Duration{3});
  EXPECT_EQ(overhead.rank, Rank{0});
  EXPECT_EQ(overhead.before, span(timeline, 0, 3).action);
  EXPECT_EQ(overhead.step, end + Duration{5} - TimePoint{});
  EXPECT_DOUBLE_EQ(overhead.share(), 5.0 / static_cast<double>(overhead.step.ns));
}

// Rank 0's second forward has time: its output arrives at 21, and rank 1 takes it up at 31.
TEST(ExecutorOverhead, AGapThatDelaysNobodyDoesNotCount) {
  const LoweredSchedule schedule = two_by_two();
  Timeline timeline = simulate(schedule, tens());
  span(timeline, 0, 1).begin = span(timeline, 0, 1).begin + Duration{4};
  span(timeline, 0, 1).end = span(timeline, 0, 1).end + Duration{4};
  EXPECT_EQ(executor_overhead(schedule, timeline).gaps, Duration{});
}

// A slow message is communication, whatever it waits for on its way.
TEST(ExecutorOverhead, LeavesOutWhatMessagesTake) {
  const LoweredSchedule schedule = two_by_two();
  CostModel cost = tens();
  cost.link.latency = Duration{100};
  EXPECT_EQ(executor_overhead(schedule, simulate(schedule, cost)).gaps, Duration{});
}

// DualPipe's stages have two owners. A sum of gradients that begins 6 after both owners' last actions is the
// step's end, and nothing of the schedule asks for the wait.
TEST(ExecutorOverhead, CountsTheGapBeforeAReduction) {
  const LoweredSchedule schedule = make_lowered(generator("dualpipe"), {2, 4, {}, {}}, {});
  CostModel cost = tens();
  for (StageCost& stage : cost.stages) stage.gradient_reduction = Duration{17};
  Timeline timeline = simulate(schedule, cost);
  TimePoint last;
  for (const RankTimeline& rank : timeline.ranks) {
    for (const CollectiveSpan& one : rank.collectives) last = std::max(last, one.end);
  }
  for (RankTimeline& rank : timeline.ranks) {
    for (CollectiveSpan& one : rank.collectives) {
      if (one.end != last) continue;
      one.begin = one.begin + Duration{6};
      one.end = one.end + Duration{6};
    }
  }
  const ExecutorOverhead overhead = executor_overhead(schedule, timeline);
  EXPECT_EQ(overhead.gaps, Duration{6});
  EXPECT_EQ(overhead.before, std::nullopt);
}

}  // namespace
}  // namespace plumb
