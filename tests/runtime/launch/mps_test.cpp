// With a script in the daemon's place, which says what it was asked.
#include "runtime/launch/mps.hpp"

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

using testing::HasSubstr;

class MpsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "plumb_mps_XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
  }
  std::string control(const std::string& body) {
    const std::string path = folder_ + "/control";
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  std::string log() const {
    std::stringstream text;
    text << std::ifstream(folder_ + "/asked").rdbuf();
    return text.str();
  }
  /// Notes its arguments, or what it is told, and the folder it was given.
  std::string noting() {
    return control(
        "if [ \"$1\" = -d ]; then echo start $CUDA_MPS_PIPE_DIRECTORY; else read word; echo $word "
        "$CUDA_MPS_PIPE_DIRECTORY; fi >> " +
        folder_ + "/asked");
  }
  std::string folder_;
};

TEST_F(MpsTest, StartsWithItsOwnerAndEndsWithIt) {
  std::string pipe;
  std::string own;
  {
    const Mps mps(noting());
    own = mps.folder();
    pipe = mps.environment().front().second;
    EXPECT_EQ(log(), "start " + pipe + "\n");
    EXPECT_TRUE(std::filesystem::is_directory(pipe));
  }
  EXPECT_EQ(log(), "start " + pipe + "\nquit " + pipe + "\n");
  EXPECT_FALSE(std::filesystem::exists(own));
}

TEST_F(MpsTest, EndsEvenWhenItsOwnerIsKilled) {
  const std::string program = noting();
  const pid_t owner = fork();
  if (owner == 0) {
    const Mps mps(program);
    kill(getpid(), SIGKILL);
  }
  waitpid(owner, nullptr, 0);
  for (int i = 0; i < 1000 && log().find("quit") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds{5});
  EXPECT_THAT(log(), HasSubstr("quit"));
}

TEST_F(MpsTest, SaysWhyItDidNotStart) {
  try {
    const Mps mps(control("echo no permission >&2; exit 1"));
    ADD_FAILURE() << "it started";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no permission"));
  }
}

TEST_F(MpsTest, SomebodyElsesIsSeen) {
  EXPECT_TRUE(mps_is_running(control("exit 0")));
  EXPECT_FALSE(mps_is_running(control("echo Cannot find MPS control daemon process; exit 1")));
}

}  // namespace
}  // namespace plumb
