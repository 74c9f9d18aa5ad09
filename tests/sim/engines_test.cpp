// Every generator x small shapes x random costs: the engines against each other, against the longest path
// that Boost.Graph finds, and against the rules themselves, read off the Timeline.
#include "schedules/generators/generator.hpp"
#include "schedules/ir/dependencies.hpp"
#include "sim/critical_path.hpp"
#include "sim/dag.hpp"
#include "sim/program.hpp"
#include "sim/replay.hpp"
#include "sim/simulate.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <random>

#include <gtest/gtest.h>

namespace plumb {
namespace {

// std::mt19937_64 gives the same numbers everywhere; distributions don't, so there is none.
std::int64_t pick(std::mt19937_64& random, std::int64_t below) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(below));
}

// Costs that differ from stage to stage and link to link; two segments on two lanes in half of the recipes.
CostModel random_costs(std::mt19937_64& random, const LoweredSchedule& schedule) {
  CostModel cost;
  cost.classes = {"gemm", "all_to_all", "message"};
  for (std::uint32_t s = 0; s < schedule.stages; ++s) {
    StageCost stage;
    for (OpCost* op : {&stage.forward, &stage.backward_input, &stage.backward_weight, &stage.backward}) {
      op->recipe.push_back({Lane::compute, Duration{1 + pick(random, 50)}, WorkClass{0}, "gemm"});
      if (pick(random, 2)) {
        op->recipe.push_back(
            {Lane::communication, Duration{1 + pick(random, 30)}, WorkClass{1}, "all_to_all"});
        op->recipe.push_back({Lane::compute, Duration{pick(random, 20)}, WorkClass{0}, "gemm"});
      }
    }
    stage.gradient_reduction = Duration{pick(random, 40)};
    cost.stages.push_back(stage);
  }
  cost.link.latency = Duration{pick(random, 30)};
  for (std::uint32_t r = 0; r + 1 < schedule.ranks(); ++r) {
    cost.links[{Rank{r}, Rank{r + 1}}].latency = Duration{pick(random, 60)};
  }
  if (pick(random, 2)) cost.any_pair = Duration{1 + pick(random, 120)};
  return cost;
}

