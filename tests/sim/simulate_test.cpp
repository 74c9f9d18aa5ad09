// The rules of the simulator, each on a case small enough to work out by hand.
#include "sim/simulate.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/lower.hpp"
#include "sim/idle.hpp"
#include "tests/support/reference.hpp"
#include "tests/support/timelines.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::parse_action;
using test::schedule_of;

CostModel flat(std::int64_t forward, std::int64_t input, std::int64_t weight, std::int64_t p2p = 0) {
  return unit_costs({Duration{forward}, Duration{input}, Duration{weight}, {}, {}, Duration{p2p}});
}

// [begin, end) of the action on its rank.
std::pair<std::int64_t, std::int64_t> when(const Timeline& timeline, std::uint32_t rank,
                                           const std::string& token) {
  const Action action = parse_action(token);
  for (const ComputeSpan& span : timeline.ranks[rank].compute) {
    if (span.action == action) return {span.begin.ns, span.end.ns};
  }
  ADD_FAILURE() << "no " << token << " on rank " << rank;
  return {};
}

const MessageSpan& message(const Timeline& timeline, const std::string& token) {
  const Op op = parse_op(token).value();
  for (const MessageSpan& span : timeline.messages) {
    if (span.send == op) return span;
  }
  throw std::runtime_error("no message " + token);
}

using Span = std::pair<std::int64_t, std::int64_t>;

const Schedule two_ranks = schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"});

// F = 10, B = 30, 5 on every edge:
//   rank 0  0F0 0-10   0F1 10-20              0B0 60-90         0B1 105-135
//   rank 1             1F0 15-25  1B0 25-55   1F1 55-65  1B1 65-95
// 0B0 waits for 1B0 (55) + 5 = 60; 0B1 for 1B1 (95) + 5 = 100, then until 0B0 ends at 90: 100.
TEST(Simulate, AStartIsTheLaterOfTheRankAndItsInputs) {
  const Timeline timeline = simulate(lower(two_ranks), flat(10, 10, 20, 5));
  EXPECT_EQ(when(timeline, 0, "0F0"), Span(0, 10));
  EXPECT_EQ(when(timeline, 0, "0F1"), Span(10, 20));
  EXPECT_EQ(when(timeline, 1, "1F0"), Span(15, 25));
  EXPECT_EQ(when(timeline, 1, "1B0"), Span(25, 55));
  EXPECT_EQ(when(timeline, 1, "1F1"), Span(55, 65));
  EXPECT_EQ(when(timeline, 1, "1B1"), Span(65, 95));
  EXPECT_EQ(when(timeline, 0, "0B0"), Span(60, 90));
  EXPECT_EQ(when(timeline, 0, "0B1"), Span(100, 130));
}

TEST(Simulate, AMessageLeavesWhenItsProducerEndsAndTheConsumerKnowsIt) {
  const Timeline timeline = simulate(lower(two_ranks), flat(10, 10, 20, 5));
  const MessageSpan& sent = message(timeline, "1SEND_B0");
  EXPECT_EQ(sent.from, Rank{1});
  EXPECT_EQ(sent.to, Rank{0});
  EXPECT_EQ(sent.send_ready.ns, 55);
  EXPECT_EQ(sent.begin.ns, 55);
  EXPECT_EQ(sent.end.ns, 60);
  const ComputeSpan& span = timeline.ranks[0].compute[2];
  EXPECT_EQ(span.last_input, parse_op("1B0"));
  EXPECT_EQ(span.last_input_sent.ns, 55);
  EXPECT_FALSE(timeline.ranks[0].compute[0].last_input.has_value());
  EXPECT_EQ(timeline.messages.size(), 4u);
}

