#include "runtime/launch/last_word.hpp"

#include <cstdlib>
#include <thread>

#include <gtest/gtest.h>

namespace plumb {
namespace {

using namespace std::chrono_literals;

TEST(LastWord, IsSaidByWhoeverCannotEnd) {
  EXPECT_EXIT(
      {
        end_after("rank 1 waits for rank 2", 20ms);
        std::this_thread::sleep_for(20s);
      },
      testing::ExitedWithCode(3), "^plumb: rank 1 waits for rank 2\n$");
}

TEST(LastWord, IsNotSaidByWhoeverEnds) {
  EXPECT_EXIT(
      {
        end_after("rank 1 waits for rank 2", 10s);
        std::_Exit(130);
      },
      testing::ExitedWithCode(130), "^$");
}

}  // namespace
}  // namespace plumb
