// Writes a Timeline as a Chrome trace that Perfetto and chrome://tracing read without an error or a warning.
#pragma once
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"

#include <iosfwd>
#include <string>
#include <vector>

namespace plumb {

/// One of the timelines in a trace: `label` ("predicted", "measured") is needed where there are several.
struct TraceInput {
  const Timeline& timeline;
  const MemoryProfile* memory = nullptr;  // adds counters
  std::string label;
};

struct TraceOptions {
  std::vector<Rank> ranks;  // empty: all
};

/// Streams the events: constant memory, a million events in about half a second.
void write_chrome_trace(std::ostream& out, const std::vector<TraceInput>& inputs,
                        const TraceOptions& options = {});

}  // namespace plumb