// Rank 1 lasts 1.5 times as long: 1F0 15-30, 1B0 30-75. The link back takes 2 times as long: 0B0 at 75 + 10.
TEST(Simulate, SlowRanksAndSlowLinksTakeTheirShareMore) {
  ExecutionOptions options;
  options.slow_ranks_ppm[Rank{1}] = 1'500'000;
  options.slow_links_ppm[{Rank{1}, Rank{0}}] = 2'000'000;
  const Timeline timeline = simulate(lower(two_ranks), flat(10, 10, 20, 5), options);
  EXPECT_EQ(when(timeline, 1, "1F0"), Span(15, 30));
  EXPECT_EQ(when(timeline, 1, "1B0"), Span(30, 75));
  EXPECT_EQ(when(timeline, 0, "0B0"), Span(85, 115));
}

TEST(Simulate, ASlowRankRoundsHalfUp) {
  ExecutionOptions options;
  options.slow_ranks_ppm[Rank{0}] = 1'050'000;  // 10 x 1.05 = 10.5
  EXPECT_EQ(when(simulate(lower(two_ranks), flat(10, 10, 20), options), 0, "0F0"), Span(0, 11));
}

TEST(Simulate, AnOverrideReplacesOneActionsDuration) {
  CostModel cost = flat(10, 10, 20, 5);
  cost.overrides.push_back({Rank{1}, parse_action("1B0"), Duration{7}});
  const Timeline timeline = simulate(lower(two_ranks), cost);
  EXPECT_EQ(when(timeline, 1, "1B0"), Span(25, 32));
  EXPECT_EQ(when(timeline, 1, "1B1"), Span(42, 72));
}

TEST(Simulate, RefusesOverridesThatNameNothing) {
  CostModel cost = flat(10, 10, 20);
  cost.overrides = {{Rank{0}, parse_action("1B0"), Duration{7}}};  // stage 1 lives on rank 1
  EXPECT_THROW(simulate(lower(two_ranks), cost), BadInput);
  cost.overrides = {{Rank{2}, parse_action("1B0"), Duration{7}}};
  EXPECT_THROW(simulate(lower(two_ranks), cost), BadInput);
  cost.overrides = {{Rank{1}, parse_action("1B0"), Duration{7}}, {Rank{1}, parse_action("1B0"), Duration{7}}};
  EXPECT_THROW(simulate(lower(two_ranks), cost), BadInput);
}

TEST(Simulate, RefusesCostsThatDoNotFit) {
  CostModel cost = flat(10, 10, 20);
  cost.stages.resize(3, cost.stages.front());
  EXPECT_THROW(simulate(lower(two_ranks), cost), BadInput);
  EXPECT_THROW(simulate(lower(two_ranks), flat(-1, 10, 20)), BadInput);
  EXPECT_THROW(simulate(lower(two_ranks), flat(std::int64_t{1} << 62, 10, 20)), BadInput);
  cost = flat(10, 10, 20);
  cost.link.bandwidth = BytesPerSecond{0};
  EXPECT_THROW(simulate(lower(two_ranks), cost), BadInput);
  ExecutionOptions options;
  options.slow_ranks_ppm[Rank{2}] = 1'100'000;
  EXPECT_THROW(simulate(lower(two_ranks), flat(10, 10, 20), options), BadInput);
}

