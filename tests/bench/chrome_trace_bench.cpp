// How fast a big trace is written: a million events should take well under a second.
#include "sim/chrome_trace.hpp"

#include <cstdint>
#include <sstream>
#include <streambuf>
#include <string>

#include <benchmark/benchmark.h>

namespace plumb {
namespace {

// Counts bytes and keeps none.
class Drain : public std::streambuf {
 public:
  std::int64_t bytes() const { return bytes_; }

 protected:
  std::streamsize xsputn(const char*, std::streamsize size) override {
    bytes_ += size;
    return size;
  }
  int_type overflow(int_type c) override {
    ++bytes_;
    return traits_type::not_eof(c);
  }

 private:
  std::int64_t bytes_ = 0;
};

// Every rank runs its forwards, then its backwards, one after the other, with a gap before each and a message
// to the next rank. Not a step that makes sense, but every sort of event of one.
Timeline big_timeline(std::uint32_t ranks, std::uint32_t microbatches) {
  Timeline timeline{"bench", ranks, microbatches, std::vector<RankTimeline>(ranks), {}};
  for (std::uint32_t r = 0; r < ranks; ++r) {
    TimePoint now{1'000 * r};
    for (const OpKind kind : {OpKind::forward, OpKind::backward}) {
      for (std::uint32_t m = 0; m < microbatches; ++m) {
        const TimePoint end = now + Duration{1'234'567};
        timeline.ranks[r].compute.push_back(
            {Action(Op{Stage{r}, Microbatch{m}, kind}), now, end, now, std::nullopt});
        const bool forward = kind == OpKind::forward;
        if (forward ? r + 1 < ranks : r > 0) {
          timeline.messages.push_back(
              {Op{Stage{r}, Microbatch{m}, forward ? OpKind::send_forward : OpKind::send_backward}, Rank{r},
               Rank{forward ? r + 1 : r - 1}, end, end, end, end + Duration{12'345}, Bytes{1 << 20}});
        }
        now = end + Duration{345};
      }
    }
  }
  return timeline;
}

void write_trace(benchmark::State& state) {
  const Timeline timeline = big_timeline(64, static_cast<std::uint32_t>(state.range(0)));
  const std::uint64_t events = count_trace_events({{timeline, nullptr, ""}});
  Drain drain;
  for (auto _ : state) {
    std::ostream out(&drain);
    write_chrome_trace(out, {{timeline, nullptr, ""}});
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(events) * state.iterations());
  state.SetBytesProcessed(drain.bytes());
  state.counters["events"] = static_cast<double>(events);
}
BENCHMARK(write_trace)->Arg(100)->Arg(800)->Arg(6400)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace plumb
