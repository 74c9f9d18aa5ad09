// Who asks and who serves, with made-up measurers; a rank that fails, and a process that is killed.
#include "calibrate/ranks/ranked_measurer.hpp"

#include "calibrate/session.hpp"
#include "schedules/model/layout.hpp"
#include "tests/support/rank_threads.hpp"

#include <chrono>
#include <csignal>
#include <functional>
#include <set>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace plumb::ranks {
namespace {

using test::run_ranks;
using ::testing::HasSubstr;

CalibrationRequest request(std::uint32_t ranks) {
  CalibrationRequest r;
  r.model.architecture = Architecture::mlp;
  r.model.hidden = 256;
  r.model.ffn = 1024;
  r.model.layers = ranks;
  r.layout.sequence = 128;
  for (std::uint32_t s = 0; s < ranks; ++s)
    r.layout.stages.push_back({s, 1, 0, false, false, Recompute::none});
  r.ranks = ranks;
  r.transport = "nccl";
  return r;
}

// Every rank times work, and is slower the higher it is; of everything else rank 0 alone knows the result.
class MadeUp : public Measurer {
 public:
  explicit MadeUp(Rendezvous& rendezvous, std::function<void(std::size_t)> before = {})
      : rendezvous_(rendezvous), before_(std::move(before)) {}
  Provenance provenance() const override { return {}; }
  Setting setting() const override { return {Share::process, 16, 8, true}; }
  std::vector<std::vector<std::uint32_t>> message_pairs() const override { return {{0, 1}}; }
  bool can_measure(const Target&) const override { return true; }
  std::vector<Measurement> measure(const Target& target, const StoppingRule&) override {
    if (before_) before_(measured_++);
    const std::uint32_t rank = rendezvous_.rank();
    rendezvous_.barrier();  // ranks that measure together meet on the way
    const std::vector<Sample> samples(12, Sample{{1'000 + 100 * std::int64_t{rank}}, 1'755});
    const Summary summary = summary_of(samples);
    if (const auto* work = std::get_if<WorkTarget>(&target))
      return {{TimedWork{work->work, work->setting, rank, "gemm", summary, {}}, samples}};
    if (rank != 0) return {};
    if (const auto* transfer = std::get_if<TransferTarget>(&target))
      return {{Transfer{transfer->key, {transfer->size, summary}}, samples}};
    if (const auto* slowdown = std::get_if<SlowdownTarget>(&target))
      return {{Slowdown{slowdown->key, summary, summary}, samples}};
    return {{MeasuredMemory{std::get<MemoryTarget>(target).work, {}, {}, {}, {}, {}, {}, {}}, {}}};
  }

 private:
  Rendezvous& rendezvous_;
  std::function<void(std::size_t)> before_;
  std::size_t measured_ = 0;
};

SessionHooks quiet() {
  return {[] { return Duration{}; }, [](const Progress&) {},
          [](const Calibration&, const std::vector<Measurement>&) {}, [] { return false; }};
}

// What `plumb calibrate` does on each rank; rank 0's account of it.
std::string calibrate(Rendezvous& rendezvous, std::unique_ptr<Measurer> own, Calibration& calibration) {
  const auto measurer = make_ranked_measurer(rendezvous, std::move(own));
  if (!measurer->leads()) {
    measurer->serve();
    return "served";
  }
  const auto targets = plan_targets(request(rendezvous.ranks()), *measurer);
  const bool complete = measure_missing(*measurer, targets, {}, calibration, quiet());
  return fmt::format("{} {}", complete ? "complete" : "interrupted",
                     missing_targets(calibration, targets).size());
}

TEST(RankedMeasurer, EveryRankMeasuresAndRankZeroHasItAll) {
  for (const std::uint32_t ranks : {1u, 2u, 3u, 8u}) {
    Calibration calibration;
    const auto out = run_ranks(ranks, [&](Rendezvous& rendezvous) {
      Calibration unused;
      return calibrate(rendezvous, std::make_unique<MadeUp>(rendezvous),
                       rendezvous.rank() == 0 ? calibration : unused);
    });
    EXPECT_EQ(out[0], "complete 0");
    for (std::uint32_t r = 1; r < ranks; ++r) EXPECT_EQ(out[r], "served");
    // Ranks are told apart: each has its own time of each piece of work.
    std::set<std::uint32_t> seen;
    for (const TimedWork& work : calibration.work) {
      ASSERT_TRUE(work.rank);
      seen.insert(*work.rank);
      EXPECT_EQ(work.time.median, Duration{1'000 + 100 * std::int64_t{*work.rank}});
    }
    EXPECT_EQ(seen.size(), ranks);
    EXPECT_EQ(calibration.work.size() % ranks, 0u);
    EXPECT_FALSE(calibration.transfers.empty());
    EXPECT_FALSE(calibration.slowdowns.empty());
  }
}

// Work in turns: all of one setting is one order, which each rank is given whole.
class InTurns : public MadeUp {
 public:
  InTurns(Rendezvous& rendezvous, std::vector<std::size_t>& orders) : MadeUp(rendezvous), orders_(orders) {}
  bool in_turns(const Target& a, const Target& b) const override {
    const auto* one = std::get_if<WorkTarget>(&a);
    const auto* other = std::get_if<WorkTarget>(&b);
    return one && other && one->setting == other->setting;
  }
  std::vector<Measurement> measure_in_turns(const std::vector<Target>& targets,
                                            const StoppingRule& rule) override {
    orders_.push_back(targets.size());
    return MadeUp::measure_in_turns(targets, rule);
  }

 private:
  std::vector<std::size_t>& orders_;
};

TEST(RankedMeasurer, RanksMeasureInTurnsTogether) {
  const std::uint32_t ranks = 4;
  std::vector<std::vector<std::size_t>> orders(ranks);
  Calibration calibration;
  const auto out = run_ranks(ranks, [&](Rendezvous& rendezvous) {
    Calibration unused;
    return calibrate(rendezvous, std::make_unique<InTurns>(rendezvous, orders[rendezvous.rank()]),
                     rendezvous.rank() == 0 ? calibration : unused);
  });
  EXPECT_EQ(out[0], "complete 0");
  // All busy, 4 / 4 = 1 of them idle, and 4 / 2 = 2: three settings.
  EXPECT_EQ(orders[0].size(), 3u);
  for (const auto& other : orders) EXPECT_EQ(other, orders[0]);
  EXPECT_EQ(calibration.work.size(), ranks * (orders[0][0] + orders[0][1] + orders[0][2]));
}

// A figure that nobody could measure is named, and the others go on.
class NoSlowdown : public MadeUp {
 public:
  using MadeUp::MadeUp;
  std::vector<Measurement> measure(const Target& target, const StoppingRule& rule) override {
    std::vector<Measurement> measured = MadeUp::measure(target, rule);
    const auto* slowdown = std::get_if<SlowdownTarget>(&target);
    if (slowdown && slowdown->key.work_class == "gemm" && slowdown->key.beside == "all_reduce") return {};
    return measured;
  }
};

TEST(RankedMeasurer, AFigureThatComesToNothingCostsNoOther) {
  std::vector<std::string> failed;
  Calibration calibration;
  const auto out = run_ranks(2, [&](Rendezvous& rendezvous) -> std::string {
    const auto measurer = make_ranked_measurer(rendezvous, std::make_unique<NoSlowdown>(rendezvous));
    if (!measurer->leads()) {
      measurer->serve();
      return "served";
    }
    SessionHooks hooks = quiet();
    hooks.failed = [&](const std::string& target, const std::string&) { failed.push_back(target); };
    const auto targets = plan_targets(request(2), *measurer);
    EXPECT_FALSE(measure_missing(*measurer, targets, {}, calibration, hooks));
    return fmt::format("{} missing", missing_targets(calibration, targets).size());
  });
  EXPECT_EQ(out[1], "served");
  EXPECT_FALSE(failed.empty());
  for (const std::string& one : failed) EXPECT_THAT(one, HasSubstr("gemm beside all_reduce"));
  EXPECT_EQ(out[0], fmt::format("{} missing", failed.size()));
}

TEST(RankedMeasurer, ARankThatFailsEndsItForAllAndIsNamed) {
  for (const std::uint32_t failing : {0u, 1u, 2u}) {
    Calibration calibration;
    const auto begun = std::chrono::steady_clock::now();
    const auto out = run_ranks(3, [&](Rendezvous& rendezvous) {
      const auto before = [&](std::size_t measured) {
        if (rendezvous.rank() == failing && measured == 4) throw DeviceError("out of memory");
      };
      Calibration unused;
      return calibrate(rendezvous, std::make_unique<MadeUp>(rendezvous, before),
                       rendezvous.rank() == 0 ? calibration : unused);
    });
    for (std::uint32_t r = 0; r < 3; ++r) {
      EXPECT_THAT(out[r], HasSubstr("out of memory")) << r;
      if (r != failing) {
        EXPECT_THAT(out[r], HasSubstr(fmt::format("rank {}", failing))) << r;
      }
    }
    // What was measured before is kept.
    EXPECT_EQ(calibration.work.size(), 4u * 3u);
    EXPECT_FALSE(calibration.missing.empty());
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds{10});
  }
}

// What is left goes on with other processes: none is measured twice, and none is forgotten.
TEST(RankedMeasurer, GoesOnWhereAnotherJobEnded) {
  std::size_t all = 0;
  run_ranks(1, [&](Rendezvous& rendezvous) {
    all = plan_targets(request(2), MadeUp(rendezvous)).size();
    return std::string();
  });
  Calibration calibration;
  std::size_t second = 0;
  for (const bool fails : {true, false}) {
    const auto out = run_ranks(2, [&](Rendezvous& rendezvous) {
      const auto before = [&](std::size_t measured) {
        if (fails && measured == 20) throw DeviceError("enough for now");
        if (!fails && rendezvous.rank() == 0) ++second;
      };
      Calibration unused;
      return calibrate(rendezvous, std::make_unique<MadeUp>(rendezvous, before),
                       rendezvous.rank() == 0 ? calibration : unused);
    });
    if (!fails) {
      EXPECT_EQ(out[0], "complete 0");
    }
  }
  EXPECT_EQ(second, all - 20);
}

// A process for each rank, as it is in earnest; this one is rank 0.
class Child {
 public:
  template <class Body>
  explicit Child(const Body& body) : process_(fork()) {
    if (process_ == 0) _exit(body());
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    wait();
  }
  int wait() {
    int status = 0;
    if (process_ > 0 && waitpid(process_, &status, 0) == process_) process_ = -1;
    return status;
  }

 private:
  pid_t process_;
};

TEST(RankedMeasurer, AServerThatIsKilledIsNamed) {
  constexpr std::uint32_t ranks = 3;
  const std::uint16_t port = port_of(listen_on("127.0.0.1", 0));
  const auto place = [&](std::uint32_t rank) {
    return Placement{rank, ranks, rank, ranks, "test", "127.0.0.1", port, "test"};
  };
  const auto server = [&](std::uint32_t rank) {
    return [&place, rank]() -> int {
      try {
        Rendezvous rendezvous(place(rank), std::chrono::seconds{20});
        const auto before = [&](std::size_t measured) {
          if (rank == 2 && measured == 3) raise(SIGKILL);
        };
        Calibration unused;
        calibrate(rendezvous, std::make_unique<MadeUp>(rendezvous, before), unused);
        return 0;
      } catch (const DeviceError& error) {
        return std::string_view(error.what()).find("rank 2 is gone") != std::string_view::npos ? 3 : 4;
      }
    };
  };
  Child first(server(1));
  Child second(server(2));
  Calibration calibration;
  std::string said;
  const auto begun = std::chrono::steady_clock::now();
  try {
    Rendezvous rendezvous(place(0), std::chrono::seconds{20});
    said = calibrate(rendezvous, std::make_unique<MadeUp>(rendezvous), calibration);
  } catch (const DeviceError& error) {
    said = error.what();
  }
  EXPECT_THAT(said, HasSubstr("rank 2 is gone"));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds{10});
  EXPECT_EQ(calibration.work.size(), 3u * ranks);
  EXPECT_EQ(WEXITSTATUS(first.wait()), 3);
  EXPECT_TRUE(WIFSIGNALED(second.wait()));
}

}  // namespace
}  // namespace plumb::ranks