// Calls `body` with every generator at small shapes in one placement, and costs of its own.
void for_every_small_schedule(CommPlacement placement,
                              const std::function<void(const LoweredSchedule&, const CostModel&)>& body) {
  std::mt19937_64 random(20240601);
  int schedules = 0;
  for (const Generator* generator : generators()) {
    for (std::uint32_t ranks = 2; ranks <= 5; ++ranks) {
      for (std::uint32_t microbatches = ranks; microbatches <= 3 * ranks; ++microbatches) {
        const Shape shape{ranks, microbatches, generator->default_chunks, {}};
        if (generator->refuse && generator->refuse(shape)) continue;
        const LoweredSchedule lowered =
            make_lowered(*generator, {ranks, microbatches, {}, {}}, {placement, 1});
        SCOPED_TRACE(lowered.name + " " + std::to_string(ranks) + "x" + std::to_string(microbatches));
        body(lowered, random_costs(random, lowered));
        ++schedules;
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
  EXPECT_GT(schedules, 200);
}

TEST(Engines, TheReplayEqualsBoostsLongestPathAndItsOwnRecostedForm) {
  for (const PairRelease release : {PairRelease::atomic, PairRelease::forward_first}) {
    ExecutionOptions options;
    options.pair_release = release;
    options.slow_ranks_ppm[Rank{1}] = 1'170'000;
    for_every_small_schedule(CommPlacement::per_op,
                             [&](const LoweredSchedule& lowered, const CostModel& cost) {
                               const Timeline timeline = simulate(lowered, cost, options);
                               const CriticalPath path = critical_path(lowered, cost, options);
                               Replay cached(lowered, cost, options);
                               const Duration makespan = cached.run();
                               for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
                                 const auto& compute = timeline.ranks[r].compute;
                                 ASSERT_EQ(path.begins[r].size(), compute.size());
                                 for (std::uint32_t i = 0; i < compute.size(); ++i) {
                                   ASSERT_EQ(path.begins[r][i], compute[i].begin);
                                   ASSERT_GE(path.slack[r][i], Duration{});
                                   ASSERT_EQ(cached.end(cached.index(Rank{r}, i)), compute[i].end);
                                 }
                               }
                               // The path begins with the step, ends with it, and is without a gap but for
                               // its waits.
                               ASSERT_EQ(path.steps.front().begin, TimePoint{});
                               ASSERT_EQ(path.steps.back().end, TimePoint{} + makespan);
                               for (std::size_t i = 0; i < path.steps.size(); ++i) {
                                 const CriticalStep& step = path.steps[i];
                                 ASSERT_EQ(path.slack[step.rank.value][step.position], Duration{});
                                 if (i > 0) {
                                   ASSERT_EQ(path.steps[i - 1].end + step.wait, step.begin);
                                 }
                               }
                             });
  }
}

TEST(Engines, AnActionMayLastLongerByItsSlackAndNoLonger) {
  for_every_small_schedule(CommPlacement::per_op, [](const LoweredSchedule& lowered, const CostModel& cost) {
    const CriticalPath path = critical_path(lowered, cost);
    Replay cached(lowered, cost);
    const Duration makespan = cached.run();
    for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
      const auto i = static_cast<std::uint32_t>(path.slack[r].size() / 2);
      std::int64_t& duration = cached.durations_ns()[cached.index(Rank{r}, i)];
      const std::int64_t before = duration;
      duration = before + path.slack[r][i].ns;
      ASSERT_EQ(cached.run(), makespan);
      ++duration;
      ASSERT_EQ(cached.run(), makespan + Duration{1});
      duration = before;
    }
  });
}

TEST(Engines, WithNothingSharedTheEventDrivenOnesEqualTheReplay) {
  for (const PairRelease release : {PairRelease::atomic, PairRelease::forward_first}) {
    ExecutionOptions options;
    options.pair_release = release;
    for_every_small_schedule(CommPlacement::per_op, [&](const LoweredSchedule& lowered, CostModel cost) {
      const Dag dag = build_dag(lowered, cost, options);
      std::vector<std::int64_t> ends(dag.nodes.size());
      replay(dag, ends);
      Program program = compile(lowered, dag, options);
      run_links(program, dag, options);
      for (std::size_t n = 0; n < ends.size(); ++n) ASSERT_EQ(program.actions[n].end, ends[n]);

      // Messages that slow nothing, in the engine that could.
      const Timeline expected = simulate(lowered, cost, options);
      cost.message_class = WorkClass{2};
      cost.slowdown_ppm.assign(3, std::vector<std::uint32_t>(3, 1'000'000));
      ExecutionOptions slowing = options;
      slowing.messages_slow_compute = true;
      ASSERT_EQ(simulate(lowered, cost, slowing), expected);
    });
  }
}

// What a rule says about when a message may begin, and whether that is when it did.
struct Ready {
  TimePoint at;
  const MessageSpan* span;
};

// Reads the rules off a timeline: actions begin with the later of their rank and their inputs, groups end
// with their last message, every message begins when it may and its link is free, first come first served.
void expect_rules(const LoweredSchedule& lowered, const Timeline& timeline, bool shared, bool half) {
  std::map<Op, const MessageSpan*> by_send;
  for (const MessageSpan& span : timeline.messages) by_send[span.send] = &span;
  const auto span_of = [&](const Op& message) { return by_send.at(send_of(carried_by(message))); };
  std::map<Op, bool> meets;
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const LoweredRank& rank = lowered.per_rank[r];
    TimePoint at;
    std::size_t next = 0;
    for (const Step& step : rank.steps) {
      if (const auto* action = std::get_if<Action>(&step)) {
        const ComputeSpan& span = timeline.ranks[r].compute[next++];
        TimePoint begin = at;
        for (const Op& op : *action) {
          for (const Need& need : needs_of(op, lowered.stages)) {
            const auto found = by_send.find(send_of(need));
            if (need.stage != op.stage && found != by_send.end()) begin = std::max(begin, found->second->end);
          }
        }
        ASSERT_EQ(span.begin, begin) << to_string(*action);
        at = span.end;
      } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
        TimePoint end = at;
        for (const Message& message : rank.messages_of(*batch)) {
          const MessageSpan* span = span_of(message.op);
          ASSERT_EQ(is_send(message.op.kind) ? span->send_ready : span->receive_posted, at);
          if (is_recv(message.op.kind)) meets[span->send] = batch->waited_together;
          end = std::max(end, span->end);
        }
        if (batch->waited_together) at = end;
      }
    }
  }
  std::map<std::pair<Rank, Rank>, std::vector<Ready>> links;
  for (const MessageSpan& span : timeline.messages) {
    const TimePoint ready =
        meets.at(span.send) ? std::max(span.send_ready, span.receive_posted) : span.send_ready;
    const bool swap = half && span.to < span.from;
    links[swap ? std::pair(span.to, span.from) : std::pair(span.from, span.to)].push_back({ready, &span});
  }
  for (auto& [ranks, messages] : links) {
    std::stable_sort(messages.begin(), messages.end(), [](const Ready& a, const Ready& b) {
      return std::pair(a.span->begin, a.span->end) < std::pair(b.span->begin, b.span->end);
    });
    TimePoint free;
    TimePoint last;
    for (const Ready& message : messages) {
      ASSERT_GE(message.at, last) << "first come first served";
      last = message.at;
      ASSERT_EQ(message.span->begin, shared ? std::max(message.at, free) : message.at);
      free = message.span->end;
    }
  }
}

TEST(Engines, LinksAndGroupsFollowTheRules) {
  for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
    for (const bool shared : {false, true}) {
      for (const Duplex duplex : {Duplex::full, Duplex::half}) {
        if (duplex == Duplex::half && !shared) continue;  // half duplex shares
        ExecutionOptions options;
        options.links_are_shared = shared;
        options.duplex = duplex;
        for_every_small_schedule(placement, [&](const LoweredSchedule& lowered, CostModel cost) {
          for (auto& [ranks, link] : cost.links) link.latency.ns += 1;  // a message of no length has no order
          cost.link.latency.ns += 1;
          const Timeline timeline = simulate(lowered, cost, options);
          expect_rules(lowered, timeline, shared, duplex == Duplex::half);
          ASSERT_EQ(simulate(lowered, cost, options), timeline);
        });
      }
    }
  }
}

