#include "runtime/record_exchange.hpp"

#include "schedules/ir/error.hpp"

#include <string>

#include <gtest/gtest.h>

namespace plumb {
namespace {

StepTimes record() {
  StepTimes times;
  times.compute = {{{5}, {17}}, {{20}, {1'000'000'000'000}}};
  times.messages = {{{4}, TimePoint{6}, TimePoint{9}},
                    {{7}, std::nullopt, TimePoint{8}},
                    {{1}, std::nullopt, std::nullopt}};
  times.collectives = {{{100}, {200}}};
  times.segments = {
      {{Stage{3}, Microbatch{7}, OpKind::backward}, Lane::communication, "all_to_all", {1}, {2}},
      {{Stage{0}, Microbatch{1}, OpKind::forward}, Lane::compute, "", {3}, {4}}};
  times.update = Interval{{300}, {400}};
  return times;
}

TEST(RecordExchange, BringsBackWhatWasRecorded) {
  EXPECT_EQ(times_from_bytes(to_bytes(record())), record());
  EXPECT_EQ(times_from_bytes(to_bytes(StepTimes{})), StepTimes{});
}

// Wherever it is cut off, or has more behind it, or is something else.
TEST(RecordExchange, RefusesWhatIsNoRecord) {
  const std::string bytes = to_bytes(record());
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(times_from_bytes(bytes.substr(0, size)), DeviceError) << size;
  EXPECT_THROW(times_from_bytes(bytes + "x"), DeviceError);
  EXPECT_THROW(times_from_bytes("x" + bytes), DeviceError);
}

// A single rank is rank 0, and has its own.
TEST(RecordExchange, ASingleRankHasItsOwn) {
  Rendezvous alone{Placement{}};
  EXPECT_EQ(gather_times(alone, record()), std::vector<StepTimes>{record()});
}

}  // namespace
}  // namespace plumb
