// CPU ranks that meet over TCP. Here they are threads, each with a rendezvous and connections of its own; as
// processes they stand in tests/cli.
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/cpu_backend.hpp"
#include "runtime/gradient_check.hpp"
#include "runtime/record_exchange.hpp"
#include "runtime/together.hpp"
#include "runtime/train_step.hpp"
#include "schedules/ir/error.hpp"
#include "tests/support/rank_threads.hpp"
#include "tests/support/training.hpp"

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
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
  const auto in_rank = [&](Rendezvous& rendezvous) -> std::string {
    try {
      const auto worker = make_cpu_worker(plan, rendezvous, before_action);
      try {
        body(*worker, rendezvous);
      } catch (const std::exception& error) {
        rendezvous.abort(error.what());
        throw;
      }
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  return test::run_ranks(count, in_rank, std::chrono::milliseconds(plan.deadline.ns / 1'000'000));
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

TrainingPlan with_deadline(const char* name, std::uint32_t ranks, Duration deadline) {
  TrainingPlan plan = plan_of(tiny_gpt(8), make_lowered(generator(name), {ranks, 8, {}, {}}, {}));
  plan.deadline = deadline;
  return plan;
}

void train(Worker& worker, const TrainingPlan& plan) {
  const TrainingData data = TrainingData::synthetic(plan.model, plan.layout, 1);
  for (std::uint64_t step = 1; step <= 3; ++step) train_step(worker, plan, data, step);
}

TEST(Processes, ARankThatFailsTellsTheOthersWhy) {
  const TrainingPlan plan = with_deadline("zb-h1", 4, Duration{20'000'000'000});
  const auto begin = std::chrono::steady_clock::now();
  const auto errors = run(
      plan, [&](Worker& worker, Rendezvous&) { train(worker, plan); },
      [](const Worker& worker, const ComputeStep& step) {
        if (worker.rank() == Rank{2} && step.position == 5)
          throw std::runtime_error("the card fell off the bus");
      });
  EXPECT_EQ(errors[2], "the card fell off the bus");
  for (const std::uint32_t rank : {0, 1, 3})
    EXPECT_THAT(errors[rank], HasSubstr("rank 2 aborted: the card fell off the bus"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds{10});
}

// Rank 1 stands in 1F3 for longer than anybody waits, and says all along that it is there.
TEST(Processes, ARankThatStandsStillIsNamedWithItsOp) {
  const TrainingPlan plan = with_deadline("1f1b", 4, Duration{400'000'000});
  const auto errors = run(
      plan, [&](Worker& worker, Rendezvous&) { train(worker, plan); },
      [](const Worker& worker, const ComputeStep& step) {
        if (worker.rank() == Rank{1} && step.action == Action(Op{Stage{1}, Microbatch{3}, OpKind::forward}))
          std::this_thread::sleep_for(std::chrono::milliseconds{1500});
      });
  for (const std::string& error : errors) {
    EXPECT_THAT(error, HasSubstr("nothing has moved for 0.4 s: rank 1, at step"));
    EXPECT_THAT(error, HasSubstr("1F3 does not end"));
  }
}

/// The ports of every TCP connection of this process, each side once.
std::vector<std::pair<int, std::array<std::uint16_t, 2>>> connections() {
  std::vector<std::pair<int, std::array<std::uint16_t, 2>>> found;
  for (int file = 3; file < 1024; ++file) {
    sockaddr_in ends[2];
    socklen_t size[2] = {sizeof ends[0], sizeof ends[1]};
    if (getsockname(file, reinterpret_cast<sockaddr*>(&ends[0]), &size[0]) != 0 ||
        getpeername(file, reinterpret_cast<sockaddr*>(&ends[1]), &size[1]) != 0 ||
        ends[0].sin_family != AF_INET)
      continue;
    found.push_back({file, {ntohs(ends[0].sin_port), ntohs(ends[1].sin_port)}});
  }
  return found;
}

// Of three ranks the first two listen: rank 0's port is in two of the connections that carry messages, as the
// port of the rendezvous is in two of its own. The connection that has neither is between ranks 1 and 2.
TEST(Processes, AConnectionThatIsCutIsNamed) {
  const TrainingPlan plan = with_deadline("1f1b", 3, Duration{20'000'000'000});
  const auto begin = std::chrono::steady_clock::now();
  const auto errors = run(
      plan, [&](Worker& worker, Rendezvous&) { train(worker, plan); },
      [](const Worker& worker, const ComputeStep& step) {
        if (worker.rank() != Rank{1} || step.position != 6) return;
        const auto all = connections();
        std::map<std::uint16_t, int> sides;  // each connection has both of its sides here
        for (const auto& [file, ports] : all) ++sides[ports[0]];
        int cut = 0;
        for (const auto& [file, ports] : all) {
          if (sides[ports[0]] == 1 && sides[ports[1]] == 1) cut += shutdown(file, SHUT_RDWR) == 0;
        }
        EXPECT_GE(cut, 1);
      });
  for (const std::string& error : errors)
    EXPECT_THAT(error, HasSubstr("the connection between rank 1 and rank 2 is cut"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds{10});
}

}  // namespace
}  // namespace plumb
