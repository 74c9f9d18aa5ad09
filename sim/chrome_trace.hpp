// Writes a Timeline as a Chrome trace that Perfetto and chrome://tracing read without an error or a warning.
#pragma once
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

namespace plumb {

/// One of the timelines in a trace: `label` ("predicted", "measured") is needed where there are several.
struct TraceInput {
  const Timeline& timeline;
  const MemoryProfile* memory = nullptr;  // adds what is held in GiB, where its costs say bytes
  std::string label;
};

/// An instant on a rank's compute thread of the first timeline: where something happens that takes no time.
struct TraceMark {
  Rank rank;
  TimePoint time;
  std::string name;
};

struct TraceOptions {
  std::vector<Rank> ranks;  // empty: all
  std::vector<TraceMark> marks;
};

/// Streams the events; beside them it holds a few words a message and an idle slice.
///
/// A process a rank and timeline (pid = timelines x rank + number of the timeline, so predicted and measured
/// stand together), and in it one thread (tid = (pid + 1) x 100 + k) for each of: compute, the segments of
/// recipes by lane, idle (slices named by cause), send, recv, collective. Slices on one thread never overlap:
/// what runs at the same time gets a second thread (`send 2`). Slices are named by their tokens.
///
/// Counters: `activations` in chunks, or in GiB where the memory profile has bytes (all that is held beyond
/// weights, gradients, optimizer state and reserve; `memory` then has the total), and `in-flight`, the
/// microbatches of which the rank holds something.
///
/// A message is a slice on both sides and a flow between their starts. One that takes no time has no slice;
/// its flow runs from the last nanosecond of the producing action to the start of the one that needs it.
/// What takes no time is left out: viewers would tie other slices' flows to it. The first compute op starts
/// at 0, unless something was drawn before it.
///
/// Throws BadInput where options name a rank that no timeline has.
void write_chrome_trace(std::ostream& out, const std::vector<TraceInput>& inputs,
                        const TraceOptions& options = {});

/// How many events write_chrome_trace would write, metadata included: viewers become slow above about a
/// million.
std::uint64_t count_trace_events(const std::vector<TraceInput>& inputs, const TraceOptions& options = {});

}  // namespace plumb
