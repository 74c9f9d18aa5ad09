#include "runtime/layers/launching.hpp"

#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

namespace plumb::layers {
namespace {

Launching letters(std::string& to, std::string pieces) {
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) co_await Launching::pause;
    to += pieces[i];
  }
}

Launching failing() {
  co_await Launching::pause;
  throw std::runtime_error("the device is gone");
}

TEST(Launching, LaunchesNothingUnasked) {
  std::string launched;
  Launching op = letters(launched, "abc");
  EXPECT_EQ(launched, "");
  EXPECT_TRUE(op.next());
  EXPECT_EQ(launched, "a");
  op.finish();
  EXPECT_EQ(launched, "abc");
  EXPECT_FALSE(op.next());
  EXPECT_EQ(launched, "abc");
}

// The longer one goes on alone; both keep their order.
TEST(Launching, OfTwoOpsTakesTurns) {
  std::string launched;
  interleave(letters(launched, "ABC"), letters(launched, "vwxyz"));
  EXPECT_EQ(launched, "AvBwCxyz");
  launched.clear();
  interleave(letters(launched, "ABC"), letters(launched, "v"));
  EXPECT_EQ(launched, "AvBC");
}

TEST(Launching, ThrowsToWhoeverAsksForThePieceThatFails) {
  Launching op = failing();
  EXPECT_TRUE(op.next());
  EXPECT_THROW(op.next(), std::runtime_error);
  EXPECT_FALSE(op.next());
  EXPECT_THROW(failing().finish(), std::runtime_error);
}

}  // namespace
}  // namespace plumb::layers
