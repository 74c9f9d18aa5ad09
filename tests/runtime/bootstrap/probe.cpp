// Started by real launchers: finds out who it is, meets the others, and rank 0 prints what all of them saw.
#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"

#include <chrono>
#include <cstdio>
#include <exception>

#include <fmt/format.h>
#include <unistd.h>

int main() {
  using namespace plumb;
  try {
    const Placement placement = discover({}, process_environment(), getppid());
    Rendezvous meeting(placement, std::chrono::seconds{20});
    const std::string id = meeting.broadcast(placement.rank == 0 ? std::string(128, '7') : "");
    const ClockOffset clock = meeting.clock_offset([] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      return TimePoint{std::chrono::nanoseconds(now).count()};
    });
    const bool close =
        clock.offset.ns <= clock.uncertainty.ns + 1 && -clock.offset.ns <= clock.uncertainty.ns + 1;
    const auto lines = meeting.gather(fmt::format("{} of {} local {} by {}, id {}, clock {}", placement.rank,
                                                  placement.ranks, placement.local_rank, placement.launcher,
                                                  id.size(), close ? "good" : "off"));
    meeting.barrier();
    for (const std::string& line : lines) std::puts(line.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
  return 0;
}
