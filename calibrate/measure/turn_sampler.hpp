// Samples several things of one stream in turns, the device never waiting for the host.
#pragma once
#include "calibrate/measure/sampler.hpp"
#include "calibrate/statistics.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/units.hpp"

#include <functional>
#include <span>
#include <vector>

namespace plumb::measure {

struct Turn {
  /// Queues what is to run right before, untimed: it leaves the caches as the thing finds them in a step, and
  /// gives the host the time to queue the thing.
  std::function<void()> before;
  /// Queues the thing.
  std::function<void()> launch;
  /// Queues what is to run right behind, untimed; may be nothing.
  std::function<void()> after = {};
  /// Once it has ended; may be nothing. RoundRobin end in the order in which they were launched.
  std::function<void()> ended = {};
};

struct TurnSamples {
  std::vector<Sample> samples;
  std::vector<std::size_t> turns;  // [sample] which of the thing's turns it was, of those that have ended
  Duration host_launch;            // median of what `launch` took on the host
};

/// What goes on beside all turns: begun once each has run and whatever they need is there, and ended before
/// any of it is given back, so in between nothing waits for the whole device.
struct Meanwhile {
  std::function<void()> begin = {};
  std::function<void()> end = {};
};

// The power limit's control swings with a period of a third of a second to a whole one: several of them for
// what is compared with each other; one thing alone is compared with nothing that was sampled beside it.
inline constexpr Duration observing_turns{3'000'000'000};

/// All in `stream`. Another turn is queued before the last one has ended, so that the measured rank is as
/// busy as one of a full pipeline; what the host was late for does not count (calibrate/round_robin). Warmed
/// up until the clock has settled, which `load` knows. `observe`: for so long at the least, where there are
/// several. [turn]
std::vector<TurnSamples> sample_in_turns(const device::Stream& stream, std::span<const Turn> turns,
                                         const StoppingRule& rule, Load& load,
                                         const Meanwhile& meanwhile = {}, Duration observe = observing_turns);

}  // namespace plumb::measure
