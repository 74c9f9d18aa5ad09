#include "runtime/device/buffer.hpp"
#include "runtime/device/clock_count.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/memory_state.hpp"
#include "schedules/ir/error.hpp"

#include <vector>

#include <gtest/gtest.h>

namespace plumb::device {
namespace {

TEST(Device, SaysWhatItIs) {
  const DeviceInfo info = device_info();
  std::printf("    %s, %u multiprocessors, driver %s, cuBLAS %s, cuDNN %s, NCCL %s (built with %s)\n",
              info.name.c_str(), info.multiprocessors, info.driver.c_str(), info.cublas.c_str(),
              info.cudnn.c_str(), info.nccl.c_str(), info.nccl_built_with.c_str());
  EXPECT_FALSE(info.name.empty());
  EXPECT_GT(info.multiprocessors, 0U);
  EXPECT_GT(ClockReader().read().mhz, 0U);
}

TEST(Device, SharesAreEqualAndTheSameEachTime) {
  for (const std::uint32_t ranks : {2U, 4U, 8U}) {
    const auto shares = partition(ranks);
    ASSERT_EQ(shares.size(), ranks);
    const std::uint32_t each = device_info().multiprocessors / ranks / 8 * 8;
    for (const auto& share : shares) EXPECT_EQ(share.multiprocessors(), each);
    const Stream stream = shares[0].stream();
    const Buffer a(Bytes{1024});
    fill(stream, a.data(), 1, 1024);
    stream.synchronize();
  }
  EXPECT_THROW(partition(100), DeviceError);
}

TEST(Device, ARankAloneHasEveryMultiprocessor) {
  const auto shares = partition(1);
  ASSERT_EQ(shares.size(), 1U);
  EXPECT_EQ(shares[0].multiprocessors(), device_info().multiprocessors);
}

// CUDA counts downwards: the smaller number goes first.
TEST(Device, PrioritiesAreThreeLevels) {
  EXPECT_GT(level_of(Priority::low), level_of(Priority::normal));
  EXPECT_GT(level_of(Priority::normal), level_of(Priority::high));
}

TEST(Device, AnEventOrdersStreamsAndTwoTellTheTimeBetween) {
  const Stream a;
  const Stream b(Priority::high);
  const Buffer big(Bytes{256 << 20});
  const HostBuffer host(Bytes{4});
  const Event begin(EventKind::timing);
  const Event end(EventKind::timing);
  *host.as<int>() = 0;
  begin.record(a);
  for (int i = 0; i < 20; ++i) fill(a, big.data(), i, static_cast<std::size_t>(big.bytes().count));
  fill(a, big.data(), 7, 4);
  end.record(a);
  b.wait(end);
  copy(b, host.as<int>(), big.data(), 4);
  b.synchronize();
  EXPECT_EQ(*host.as<int>(), 0x07070707);
  EXPECT_GT(between(begin, end), Duration{100'000});  // 5 GB at no more than 50 TB/s
}

// 40 fills of a quarter of a gigabyte take 2 ms at 5 TB/s, enough to tell; nothing between two notes is not.
// A chip that computes has a clock between 300 MHz and 3 GHz, and all its multiprocessors have the same.
TEST(Device, CyclesAreCountedOverWhatRuns) {
  const Stream stream;
  const Buffer big(Bytes{256 << 20});
  const auto over = [&](std::uint32_t blocks, int fills) {
    const ClockCount begin(blocks), end(blocks);
    // Ahead of the first note, so that the host is done with queuing before it is passed.
    for (int i = 0; i < 10; ++i) fill(stream, big.data(), i, static_cast<std::size_t>(big.bytes().count));
    begin.note(stream);
    for (int i = 0; i < fills; ++i) fill(stream, big.data(), i, static_cast<std::size_t>(big.bytes().count));
    end.note(stream);
    stream.synchronize();
    return mean_mhz(begin, end);
  };
  over(1024, 40);  // loads the kernels, and wakes the clock
  EXPECT_EQ(over(1024, 0), 0U);
  const std::uint32_t all = over(1024, 40);
  EXPECT_GT(all, 300U);
  EXPECT_LT(all, 3000U);
  // Of a few blocks some meet the same multiprocessor again.
  EXPECT_NEAR(over(32, 40), all, 0.1 * all);
}

TEST(Device, ABufferIsTakenFromWhatIsFree) {
  const Bytes before = memory_state().free;
  const Buffer buffer(Bytes{512 << 20});
  EXPECT_GE(before - memory_state().free, Bytes{512 << 20});
}

TEST(Device, ARefusedCallSaysWhichAndWhy) {
  try {
    const Buffer impossible(Bytes{std::int64_t{1} << 50});
    FAIL() << "a petabyte was allocated";
  } catch (const DeviceError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("cudaMalloc"), std::string::npos) << text;
    EXPECT_NE(text.find("runtime/device/buffer.cpp:"), std::string::npos) << text;
    EXPECT_NE(text.find("out of memory"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace plumb::device
