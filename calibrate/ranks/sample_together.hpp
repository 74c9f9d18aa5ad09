// Samples of something that several ranks do together: rounds of it, until rank 0 has seen enough.
#pragma once
#include "calibrate/statistics.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <functional>
#include <vector>

namespace plumb {
class Rendezvous;
}

namespace plumb::ranks {

/// What one rank saw of a round, in intervals of its own clock: clocks of two ranks are never compared.
struct Round {
  std::vector<Duration> durations;
  std::uint32_t sm_clock_mhz = 0;  // 0: it was not read
  bool operator==(const Round&) const = default;
};

struct Pace {
  Duration warm_up;                      // before the first sample; two rounds in any case
  Duration observe;                      // from the first sample on, at the least
  std::uint32_t repeats = 1;             // of the first round
  Duration round = Duration{5'000'000};  // how long one is to take; 0: all have the first one's repeats
  std::uint32_t most_repeats = 32;
};

struct Joint {
  /// This rank's part in a round: the thing so many times in a row. All ranks call it at about the same time.
  std::function<Round(std::uint32_t repeats)> play;
  /// On rank 0: the samples that the ranks' rounds come to, [rank] in; may be none. It may also change how
  /// often the thing is repeated in the next round.
  std::function<std::vector<Duration>(const std::vector<Round>& rounds, std::uint32_t& repeats)> combine;
};

/// All ranks together. The samples on rank 0, nothing on the others; none either where ten times the budget
/// brought none.
SampleSet sample_together(Rendezvous& rendezvous, const Joint& joint, const Pace& pace,
                          const StoppingRule& rule);

}  // namespace plumb::ranks
