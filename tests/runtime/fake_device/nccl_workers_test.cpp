// Workers that speak through communicators, as threads that meet over loopback.
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/executor.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/record_exchange.hpp"
#include "runtime/step_record.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/ir/error.hpp"
#include "tests/runtime/cuda/team.hpp"
#include "tests/runtime/fake_device/choices.hpp"
#include "tests/runtime/fake_device/connections.hpp"
#include "tests/support/rank_threads.hpp"

#include <chrono>
#include <exception>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using namespace plumb::test;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;
using testing::UnorderedElementsAre;

TrainingPlan plan_of(const std::string& name, std::uint32_t ranks, CommPlacement placement,
                     std::uint32_t data_parallel = 1) {
  const Shape shape{ranks, 2 * ranks, std::nullopt, std::nullopt};
  return plan_for(make_lowered(generator(name), shape, {placement, data_parallel}), mlp(16), 8,
                  WeightType::fp32);
}

/// Each rank in a thread of its own, with its own rendezvous and worker. What each threw: [rank], empty where
/// nothing.
std::vector<std::string> run(const TrainingPlan& plan, const std::function<void(Team&, Rendezvous&)>& body,
                             const NcclOptions& options = {}) {
  const std::uint32_t count = plan.schedule.ranks() * plan.schedule.data_parallel;
  return run_ranks(count, [&](Rendezvous& rendezvous) -> std::string {
    try {
      Team team;
      team.push_back(make_nccl_worker(plan, rendezvous, options));
      load(team, plan);
      body(team, rendezvous);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  });
}

// In the rank's own thread, to which its rendezvous belongs.
void one_step(Team& team) {
  team.front()->clear_gradients();
  execute(team.front()->program(), *team.front());
}

void expect_unpipelined(const TrainingPlan& plan, const NcclOptions& options = {}) {
  const Unpipelined expected = run_unpipelined_on_gpu(plan, data_of(plan), 1, {});
  std::mutex mutex;
  const auto body = [&](Team& team, Rendezvous&) {
    for (int i = 0; i < 2; ++i) one_step(team);
    const GradientCheck check = compare(team, plan, expected.gradients);
    const std::lock_guard lock(mutex);
    EXPECT_LT(check.max_difference, 1e-13) << check.worst_parameter;
  };
  const std::vector<std::string> errors = run(plan, body, options);
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(NcclWorkers, ComputeWhatNoPipelineComputes) {
  NcclOptions options;
  options.shared_threads = false;
  for (const char* name :
       {"1f1b", "zb-h1", "interleaved-1f1b", "zb-v", "dualpipe", "dualpipe-v", "chimera"}) {
    for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
      SCOPED_TRACE(std::string(name) + (placement == CommPlacement::batched ? " batched" : " per op"));
      expect_unpipelined(plan_of(name, 4, placement), options);
    }
  }
}

// Interleaved schedules also send from the last rank to the first: ways that share ranks in a ring.
TEST(NcclWorkers, WaysThatShareAThreadOfTheHostStayApart) {
  NcclOptions options;
  options.shared_threads = true;
  for (const char* name : {"1f1b", "interleaved-1f1b", "dualpipe", "dualpipe-v"}) {
    SCOPED_TRACE(name);
    expect_unpipelined(plan_of(name, 4, CommPlacement::per_op), options);
  }
  expect_unpipelined(plan_of("interleaved-1f1b", 3, CommPlacement::per_op, 2), options);
}

// Steps of other schedules one after another, as in a validation: ways, sums and batches come and go, and the
// second time a schedule is there all its communicators are.
TEST(NcclWorkers, FollowEachOtherInOneSession) {
  std::mutex mutex;
  for (const bool shared_threads : {false, true}) {
    const std::vector<std::string> errors = run_ranks(4, [&](Rendezvous& rendezvous) -> std::string {
      try {
        const auto session = make_nccl_session();
        NcclOptions options;
        options.session = session.get();
        options.shared_threads = shared_threads;
        for (const char* name : {"1f1b", "dualpipe", "interleaved-1f1b", "zb-v", "dualpipe", "1f1b"}) {
          for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
            const TrainingPlan plan = plan_of(name, 4, placement);
            Team team;
            team.push_back(make_nccl_worker(plan, rendezvous, options));
            load(team, plan);
            one_step(team);
            const Unpipelined expected = run_unpipelined_on_gpu(plan, data_of(plan), 1, {});
            const GradientCheck check = compare(team, plan, expected.gradients);
            const std::lock_guard lock(mutex);
            EXPECT_LT(check.max_difference, 1e-13) << name << ' ' << check.worst_parameter;
          }
        }
      } catch (const std::exception& error) {
        return error.what();
      }
      return "";
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

// Where each has a share or a GPU of its own, messages are received ahead of the place that they go to.
TEST(NcclWorkers, ComputeTheSameWhereMessagesComeAhead) {
  NcclOptions in_shares, on_own_gpus;
  in_shares.shares = 4;
  on_own_gpus.own_gpu = true;
  for (const NcclOptions& options : {in_shares, on_own_gpus}) {
    for (const char* name : {"1f1b", "zb-h1", "interleaved-1f1b", "zb-v", "dualpipe", "dualpipe-v"}) {
      SCOPED_TRACE(name);
      expect_unpipelined(plan_of(name, 4, CommPlacement::per_op), options);
    }
    expect_unpipelined(plan_of("1f1b", 4, CommPlacement::batched), options);
  }
}

TEST(NcclWorkers, CopiesOfAPipelineSumTheirGradients) {
  expect_unpipelined(plan_of("dualpipe", 2, CommPlacement::per_op, 2));
  expect_unpipelined(plan_of("1f1b", 2, CommPlacement::batched, 2));
}

TEST(NcclWorkers, StagesThatShareAMatrixAddUpItsGradients) {
  for (const char* name : {"1f1b", "zb-v", "dualpipe"}) {
    SCOPED_TRACE(name);
    expect_unpipelined(
        plan_for(schedule_of(name, 2, CommPlacement::per_op, 2), gpt2(64), 8, WeightType::fp32));
  }
}

// Three copies on two ranks: all have a product that rank 0 has too, the last ones one more, which rank 0
// lacks. In one piece the loss is that of the choices that the pipeline made.
TEST(NcclWorkers, ComputeAProductInOneWayHoweverTheirTrialsEnd) {
  const TrainingPlan plan = plan_of("1f1b", 2, CommPlacement::per_op, 3);
  std::vector<std::map<std::string, std::string>> choices(6);
  std::vector<std::vector<std::pair<Microbatch, double>>> found(6);
  let_choices_differ(true);
  const std::vector<std::string> errors = run_ranks(6, [&](Rendezvous& rendezvous) -> std::string {
    NcclOptions options;
    options.algorithms = &choices[rendezvous.rank()];
    Team team;
    team.push_back(make_nccl_worker(plan, rendezvous, options));
    load(team, plan);
    one_step(team);
    found[rendezvous.rank()] = team.front()->losses();
    return "";
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(choices[0].size(), 2);
  for (const auto& own : choices) EXPECT_EQ(own, choices[0]);
  const Unpipelined expected = run_unpipelined_on_gpu(plan, data_of(plan), 1, {0, &choices[0]});
  let_choices_differ(false);
  for (std::uint32_t copy = 0; copy < 3; ++copy) {
    for (const auto& [microbatch, loss] : found[2 * copy + 1])
      EXPECT_EQ(loss, expected.losses[copy * plan.schedule.microbatches + microbatch.value]);
  }
}

// A clock of its own in every process: here they are one clock, so a message ends after it was sent.
TEST(NcclWorkers, AreDatedOnOneClock) {
  const TrainingPlan plan = plan_of("1f1b", 3, CommPlacement::per_op);
  const std::vector<std::string> errors = run(plan, [&](Team& team, Rendezvous& rendezvous) {
    one_step(team);
    const std::vector<StepTimes> records = gather_times(rendezvous, team.front()->times());
    if (rendezvous.rank() != 0) return;
    const Timeline timeline = assemble_timeline(plan.schedule, records);
    // Clocks are told apart to within the quickest round trip over loopback, and loaded machines are slow at
    // it.
    const Duration uncertain{1'000'000};
    // Time begins with the first op, as far as that can be told: nothing of rank 0 waits for anybody.
    EXPECT_LE(timeline.ranks[0].compute.front().begin, TimePoint{} + uncertain);
    for (const MessageSpan& message : timeline.messages)
      EXPECT_LE(message.send_ready, message.end + uncertain);
    for (const RankTimeline& rank : timeline.ranks) {
      for (const ComputeSpan& span : rank.compute) EXPECT_LE(span.last_input_sent, span.begin + uncertain);
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

// A rank's process dies, and NCCL finds its connections broken before the rendezvous does.
TEST(NcclWorkers, SayWhoIsGoneWhereNcclKnowsOnlyThatSomebodyIs) {
  const TrainingPlan plan = plan_of("1f1b", 3, CommPlacement::per_op);
  std::mutex mutex;
  std::vector<std::string> told;
  NcclOptions options;
  options.lost = [&](const std::string& why) {
    const std::lock_guard lock(mutex);
    told.push_back(why);
  };
  Team dead;  // a device's memory is freed when all of it is done, which a dead process does not wait for
  const std::vector<std::string> errors = run(
      plan,
      [&](Team& team, Rendezvous& rendezvous) {
        if (rendezvous.rank() != 1) return one_step(team);
        team.front()->begin_step();
        dead = std::move(team);
        let_connections_break(true);
        std::this_thread::sleep_for(std::chrono::milliseconds{100});
      },
      options);
  let_connections_break(false);
  for (const std::uint32_t rank : {0, 2}) {
    EXPECT_THAT(errors[rank], StartsWith("rank " + std::to_string(rank) + ", "));
    EXPECT_THAT(errors[rank], EndsWith(": rank 1 is gone"));
  }
  EXPECT_THAT(told, UnorderedElementsAre(errors[0], errors[2]));
}

// Rank 0 begins a step and does nothing more, as if the driver kept it.
TEST(NcclWorkers, ARankThatIsStuckIsTold) {
  TrainingPlan plan = plan_of("1f1b", 2, CommPlacement::per_op);
  plan.deadline = Duration{200'000'000};
  std::promise<std::string> told;
  std::string why;
  const std::vector<std::string> errors = run_ranks(2, [&](Rendezvous& rendezvous) -> std::string {
    NcclOptions options;
    if (rendezvous.rank() == 0) options.lost = [&](const std::string& text) { told.set_value(text); };
    Team team;
    team.push_back(make_nccl_worker(plan, rendezvous, options));
    team.front()->begin_step();
    if (rendezvous.rank() == 0) why = told.get_future().get();
    return "";
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(why, "rank 0, step 0: no call of the driver's has come back for 0.2 s");
}

// Rank 1 goes away in the middle of a step. Everybody else ends long before anybody's patience does, and says
// whom it waited for or what it was told.
TEST(NcclWorkers, ARankThatGivesUpEndsTheOthers) {
  TrainingPlan plan = plan_of("1f1b", 3, CommPlacement::per_op);
  plan.deadline = Duration{3'000'000'000};
  const std::vector<std::string> errors = run(plan, [&](Team& team, Rendezvous& rendezvous) {
    Worker& worker = *team.front();
    if (rendezvous.rank() != 1) return one_step(team);
    worker.begin_step();
    worker.abort();
    throw DeviceError("rank 1 fell over");
  });
  EXPECT_EQ(errors[1], "rank 1 fell over");
  for (const std::uint32_t rank : {0, 2})
    EXPECT_THAT(errors[rank], HasSubstr("rank " + std::to_string(rank)));
}

}  // namespace
}  // namespace plumb
