#include "calibrate/measure/turn_sampler.hpp"

#include "calibrate/round_robin.hpp"
#include "runtime/device/clock_count.hpp"
#include "runtime/device/event.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>

namespace plumb::measure {
namespace {

using Clock = std::chrono::steady_clock;

// While the host waits for one turn, so many others are queued behind it.
constexpr std::size_t ahead = 2;
// A calibration that is interrupted loses no more than what it samples in turns just then.
constexpr Duration most_of_turns{8'000'000'000};

Duration since(Clock::time_point begin) { return {std::chrono::nanoseconds(Clock::now() - begin).count()}; }

// So many that some of a begin's and an end's blocks meet on one multiprocessor: of one block each, half the
// readings came to nothing.
constexpr std::uint32_t noting_blocks = 32;

struct Slot {
  device::Event begin{device::EventKind::timing};
  device::Event end{device::EventKind::timing};
  device::Event noted;
  device::ClockCount clock_at_begin{noting_blocks};
  device::ClockCount clock_at_end{noting_blocks};
};

struct Queued {
  std::size_t thing = 0;
  Slot* slot = nullptr;
  Duration host_launch;
  bool on_time = true;
  bool counts = true;  // not while it warms up
};

Duration median_of(std::vector<Duration>& durations) {
  if (durations.empty()) return {};
  const auto middle = durations.begin() + static_cast<std::ptrdiff_t>(durations.size() / 2);
  std::nth_element(durations.begin(), middle, durations.end());
  return *middle;
}

}  // namespace

std::vector<TurnSamples> sample_in_turns(const device::Stream& stream, std::span<const Turn> turns,
                                         const StoppingRule& rule, Load& load, const Meanwhile& meanwhile,
                                         Duration observe) {
  const Duration warming = load.settling();
  RoundRobin order(turns.size(), rule, turns.size() > 1 ? observe : observing_load, most_of_turns);
  std::vector<std::vector<Duration>> launches(turns.size());
  std::vector<std::vector<std::size_t>> taken(turns.size());  // [turn][sample]: which of its turns
  std::vector<std::size_t> ended(turns.size(), 0);
  std::array<Slot, ahead + 1> slots;
  std::deque<Queued> queue;

  const auto launch = [&](std::size_t number, bool counts) {
    const std::size_t thing = order.next();
    const Turn& turn = turns[thing];
    Slot& slot = slots[number % slots.size()];
    if (turn.before) turn.before();
    slot.clock_at_begin.note(stream);
    slot.begin.record(stream);
    const auto launched = Clock::now();
    turn.launch();
    const Duration host = since(launched);
    slot.end.record(stream);
    slot.clock_at_end.note(stream);
    slot.noted.record(stream);
    if (turn.after) turn.after();
    queue.push_back({thing, &slot, host, !slot.begin.happened(), counts});
  };
  const auto collect = [&] {
    const Queued one = queue.front();
    queue.pop_front();
    one.slot->noted.synchronize();
    if (turns[one.thing].ended) turns[one.thing].ended();
    const std::size_t turn = ended[one.thing]++;
    if (!one.counts) return;
    order.take(one.thing,
               {device::between(one.slot->begin, one.slot->end),
                mean_mhz(one.slot->clock_at_begin, one.slot->clock_at_end)},
               one.on_time);
    taken[one.thing].push_back(turn);
    launches[one.thing].push_back(one.host_launch);
  };

  const auto begun = Clock::now();
  auto counted_from = begun;
  bool counts = false;
  // At least one whole round is warm-up: kernels are loaded, and caches are as they will be.
  const std::size_t first_round = std::max<std::size_t>(turns.size(), 3);
  for (std::size_t number = 0;; ++number) {
    if (number == first_round && meanwhile.begin) meanwhile.begin();
    if (!counts && number >= first_round && since(begun) >= warming) {
      counts = true;
      counted_from = Clock::now();
    }
    launch(number, counts);
    if (queue.size() <= ahead) continue;
    collect();
    if (counts && order.over(since(counted_from))) break;
  }
  while (!queue.empty()) collect();
  if (meanwhile.end) meanwhile.end();

  std::vector<TurnSamples> sampled(turns.size());
  for (std::size_t thing = 0; thing < turns.size(); ++thing) {
    sampled[thing].samples = order.samples(thing);
    for (const std::size_t k : order.counting(thing)) sampled[thing].turns.push_back(taken[thing][k]);
    sampled[thing].host_launch = median_of(launches[thing]);
  }
  load.was_until_now();
  return sampled;
}

}  // namespace plumb::measure
