// Takes samples of one thing until a stopping rule is satisfied.
#pragma once
#include "calibrate/measure/gate.hpp"
#include "calibrate/statistics.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/units.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

namespace plumb::measure {

/// `launch` queues the thing once and records `begin` and `end` around it. It begins in `stream`, which is
/// held back until all is queued; whatever it uses of other streams has to wait for an event of that one.
struct Timed {
  const device::Stream& stream;
  const device::Event& begin;
  const device::Event& end;
  std::function<void()> launch;
};

/// How long a thing runs before its first sample. A GPU under load falls from its highest clock to the one at
/// which it keeps its power limit, past it and back again, in some 300 ms (measured on an H200: 1.54 ms, 1.92
/// ms, then 1.80 ms for the same work); a pipeline runs at the last one.
enum class WarmUp : std::uint8_t { a_few_runs, until_the_clock_settles };

/// When the GPU was last under load, and so how long the next load takes to settle.
class Load {
 public:
  /// What runs beside the things that are sampled is another from now on, and so will the clock be.
  void changes() { until_.reset(); }
  void was_until_now() { until_ = std::chrono::steady_clock::now(); }
  /// Less where the load has hardly ceased.
  Duration settling() const;

 private:
  std::optional<std::chrono::steady_clock::time_point> until_;
};
/// Several swings of the power limit's control: no sample set under load is taken in less.
constexpr Duration observing_load{300'000'000};

class Sampler {
 public:
  Sample once(const Timed& timed);
  SampleSet sample(const Timed& timed, WarmUp warm_up, const StoppingRule& rule);
  const device::ClockReader& clock() const { return clock_; }
  /// For whoever loads the GPU beside this.
  Load& load() { return load_; }

 private:
  Gate gate_;
  device::ClockReader clock_;
  Load load_;
};

}  // namespace plumb::measure
