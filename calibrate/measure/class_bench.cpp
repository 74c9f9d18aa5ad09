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
  const layers::Lane& lane = copies ? streams_.copy_lane : streams_.main_lane;
  const layers::Lane& other = key.beside != "send_recv" ? streams_.beside_lane
                              : copies                  ? more_copies_lane_
                                                        : streams_.copy_lane;
  // Long enough to meet several of the other's pieces, wherever between two of them it begins.
  const StoppingRule rough{1, 3, 3, rule.budget};
  const auto typical = [&](const Sampled& s) { return static_cast<double>(s.set.summary().median.ns); };
  const double once = typical(run(lane, work_, key.work_class, 1, WarmUp::a_few_runs, rough, sampler));
  const double other_once = typical(run(other, beside_, key.beside, 1, WarmUp::a_few_runs, rough, sampler));
  const int times = static_cast<int>(std::clamp(4 * other_once / once, 4.0, 60.0));
  const Sampled alone =
      run(lane, work_, key.work_class, times, WarmUp::until_the_clock_settles, rule, sampler);
  const Background beside(other.stream(), [&] { beside_.launch(key.beside, other); });
  const Sampled together =
      run(lane, work_, key.work_class, times, WarmUp::until_the_clock_settles, rule, sampler);
  return {Slowdown{key, one_of(alone.set, times), one_of(together.set, times)}, together.set.samples()};
}

Sampled ClassBench::time_alone(const std::string& work_class, int times, WarmUp warm_up,
                               const StoppingRule& rule, Sampler& sampler) {
  return run(streams_.main_lane, work_, work_class, times, warm_up, rule, sampler);
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
