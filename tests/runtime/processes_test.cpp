// CPU ranks that meet over TCP. Here they are threads, each with a rendezvous and connections of its own; as
// processes they stand in tests/cli.
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/cpu_backend.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/record_exchange.hpp"
#include "runtime/together.hpp"
#include "runtime/train_step.hpp"
#include "schedules/ir/error.hpp"
#include "tests/support/training.hpp"

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

namespace plumb {
namespace {

using test::plan_of;
using test::tiny_gpt;
using testing::HasSubstr;

using Body = std::function<void(Worker&, Rendezvous&)>;

/// What each rank threw: [copy x ranks + rank], empty where nothing.
std::vector<std::string> run(const TrainingPlan& plan, const Body& body,
                             const BeforeAction& before_action = {}) {
  const std::uint32_t count = plan.schedule.ranks() * plan.schedule.data_parallel;
  const std::uint16_t port = port_of(listen_on("127.0.0.1", 0));
  std::vector<std::string> errors(count);
  std::vector<std::thread> threads;
  for (std::uint32_t r = 0; r < count; ++r) {
    threads.emplace_back([&, r] {
      try {
        Placement placement;
        placement.rank = placement.local_rank = r;
        placement.ranks = placement.local_ranks = count;
        placement.host = "127.0.0.1";
        placement.port = port;
        placement.job = "processes_test";
        Rendezvous rendezvous(placement, std::chrono::milliseconds(plan.deadline.ns / 1'000'000));
        const auto worker = make_cpu_worker(plan, rendezvous, before_action);
        body(*worker, rendezvous);
      } catch (const std::exception& error) {
        errors[r] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

struct Learned {
  std::vector<std::vector<double>> losses;              // [step]
  std::map<std::uint32_t, std::vector<float>> weights;  // [worker] of all its stages
  bool operator==(const Learned&) const = default;
};

void learn(Worker& worker, const TrainingPlan& plan, Learned& learned, std::mutex& mutex) {
  const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 1);
  for (std::uint64_t step = 1; step <= 2; ++step) {
    const StepResult result = train_step(worker, plan, data, step);
    const std::lock_guard lock(mutex);
    if (worker.rank() == Rank{0} && worker.copy() == 0) learned.losses.push_back(result.losses);
  }
  std::vector<float> weights;
  for (const Stage stage : worker.program().held) {
    const std::vector<float> of_stage = worker.state(stage).weights;
    weights.insert(weights.end(), of_stage.begin(), of_stage.end());
  }
  const std::lock_guard lock(mutex);
  learned.weights[worker.copy() * plan.schedule.ranks() + worker.rank().value] = weights;
}

TEST(Processes, ComputeTheBitsThatThreadsDo) {
  for (const auto& [name, copies] : {std::pair{"1f1b", 1u}, {"zb-v", 1u}, {"dualpipe", 2u}}) {
    for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
      SCOPED_TRACE(std::string(name) + (placement == CommPlacement::batched ? " batched" : " per op"));
      const TrainingPlan plan =
          plan_of(tiny_gpt(8), make_lowered(generator(name), {4, 8, {}, {}}, {placement, copies}));
      std::mutex mutex;
      Learned by_threads, by_processes;
      auto threads = make_cpu_workers(plan);
      run_together(threads, [&](Worker& worker) { learn(worker, plan, by_threads, mutex); });
      const auto errors =
          run(plan, [&](Worker& worker, Rendezvous&) { learn(worker, plan, by_processes, mutex); });
      for (const std::string& error : errors) EXPECT_EQ(error, "");
      EXPECT_EQ(by_processes, by_threads);
    }
  }
}

}  // namespace
}  // namespace plumb