TEST(Engines, ATransferThatOccupiesComputeRunsBesideNoAction) {
  for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
    for (const bool shared : {false, true}) {
      ExecutionOptions options;
      options.transfers_occupy_compute = true;
      options.links_are_shared = shared;
      for_every_small_schedule(placement, [&](const LoweredSchedule& lowered, const CostModel& cost) {
        const Timeline timeline = simulate(lowered, cost, options);
        const Timeline free = simulate(lower(without_messages(lowered)), cost);
        for (const MessageSpan& message : timeline.messages) {
          ASSERT_GE(message.begin, message.send_ready);
          for (const Rank rank : {message.from, message.to}) {
            for (const ComputeSpan& span : timeline.ranks[rank.value].compute) {
              ASSERT_FALSE(span.begin < message.end && message.begin < span.end) << to_string(message.send);
            }
          }
        }
        for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
          for (std::size_t i = 0; i < timeline.ranks[r].compute.size(); ++i) {
            ASSERT_GE(timeline.ranks[r].compute[i].begin, free.ranks[r].compute[i].begin);
          }
        }
        ASSERT_EQ(simulate(lowered, cost, options), timeline);
      });
    }
  }
}

// With one class of work and actions of one piece, an action of `work` that messages disturbed for `beside`
// of its time had beside / slowdown of work done in it and the rest outside; it ends on the first whole
// nanosecond at which all is done. The same for a message beside computation.
TEST(Engines, DisturbedActionsAndMessagesDoTheirWorkAndNoMore) {
  ExecutionOptions options;
  options.messages_slow_compute = true;
  for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
    for (const bool shared : {false, true}) {
      options.links_are_shared = shared;
      for_every_small_schedule(placement, [&](const LoweredSchedule& lowered, CostModel cost) {
        for (StageCost& stage : cost.stages) {
          for (OpCost* op :
               {&stage.forward, &stage.backward_input, &stage.backward_weight, &stage.backward}) {
            op->recipe.resize(1);
            op->recipe[0].duration.ns *= 1000;
          }
        }
        cost.any_pair = Duration{70'000};
        cost.link.latency.ns *= 1000;
        for (auto& [ranks, link] : cost.links) link.latency.ns *= 1000;
        cost.message_class = WorkClass{2};
        cost.slowdown_ppm = {{1'000'000, 1'000'000, 1'250'000}, {}, {1'600'000}};
        const Timeline timeline = simulate(lowered, cost, options);
        using Interval = std::pair<std::int64_t, std::int64_t>;
        std::vector<std::vector<Interval>> on_the_way(lowered.ranks());
        for (const MessageSpan& m : timeline.messages) {
          on_the_way[m.from.value].emplace_back(m.begin.ns, m.end.ns);
          on_the_way[m.to.value].emplace_back(m.begin.ns, m.end.ns);
        }
        // Length of [begin, end) that the union of the intervals covers.
        const auto covered = [](std::int64_t begin, std::int64_t end, std::vector<Interval> intervals) {
          std::sort(intervals.begin(), intervals.end());
          std::int64_t sum = 0;
          std::int64_t at = begin;
          for (const auto& [from, to] : intervals) {
            const std::int64_t a = std::max(at, from);
            const std::int64_t b = std::min(end, to);
            if (a >= b) continue;
            sum += b - a;
            at = b;
          }
          return sum;
        };
        for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
          for (const ComputeSpan& span : timeline.ranks[r].compute) {
            const double work = static_cast<double>(
                span.action.is_pair()
                    ? cost.any_pair->ns
                    : total(cost.stage(span.action.first().stage).of(span.action.first().kind)).ns);
            const std::int64_t beside = covered(span.begin.ns, span.end.ns, on_the_way[r]);
            const double done = static_cast<double>(beside) / 1.25 +
                                static_cast<double>(span.end.ns - span.begin.ns - beside);
            ASSERT_NEAR(done, work, 1.0) << to_string(span.action);
          }
        }
        for (const MessageSpan& m : timeline.messages) {
          std::vector<Interval> computing;
          for (const Rank rank : {m.from, m.to}) {
            for (const ComputeSpan& span : timeline.ranks[rank.value].compute) {
              computing.emplace_back(span.begin.ns, span.end.ns);
            }
          }
          const std::int64_t beside = covered(m.begin.ns, m.end.ns, computing);
          const double done =
              static_cast<double>(beside) / 1.6 + static_cast<double>(m.end.ns - m.begin.ns - beside);
          ASSERT_NEAR(done, static_cast<double>(cost.link_between(m.from, m.to).latency.ns), 1.0)
              << to_string(m.send);
        }
        ASSERT_EQ(simulate(lowered, cost, options), timeline);
      });
    }
  }
}

}  // namespace
}  // namespace plumb
