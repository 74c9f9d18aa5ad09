// A rank that fails, stands still, or does something else than the others: within the deadline everybody
// ends, and the message names the rank and the op.
#include "runtime/cpu_backend.hpp"
#include "runtime/together.hpp"
#include "runtime/train_step.hpp"
#include "schedules/ir/error.hpp"
#include "tests/support/training.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::plan_of;
using test::tiny_gpt;

constexpr Duration soon{300'000'000};

TrainingPlan plan(const LoweredSchedule& schedule) {
  TrainingPlan made = plan_of(tiny_gpt(8), schedule);
  made.deadline = soon;
  return made;
}

std::string failure_of(std::vector<std::unique_ptr<Worker>>& workers, const TrainingPlan& made,
                       Duration grace = soon) {
  const TrainingData data = TrainingData::synthetic(made.model, made.layout, 1);
  const auto begin = std::chrono::steady_clock::now();
  std::string what;
  try {
    run_together(
        workers, [&](Worker& worker) { train_step(worker, made, data, 1); }, grace);
  } catch (const DeviceError& error) {
    what = error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  return what;
}

// Long before anybody's deadline.
TEST(Failures, ARankThatFailsIsNamedAndEndsTheOthers) {
  TrainingPlan made = plan(make_lowered(generator("zb-h1"), {4, 8, {}, {}}, {}));
  made.deadline = Duration{60'000'000'000};
  auto workers = make_cpu_workers(made, [](const Worker& worker, const ComputeStep& step) {
    if (worker.rank() == Rank{2} && step.position == 5) throw std::runtime_error("the card fell off the bus");
  });
  const std::string what = failure_of(workers, made);
  EXPECT_NE(what.find("rank 2"), std::string::npos) << what;
  EXPECT_NE(what.find("the card fell off the bus"), std::string::npos) << what;
  EXPECT_EQ(workers.size(), 4u);
}

// Rank 1 stands in 1F3 and never comes back. Everybody else ends; its thread, and what that may touch, is
// left behind.
TEST(Failures, ARankThatStandsStillIsNamedWithItsOp) {
  const TrainingPlan made = plan(make_lowered(generator("1f1b"), {4, 8, {}, {}}, {}));
  // They outlive the thread that waits for them.
  static auto* mutex = new std::mutex;
  static auto* never = new std::condition_variable;
  auto workers = make_cpu_workers(made, [](const Worker& worker, const ComputeStep& step) {
    if (worker.rank() != Rank{1} || step.action != Action(Op{Stage{1}, Microbatch{3}, OpKind::forward}))
      return;
    std::unique_lock lock(*mutex);
    never->wait(lock, [] { return false; });
  });
  const std::string what = failure_of(workers, made);
  EXPECT_NE(what.find("rank 1, step"), std::string::npos) << what;
  EXPECT_NE(what.find("1F3"), std::string::npos) << what;
  EXPECT_EQ(what.find("rank 0"), std::string::npos) << what;
  EXPECT_TRUE(workers.empty());
}

// Rank 1 has lost its first receive: what rank 0 sends is never taken. All wait, and each says for what.
TEST(Failures, RanksWithDifferentSchedulesAreNamedWithWhatTheyWaitFor) {
  LoweredSchedule schedule = make_lowered(generator("1f1b"), {2, 4, {}, {}}, {});
  auto& rank = schedule.per_rank[1];
  ASSERT_TRUE(std::holds_alternative<CommBatch>(rank.steps[0]));
  rank.steps.erase(rank.steps.begin());
  // The messages stay where they are; only nobody launches the first one.
  const TrainingPlan made = plan(schedule);
  auto workers = make_cpu_workers(made);
  const std::string what = failure_of(workers, made);
  EXPECT_NE(what.find("every rank waits for another"), std::string::npos) << what;
  EXPECT_NE(what.find("rank 1, step 0, 1F0"), std::string::npos) << what;
}

// Nobody calls the meeting that ends the step but rank 0: it says who is missing.
TEST(Failures, ARankThatDoesNotComeToAMeetingIsNamed) {
  const TrainingPlan made = plan(make_lowered(generator("1f1b"), {2, 4, {}, {}}, {}));
  auto workers = make_cpu_workers(made);
  std::string what;
  try {
    run_together(workers, [](Worker& worker) {
      double value = 0;
      if (worker.rank() == Rank{0}) worker.sum(std::span(&value, 1));
    });
  } catch (const DeviceError& error) {
    what = error.what();
  }
  EXPECT_NE(what.find("rank 1"), std::string::npos) << what;
}

}  // namespace
}  // namespace plumb
