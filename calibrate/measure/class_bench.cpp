#include "calibrate/measure/class_bench.hpp"

#include "calibrate/alternation.hpp"
#include "calibrate/measure/background.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

namespace plumb::measure {
namespace {

constexpr double long_enough_ns = 1e6;  // for the clock to be read, and a launch's gap not to count

Duration monotonic_now() {
  return {std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count()};
}

// A device that fails begins nothing; whoever samples beside it is told.
void wait_until(const std::atomic<bool>& begun) {
  const Duration give_up = monotonic_now() + Duration{1'000'000'000};
  while (!begun && monotonic_now() < give_up) std::this_thread::yield();
}

}  // namespace

ClassBench::ClassBench(const CalibrationRequest& request, layers::ProductAlgorithms& algorithms,
                       RankStreams& streams)
    : streams_(streams),
      work_(request.model, request.layout, algorithms, streams.main_lane),
      beside_(request.model, request.layout, algorithms, streams.main_lane),
      more_copies_lane_(more_copies_, streams.copy_lane.multiprocessors()) {
  streams.main.synchronize();
}

Measurement ClassBench::time(const SlowdownTarget& target, const StoppingRule& rule, Sampler& sampler) {
  const SlowdownKey& key = target.key;
  const bool copies = key.work_class == "send_recv";
  const layers::Lane& lane = copies_or_main(key.work_class);
  const layers::Lane& other = key.beside != "send_recv" ? streams_.beside_lane
                              : copies                  ? more_copies_lane_
                                                        : streams_.copy_lane;
  const double own_ns = once(key.work_class, rule, sampler);
  const double other_ns = once(key.beside, rule, sampler);
  // Long enough to meet several of the other's pieces, wherever between two of them it begins.
  const int times = static_cast<int>(std::clamp(std::max(2 * other_ns, long_enough_ns) / own_ns, 2.0, 60.0));
  const Timed timed = in_a_row(lane, key.work_class, times);
  const std::array<std::function<Sample()>, 2> turns{[&] { return sampler.once(timed); },
                                                     [&] {
                                                       std::atomic<bool> begun = false;
                                                       const Background beside(other.stream(), [&] {
                                                         beside_.launch(key.beside, other);
                                                         begun = true;
                                                       });
                                                       wait_until(begun);
                                                       return sampler.once(timed);
                                                     }};
  const Alternation rounds = alternate(
      turns, {rule, sampler.load().settling(), std::min(observing_load, rule.budget)}, monotonic_now);
  sampler.load().was_until_now();
  return {Slowdown{key, one_of(rounds.of(0), times), one_of(rounds.of(1), times), rounds.ratio(1, 0)},
          rounds.of(1).samples()};
}

const layers::Lane& ClassBench::copies_or_main(const std::string& work_class) const {
  return work_class == "send_recv" ? streams_.copy_lane : streams_.main_lane;
}

const ClassBench::Alone& ClassBench::alone(const std::string& work_class, const StoppingRule& rule,
                                           Sampler& sampler) {
  const layers::Lane& lane = copies_or_main(work_class);
  const auto [found, is_new] = alone_.try_emplace(work_class);
  Alone& alone = found->second;
  if (!is_new) return alone;
  alone.once_ns = once(work_class, rule, sampler);
  const int times = static_cast<int>(std::clamp(long_enough_ns / alone.once_ns, 4.0, 60.0));
  alone.each =
      one_of(sampler.sample(in_a_row(lane, work_class, times), WarmUp::until_the_clock_settles, rule), times);
  return alone;
}

double ClassBench::once(const std::string& work_class, const StoppingRule& rule, Sampler& sampler) {
  const auto [found, is_new] = once_ns_.try_emplace(work_class);
  if (is_new) {
    const StoppingRule rough{1, 3, 3, rule.budget};
    const SampleSet sampled =
        sampler.sample(in_a_row(copies_or_main(work_class), work_class, 1), WarmUp::a_few_runs, rough);
    found->second = static_cast<double>(sampled.summary().median.ns);
  }
  return found->second;
}

Timed ClassBench::in_a_row(const layers::Lane& lane, const std::string& work_class, int times) const {
  return {lane.stream(), begin_, end_, [this, &lane, work_class, times] {
            begin_.record(lane.stream());
            for (int i = 0; i < times; ++i) work_.launch(work_class, lane);
            end_.record(lane.stream());
          }};
}

Summary one_of(const SampleSet& samples, int times) {
  std::vector<Sample> each = samples.samples();
  for (Sample& sample : each) sample.duration.ns /= times;
  return summary_of(each);
}

}  // namespace plumb::measure