// 1,000 bytes at 400 B/s are 2.5 s on top of a latency of 1 s.
TEST(Simulate, AMessageTakesLatencyAndBytesOverBandwidth) {
  CostModel cost = flat(10, 10, 20);
  cost.stages[0].activation_message = Bytes{1000};
  cost.link = {Duration{1'000'000'000}, BytesPerSecond{400}};
  const Timeline timeline = simulate(lower(two_ranks), cost);
  EXPECT_EQ(message(timeline, "0SEND_F0").end - message(timeline, "0SEND_F0").begin, Duration{3'500'000'000});
  EXPECT_EQ(message(timeline, "0SEND_F0").bytes, Bytes{1000});
  EXPECT_EQ(message(timeline, "1SEND_B0").end - message(timeline, "1SEND_B0").begin, Duration{1'000'000'000});
}

// Rank 0 runs the pair (0F1;0B0) for 30 units from when 1B0's gradient arrives; its forward alone lasts 10. F
// = 10, B = 30: 0F0 0-10, 1F0 10-20, 1B0 20-50, pair 50-80. Atomic: 1F1 begins at 80; forward first: at 60.
TEST(Simulate, APairReleasesItsForwardAtItsEndUnlessToldOtherwise) {
  const Schedule schedule = schedule_of("overlap", 2, 2, {"0F0 (0F1;0B0)OVERLAP_F_B 0B1", "1F0 1B0 1F1 1B1"});
  CostModel cost = flat(10, 10, 20);
  cost.any_pair = Duration{30};
  const LoweredSchedule lowered = lower(schedule);
  EXPECT_EQ(when(simulate(lowered, cost), 1, "1F1"), Span(80, 90));
  ExecutionOptions options;
  options.pair_release = PairRelease::forward_first;
  const Timeline early = simulate(lowered, cost, options);
  EXPECT_EQ(when(early, 0, "(0F1;0B0)OVERLAP_F_B"), Span(50, 80));
  EXPECT_EQ(when(early, 1, "1F1"), Span(60, 70));
  EXPECT_EQ(message(early, "0SEND_F1").send_ready.ns, 60);
  // A slow rank stretches the forward's part with the pair: 1.5 x 10 after its begin at 50 + 5 (0F0 to 15).
  options.slow_ranks_ppm[Rank{0}] = 1'500'000;
  EXPECT_EQ(when(simulate(lowered, cost, options), 1, "1F1"), Span(70, 80));
  // The event-driven engine releases it at the same time.
  options = {};
  options.pair_release = PairRelease::forward_first;
  options.links_are_shared = true;
  EXPECT_EQ(simulate(lowered, cost, options), early);
}

TEST(Simulate, AMeasuredPairWinsOverTheFlatOneAndThatOverTheDerivedOne) {
  const LoweredSchedule lowered =
      lower(schedule_of("overlap", 2, 2, {"0F0 (0F1;0B0)OVERLAP_F_B 0B1", "1F0 1B0 1F1 1B1"}));
  CostModel cost = flat(10, 10, 20);
  cost.any_pair.reset();
  const auto pair = [&] {
    const auto [begin, end] = when(simulate(lowered, cost), 0, "(0F1;0B0)OVERLAP_F_B");
    return end - begin;
  };
  EXPECT_EQ(pair(), 40);  // both on the compute lane: one after the other
  cost.any_pair = Duration{33};
  EXPECT_EQ(pair(), 33);
  cost.measured_pairs[{Stage{0}, Stage{0}}] = Duration{31};
  EXPECT_EQ(pair(), 31);
}

// Two segments of 10 and 20; the second rank is slow by 1.1: 11 and 33 - 11 = 22.
TEST(Simulate, SegmentsTileTheirAction) {
  CostModel cost = flat(10, 10, 20);
  cost.stages[0].forward.recipe = {{Lane::compute, Duration{10}, WorkClass{0}, "attention"},
                                   {Lane::communication, Duration{20}, WorkClass{0}, "dispatch"}};
  ExecutionOptions options;
  options.slow_ranks_ppm[Rank{1}] = 1'100'000;
  const LoweredSchedule lowered = lower(two_ranks);
  const Timeline timeline = simulate(lowered, cost, options);
  const auto& segments = timeline.ranks[1].segments;
  ASSERT_EQ(segments.size(), 4u);
  const Op op = parse_op("1F0").value();
  EXPECT_EQ(segments[0], (SegmentSpan{op, Lane::compute, "attention", TimePoint{30}, TimePoint{41}}));
  EXPECT_EQ(segments[1], (SegmentSpan{op, Lane::communication, "dispatch", TimePoint{41}, TimePoint{63}}));
  EXPECT_TRUE(simulate(lowered, cost, options, Detail::actions).ranks[1].segments.empty());
}

// Four data-parallel copies, a reduction of 100 a stage: rank 1's last weight gradient ends at 95, rank 0's
// at 130.
TEST(Simulate, AReductionFollowsTheLastWeightGradientAndOnlyLengthensTheStep) {
  CostModel cost = flat(10, 10, 20, 5);
  cost.stages[0].gradient_reduction = Duration{100};
  const LoweredSchedule lowered = lower(two_ranks, {CommPlacement::per_op, 4});
  const Timeline timeline = simulate(lowered, cost);
  const Op stage0{Stage{0}, Microbatch{0}, OpKind::reduce_grad};
  const Op stage1{Stage{1}, Microbatch{0}, OpKind::reduce_grad};
  EXPECT_EQ(timeline.ranks[0].collectives,
            (std::vector<CollectiveSpan>{{stage0, TimePoint{130}, TimePoint{230}}}));
  EXPECT_EQ(timeline.ranks[1].collectives,
            (std::vector<CollectiveSpan>{{stage1, TimePoint{95}, TimePoint{195}}}));
}

// Both ranks hold both stages (a two-way schedule on two ranks, backwards fused), F = 10, B = 30:
//   rank 0  0F0 0-10   1F1 10-20  1B1 20-50  0B0 50-80
//   rank 1  0F1 0-10   1F0 10-20  1B0 20-50  0B1 50-80
// Stage 1 is complete on both at 50, stage 0 at 80: reductions 50-150 and, one at a time, 150-250.
TEST(Simulate, ARankTakesPartInOneReductionAtATime) {
  const Schedule schedule = schedule_of("two way", 2, 2, {"0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"});
  CostModel cost = flat(10, 10, 20);
  cost.stages[0].gradient_reduction = Duration{100};
  const Timeline timeline = simulate(lower(schedule), cost);
  const Op stage0{Stage{0}, Microbatch{0}, OpKind::reduce_grad};
  const Op stage1{Stage{1}, Microbatch{0}, OpKind::reduce_grad};
  const std::vector<CollectiveSpan> expected{{stage1, TimePoint{50}, TimePoint{150}},
                                             {stage0, TimePoint{150}, TimePoint{250}}};
  EXPECT_EQ(timeline.ranks[0].collectives, expected);
  EXPECT_EQ(timeline.ranks[1].collectives, expected);
  EXPECT_EQ(step_bounds(timeline).end.ns, 80);
}

// Batched: a group is launched when the rank gets there and waited for as a whole. F = 10, B = 30, message 5.
//   rank 0  0F0 0-10, [send F0] meets rank 1's first group at 10, 10-15; 0F1 15-25, [send F1, receive B0].
//   rank 1  [receive F0] from 0, done 15; 1F0 15-25, 1B0 25-55, [send B0, receive F1] from 55: both meet,
//   55-60. rank 0  0B0 60-90, then [receive B1]; rank 1 1F1 60-70, 1B1 70-100, [send B1] 100-105; 0B1
//   105-135.
TEST(Simulate, AGroupIsWaitedForAsAWhole) {
  const LoweredSchedule lowered = lower(two_ranks, {CommPlacement::batched, 1});
  const Timeline timeline = simulate(lowered, flat(10, 10, 20, 5));
  EXPECT_EQ(when(timeline, 0, "0F1"), Span(15, 25));
  EXPECT_EQ(when(timeline, 1, "1F0"), Span(15, 25));
  EXPECT_EQ(when(timeline, 1, "1B0"), Span(25, 55));
  EXPECT_EQ(when(timeline, 0, "0B0"), Span(60, 90));
  EXPECT_EQ(when(timeline, 1, "1F1"), Span(60, 70));
  EXPECT_EQ(when(timeline, 0, "0B1"), Span(105, 135));
  const MessageSpan& sent = message(timeline, "0SEND_F1");
  EXPECT_EQ(sent.send_ready.ns, 25);
  EXPECT_EQ(sent.receive_posted.ns, 55);
  EXPECT_EQ(sent.begin.ns, 55);
  EXPECT_EQ(sent.end.ns, 60);
}

const Schedule gpipe2 = schedule_of("gpipe", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1"});

// F = 10, messages of 25: on a link of their own 0F0's and 0F1's outputs arrive at 35 and 45. On a shared one
// the second begins when the first is there, at 35, and arrives at 60.
TEST(Simulate, MessagesOnASharedLinkFollowEachOther) {
  const LoweredSchedule lowered = lower(gpipe2);
  EXPECT_EQ(when(simulate(lowered, flat(10, 10, 20, 25)), 1, "1F1"), Span(45, 55));
  ExecutionOptions options;
  options.links_are_shared = true;
  const Timeline timeline = simulate(lowered, flat(10, 10, 20, 25), options);
  EXPECT_EQ(when(timeline, 1, "1F0"), Span(35, 45));
  EXPECT_EQ(when(timeline, 1, "1F1"), Span(60, 70));
  EXPECT_EQ(message(timeline, "0SEND_F1").send_ready.ns, 20);
  EXPECT_EQ(message(timeline, "0SEND_F1").begin.ns, 35);
}

// 1F1B, F = 10, B = 30, messages of 40. 0F0 sends 10-50, 0F1 sends 50-90 (shared); 1F0 50-60, 1B0 60-90 and
// its gradient is ready at 90. Full duplex: 90-130 either way. To make directions collide messages of 60 are
// needed: 0F0 10-70, 0F1 70-130; 1F0 70-80, 1B0 80-110, ready at 110: full duplex 110-170, half duplex
// 130-190.
TEST(Simulate, HalfDuplexDirectionsTakeTurns) {
  const LoweredSchedule lowered = lower(two_ranks);
  ExecutionOptions options;
  options.links_are_shared = true;
  EXPECT_EQ(message(simulate(lowered, flat(10, 10, 20, 60), options), "1SEND_B0").end.ns, 170);
  options.duplex = Duplex::half;
  const Timeline half = simulate(lowered, flat(10, 10, 20, 60), options);
  EXPECT_EQ(message(half, "1SEND_B0").begin.ns, 130);
  EXPECT_EQ(message(half, "1SEND_B0").end.ns, 190);
  EXPECT_EQ(when(half, 0, "0B0"), Span(190, 220));
}

// Transfers that keep both ranks from computing: F = 10, B = 30, messages of 5.
//   0F0 0-10; its transfer may begin at 10, both ranks are free: 10-15. 0F1 15-25 beside 1F0 15-25. At 25
//   0F1's transfer may begin and both are between actions: 25-30; only then 1B0 30-60 (it was ready at 25).
//   Its gradient 60-65 (rank 0 waits): 0B0 65-95, 1F1 65-75, 1B1 75-105, gradient 105-110, 0B1 110-140.
TEST(Simulate, ATransferThatOccupiesComputeKeepsBothRanksFromStarting) {
  ExecutionOptions options;
  options.transfers_occupy_compute = true;
  const Timeline timeline = simulate(lower(two_ranks), flat(10, 10, 20, 5), options);
  EXPECT_EQ(when(timeline, 0, "0F1"), Span(15, 25));
  EXPECT_EQ(when(timeline, 1, "1F0"), Span(15, 25));
  EXPECT_EQ(message(timeline, "0SEND_F1").begin.ns, 25);
  EXPECT_EQ(when(timeline, 1, "1B0"), Span(30, 60));
  EXPECT_EQ(when(timeline, 0, "0B0"), Span(65, 95));
  EXPECT_EQ(when(timeline, 1, "1F1"), Span(65, 75));
  EXPECT_EQ(when(timeline, 1, "1B1"), Span(75, 105));
  EXPECT_EQ(when(timeline, 0, "0B1"), Span(110, 140));
}

// A transfer that finds its receiver computing waits for it, and so does its sender. GPipe, F = 10 on rank 0
// and 1.6 x 10 = 16 on rank 1, messages of 5: 0F0 0-10, transfer 10-15, then 0F1 15-25 beside 1F0 15-31.
// 0F1's transfer is ready at 25 but rank 1 computes until 31: 31-36. 1F1 36-52.
TEST(Simulate, ATransferThatOccupiesComputeWaitsForTheActionUnderWay) {
  ExecutionOptions options;
  options.transfers_occupy_compute = true;
  options.slow_ranks_ppm[Rank{1}] = 1'600'000;
  const Timeline timeline = simulate(lower(gpipe2), flat(10, 10, 20, 5), options);
  EXPECT_EQ(message(timeline, "0SEND_F1").send_ready.ns, 25);
  EXPECT_EQ(message(timeline, "0SEND_F1").begin.ns, 31);
  EXPECT_EQ(message(timeline, "0SEND_F1").end.ns, 36);
  EXPECT_EQ(when(timeline, 1, "1F1"), Span(36, 52));
}

CostModel disturbing(std::int64_t p2p, std::uint32_t compute_ppm, std::uint32_t message_ppm) {
  CostModel cost = flat(1000, 1000, 2000, p2p);
  cost.classes = {"compute", "message"};
  cost.message_class = WorkClass{1};
  cost.slowdown_ppm = {{1'000'000, compute_ppm}, {message_ppm, 1'000'000}};
  return cost;
}

// F = 1000, messages of 300, compute 1.5 times as long beside a message, messages undisturbed. 0F0 0-1000.
// Its message 1000-1300 beside 0F1: 200 of its 1000 are done by 1300, the other 800 at full speed: 0F1
// 1000-2100. 1F0 begins at 1300; 0F1's message runs 2100-2400 beside it: 800 done by 2100, all 1000 after
// another 200 x 1.5 = 300, at 2400.
TEST(Simulate, AMessageSlowsWhatBothItsRanksCompute) {
  ExecutionOptions options;
  options.messages_slow_compute = true;
  const Timeline timeline = simulate(lower(gpipe2), disturbing(300, 1'500'000, 1'000'000), options);
  EXPECT_EQ(when(timeline, 0, "0F0"), Span(0, 1000));
  EXPECT_EQ(when(timeline, 0, "0F1"), Span(1000, 2100));
  EXPECT_EQ(message(timeline, "0SEND_F1").begin.ns, 2100);
  EXPECT_EQ(message(timeline, "0SEND_F1").end.ns, 2400);
  EXPECT_EQ(when(timeline, 1, "1F0"), Span(1300, 2400));
  EXPECT_EQ(when(timeline, 1, "1F1"), Span(2400, 3400));
}

// The other way round: messages last twice as long beside computation. 0F0's message runs beside 0F1 all
// along: 1000-1600. 0F1's: from 2000, beside 1F0 (1600-2600) until 2600: that is 300 done, so it ends then.
// Rank 0 is idle from 2000, but one computing end is enough.
TEST(Simulate, ComputationSlowsTheMessagesBesideIt) {
  ExecutionOptions options;
  options.messages_slow_compute = true;
  const Timeline timeline = simulate(lower(gpipe2), disturbing(300, 1'000'000, 2'000'000), options);
  EXPECT_EQ(message(timeline, "0SEND_F0").end.ns, 1600);
  EXPECT_EQ(when(timeline, 1, "1F0"), Span(1600, 2600));
  EXPECT_EQ(message(timeline, "0SEND_F1").begin.ns, 2000);
  EXPECT_EQ(message(timeline, "0SEND_F1").end.ns, 2600);
  // Shorter computation leaves the message alone halfway: messages of 400: 0SEND_F0 1000-1800 (beside 0F1
  // until 2000); 1F0 1800-2800; 0SEND_F1 from 2000: 400 done by 2800. With 500: 0SEND_F0 1000-2000; 1F0
  // 2000-3000; 0SEND_F1 2000-3000. With 600: 0SEND_F0 has 500 done when 0F1 ends at 2000, then alone: 2100;
  // 1F0 2100-3100.
  const Timeline longer = simulate(lower(gpipe2), disturbing(600, 1'000'000, 2'000'000), options);
  EXPECT_EQ(message(longer, "0SEND_F0").end.ns, 2100);
  EXPECT_EQ(when(longer, 1, "1F0"), Span(2100, 3100));
}

}  // namespace
}  // namespace plumb
