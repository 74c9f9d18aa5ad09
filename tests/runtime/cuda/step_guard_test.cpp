#include "runtime/cuda/step_guard.hpp"

#include "schedules/ir/error.hpp"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb::cuda {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

std::string refusal(StepGuard& guard, const std::string& who) {
  try {
    guard.wait([] { return false; }, [&] { return who; });
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "";
}

TEST(StepGuard, ReturnsWhenWhatItWaitsForHappens) {
  StepGuard guard(seconds{60});
  std::atomic<bool> ready{false};
  std::thread other([&] {
    std::this_thread::sleep_for(milliseconds{5});
    ready = true;
  });
  for (const bool relaxed : {false, true})
    guard.wait([&] { return ready.load(); }, [] { return std::string("rank 0"); }, relaxed);
  other.join();
  EXPECT_FALSE(guard.given_up());
}

TEST(StepGuard, NamesWhoWaitedAndForHowLongAtTheDeadline) {
  StepGuard guard(milliseconds{20});
  const std::string error = refusal(guard, "rank 3, step 17");
  EXPECT_THAT(error, HasSubstr("rank 3, step 17"));
  EXPECT_THAT(error, HasSubstr("0.02 s"));
  EXPECT_TRUE(guard.given_up());
}

// Whoever waits learns the first reason at once, long before its own deadline.
TEST(StepGuard, TellsEveryoneTheFirstReason) {
  StepGuard guard(seconds{600});
  std::string error;
  std::thread waiting([&] { error = refusal(guard, "rank 1, step 2"); });
  guard.give_up("rank 0, step 5: out of paper");
  guard.give_up("rank 2, step 1");
  waiting.join();
  EXPECT_THAT(error, HasSubstr("rank 1, step 2"));
  EXPECT_THAT(error, HasSubstr("rank 0, step 5: out of paper"));
  EXPECT_THAT(refusal(guard, "rank 4"), HasSubstr("out of paper"));
}

// What is there already is taken even when the step is lost: a rank that has its data goes on to where it
// waits.
TEST(StepGuard, DoesNotRefuseWhatIsThere) {
  StepGuard guard(seconds{600});
  guard.give_up("rank 0");
  EXPECT_NO_THROW(guard.wait([] { return true; }, [] { return std::string(); }));
}

}  // namespace
}  // namespace plumb::cuda
