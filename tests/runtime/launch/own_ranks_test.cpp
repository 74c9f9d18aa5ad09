#include "runtime/launch/own_ranks.hpp"

#include "schedules/ir/error.hpp"

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace plumb {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

std::string fresh_folder() {
  std::string folder = testing::TempDir() + "plumb_own_ranks_XXXXXX";
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  return folder;
}

std::string content(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

OwnRanks shell(std::uint32_t ranks, const std::string& script) {
  return {ranks, "sh", {"-c", script}, {}, milliseconds{200}, {}};
}

bool is_alive(pid_t process) { return kill(process, 0) == 0; }

TEST(OwnRanks, FindTheirPlacesInTheEnvironment) {
  const std::string folder = fresh_folder();
  OwnRanks job = shell(3,
                       "echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $NCCL_HOSTID "
                       "$NCCL_SOCKET_IFNAME > " +
                           folder + "/$RANK; echo $MASTER_PORT >> " + folder + "/ports");
  job.environment = one_gpu_environment(job.ranks);
  EXPECT_EQ(run_own_ranks(job).exit_code, 0);
  for (const char* rank : {"0", "1", "2"}) {
    const std::string place =
        std::string(rank) + " 3 " + rank + " 3 127.0.0.1 plumb-" + std::to_string(getpid()) + "-";
    EXPECT_THAT(
        content(folder + "/" + rank),
        testing::AllOf(testing::StartsWith(place), testing::EndsWith(std::string("-") + rank + " lo\n")));
  }
  std::istringstream ports(content(folder + "/ports"));
  std::string first, other;
  ports >> first;
  while (ports >> other) EXPECT_EQ(other, first);
}

// MPS refused four processes of 32 queues each, and took eight of 8.
TEST(OwnRanks, RanksOnOneGpuShareItsHardwareQueues) {
  const std::vector<std::pair<std::uint32_t, std::string>> expected{
      {1, "32"}, {2, "32"}, {4, "20"}, {8, "10"}, {32, "4"}};
  for (const auto& [ranks, queues] : expected) {
    EXPECT_THAT(one_gpu_environment(ranks), testing::Contains(std::pair<std::string, std::string>(
                                                "CUDA_DEVICE_MAX_CONNECTIONS", queues)));
  }
}

TEST(OwnRanks, TheFirstFailureIsTheAnswerAndEndsTheOthers) {
  const auto begin = std::chrono::steady_clock::now();
  const OwnRanksResult result = run_own_ranks(shell(3, "[ $RANK = 1 ] && exit 3; exec sleep 600"));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.failure, "rank 1 ended with exit code 3");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds{30});
}

// Rank 0 fails of what rank 1 was given, and is quicker to end.
TEST(OwnRanks, BadInputIsTheCauseOfWhatOthersEndWith) {
  OwnRanks job = shell(2, "[ $RANK = 0 ] && exit 3; sleep 0.1; exit 2");
  job.grace = milliseconds{2000};
  const OwnRanksResult result = run_own_ranks(job);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.failure, "rank 1 ended with exit code 2");
}

// One is quick, the other writes for longer than the grace: nobody is killed.
TEST(OwnRanks, ASignalIsPassedOnAndAwaited) {
  const std::string folder = fresh_folder();
  OwnRanks job =
      shell(2, "trap '[ $RANK = 0 ] && sleep 0.5; echo done > " + folder + "/$RANK; exit 130' INT; touch " +
                   folder + "/ready$RANK; while :; do sleep 0.02; done");
  job.passed_on = [&] {
    const bool ready =
        std::filesystem::exists(folder + "/ready0") && std::filesystem::exists(folder + "/ready1");
    return ready ? SIGINT : 0;
  };
  const OwnRanksResult result = run_own_ranks(job);
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.failure, "");
  for (const char* rank : {"0", "1"}) EXPECT_EQ(content(folder + "/" + rank), "done\n");
}

TEST(OwnRanks, OneThatDoesNotEndIsKilled) {
  const std::string folder = fresh_folder();
  const OwnRanksResult result = run_own_ranks(
      shell(2, "[ $RANK = 0 ] && { while [ ! -e " + folder +
                   "/ready ]; do sleep 0.01; done; kill -9 $$; }; trap '' TERM; touch " + folder +
                   "/ready; echo $$ > " + folder + "/pid; while :; do sleep 0.1; done"));
  EXPECT_EQ(result.exit_code, 128 + SIGKILL);
  EXPECT_THAT(result.failure, HasSubstr("rank 0 was killed by signal 9"));
  EXPECT_FALSE(is_alive(std::stoi(content(folder + "/pid"))));
}

TEST(OwnRanks, AProgramThatIsNotThereIsNamed) {
  OwnRanks job = shell(2, "");
  job.program = "plumb-no-such-program";
  try {
    run_own_ranks(job);
    ADD_FAILURE() << "it was started";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("plumb-no-such-program cannot be started"));
  }
}

// Killed, not asked: nothing of the launcher's own gets to run.
TEST(OwnRanks, DieWithTheirLauncher) {
  const std::string folder = fresh_folder();
  const pid_t launcher = fork();
  if (launcher == 0) {
    run_own_ranks(shell(2, "echo $$ > " + folder + "/new$RANK; mv " + folder + "/new$RANK " + folder +
                               "/pid$RANK; exec sleep 600"));
    _exit(0);
  }
  const auto there = [&](int rank) {
    return std::filesystem::exists(folder + "/pid" + std::to_string(rank));
  };
  while (!there(0) || !there(1)) std::this_thread::sleep_for(milliseconds{5});
  kill(launcher, SIGKILL);
  waitpid(launcher, nullptr, 0);
  for (const char* rank : {"0", "1"}) {
    const pid_t process = std::stoi(content(folder + "/pid" + rank));
    // The kernel ends it at once, but somebody has to take its leave: a zombie is dead too.
    bool alive = true;
    for (int i = 0; i < 1000 && alive; ++i) {
      alive = is_alive(process) &&
              content("/proc/" + std::to_string(process) + "/stat").find(") Z ") == std::string::npos;
      std::this_thread::sleep_for(milliseconds{5});
    }
    EXPECT_FALSE(alive);
  }
}

}  // namespace
}  // namespace plumb
