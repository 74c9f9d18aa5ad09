#include "tools/planner/predict.hpp"

#include "sim/memory.hpp"

namespace plumb {

Prediction predict(const LoweredSchedule& schedule, const CostModel& cost, const ExecutionOptions& options,
                   Detail detail) {
  Prediction prediction;
  prediction.timeline = simulate(schedule, cost, options, detail);
  prediction.memory = profile_memory(prediction.timeline, schedule, cost);
  prediction.report = summarize(prediction.timeline, prediction.memory);
  prediction.report.sources = cost.sources;
  return prediction;
}

}  // namespace plumb
