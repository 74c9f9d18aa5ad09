#include "runtime/device/arena.hpp"

#include "schedules/ir/error.hpp"

#include <cstdint>

#include <gtest/gtest.h>

namespace plumb::device {
namespace {

// No byte is touched: the arena only counts, so any address will do.
std::byte* const base = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 20);

TEST(Arena, GivesPlacesOneAfterAnotherRoundedUpToTheAlignment) {
  Arena arena(base, Bytes{4096});
  EXPECT_EQ(arena.allocate(Bytes{1}), base);
  EXPECT_EQ(arena.allocate(Bytes{257}), base + 256);
  EXPECT_EQ(arena.allocate(Bytes{256}), base + 768);  // 257 takes two units of 256
  EXPECT_EQ(arena.held(), Bytes{514});
  EXPECT_EQ(arena.reach(), Bytes{1024});
}

TEST(Arena, FillsTheFirstGapThatIsLargeEnough) {
  Arena arena(base, Bytes{4096});
  void* first = arena.allocate(Bytes{256});
  arena.allocate(Bytes{256});
  void* third = arena.allocate(Bytes{512});
  arena.allocate(Bytes{256});
  arena.release(first);
  arena.release(third);
  EXPECT_EQ(arena.allocate(Bytes{512}), third);  // the first gap has 256
  EXPECT_EQ(arena.allocate(Bytes{256}), first);
}

TEST(Arena, ItsPeakIsOfWhatWasHeldAtOnce) {
  Arena arena(base, Bytes{4096});
  void* a = arena.allocate(Bytes{300});
  arena.release(a);
  void* b = arena.allocate(Bytes{200});
  arena.allocate(Bytes{250});
  arena.release(b);
  EXPECT_EQ(arena.peak(), Bytes{450});
  EXPECT_EQ(arena.held(), Bytes{250});
}

TEST(Arena, SaysWhatItHoldsAndWhatDidNotFit) {
  Arena arena(base, Bytes{1024});
  arena.allocate(Bytes{512});
  try {
    arena.allocate(Bytes{600});
    FAIL() << "600 bytes fitted into the other 512";
  } catch (const DeviceError& error) {
    EXPECT_STREQ(error.what(), "an arena of 1 KiB that holds 512 B has no gap of 600 B");
  }
}

}  // namespace
}  // namespace plumb::device
