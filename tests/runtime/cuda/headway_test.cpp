#include "runtime/cuda/headway.hpp"

#include <gtest/gtest.h>

namespace plumb::cuda {
namespace {

using namespace std::chrono_literals;

TEST(Headway, SaysWhereAThreadIsStuckAndOnlyOnce) {
  std::atomic<std::uint32_t> said{0}, step{0};
  {
    Headway headway(80ms, [&](std::uint32_t at) {
      step = at;
      ++said;
    });
    headway.at(7);
    for (int i = 0; i < 500 && said == 0; ++i) std::this_thread::sleep_for(10ms);
    std::this_thread::sleep_for(200ms);
  }
  EXPECT_EQ(said, 1U);
  EXPECT_EQ(step, 7U);
}

TEST(Headway, IsSilentAboutAThreadThatRests) {
  std::atomic<std::uint32_t> said{0};
  Headway headway(40ms, [&](std::uint32_t) { ++said; });
  std::this_thread::sleep_for(200ms);  // nothing has begun
  headway.at(1);
  headway.rests();
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(said, 0U);
}

// Each beat is a hundredth of the limit behind the one before; all of them last longer than it.
TEST(Headway, IsSilentAboutAThreadThatGetsOn) {
  std::atomic<std::uint32_t> said{0};
  Headway headway(2s, [&](std::uint32_t) { ++said; });
  const auto until = std::chrono::steady_clock::now() + 2500ms;
  for (std::uint32_t step = 0; std::chrono::steady_clock::now() < until; ++step) {
    headway.at(step);
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_EQ(said, 0U);
}

}  // namespace
}  // namespace plumb::cuda
