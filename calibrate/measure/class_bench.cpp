#include "calibrate/measure/class_bench.hpp"

#include "calibrate/measure/background.hpp"

#include <algorithm>
#include <vector>

namespace plumb::measure {

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
  const Alone& own = alone(key.work_class, rule, sampler);
  const Alone& others = alone(key.beside, rule, sampler);
  // Long enough to meet several of the other's pieces, wherever between two of them it begins.
  const int times = static_cast<int>(std::clamp(4 * others.once_ns / own.once_ns, 4.0, 60.0));
  const Background beside(other.stream(), [&] { beside_.launch(key.beside, other); });
  const Sampled together =
      run(lane, work_, key.work_class, times, WarmUp::until_the_clock_settles, rule, sampler);
  return {Slowdown{key, own.each, one_of(together.set, times)}, together.set.samples()};
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
  constexpr double long_enough = 1e6;  // for the clock to be read, and a launch's gap not to count
  const StoppingRule rough{1, 3, 3, rule.budget};
  alone.once_ns = static_cast<double>(
      run(lane, work_, work_class, 1, WarmUp::a_few_runs, rough, sampler).set.summary().median.ns);
  const int times = static_cast<int>(std::clamp(long_enough / alone.once_ns, 4.0, 60.0));
  alone.each =
      one_of(run(lane, work_, work_class, times, WarmUp::until_the_clock_settles, rule, sampler).set, times);
  return alone;
}

Sampled ClassBench::run(const layers::Lane& lane, const ClassWork& work, const std::string& what, int times,
                        WarmUp warm_up, const StoppingRule& rule, Sampler& sampler) {
  return sampler.sample({lane.stream(), begin_, end_,
                         [&] {
                           begin_.record(lane.stream());
                           for (int i = 0; i < times; ++i) work.launch(what, lane);
                           end_.record(lane.stream());
                         }},
                        warm_up, rule);
}

Summary one_of(const SampleSet& samples, int times) {
  std::vector<Sample> each = samples.samples();
  for (Sample& sample : each) sample.duration.ns /= times;
  return summary_of(each);
}

}  // namespace plumb::measure
