// Workers run together, a thread each, on data that a seed makes.
#pragma once
#include "runtime/worker.hpp"
#include "schedules/ir/timeline.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace plumb::test {

using Team = std::vector<std::unique_ptr<Worker>>;

/// Calls `what` with every worker, each in a thread of its own. Where one throws, all are aborted, and the
/// first exception is thrown on.
void together(Team& team, const std::function<void(Worker&)>& what);

/// A model of one layer a stage, on `tokens` tokens a microbatch (one sequence).
TrainingPlan plan_for(LoweredSchedule schedule, ModelShape model, std::uint64_t tokens, WeightType weights);
ModelShape mlp(std::uint64_t hidden);
/// Heads of 64, SwiGLU, RMSNorm, rotary positions, 4,096 tokens of vocabulary.
ModelShape gpt(std::uint64_t hidden);

/// Gives every worker the microbatches that it needs.
void load_data(Team& team, const TrainingPlan& plan);
/// One step: gradients cleared, every rank's program executed.
void step(Team& team);
Timeline timeline_of(Team& team, const TrainingPlan& plan);

/// The schedule of one rank that holds all stages and takes microbatch by microbatch through all of them.
LoweredSchedule unpipelined(std::uint32_t stages, std::uint32_t microbatches);

/// Summed gradients of every stage: [stage].
std::vector<std::vector<float>> gradients(Team& team, std::uint32_t stages);
/// Mean losses: [microbatch].
std::vector<double> losses(Team& team, std::uint32_t microbatches);

/// The largest |x - y|^2 / (|x|^2 + |y|^2) of one parameter, and which.
struct Difference {
  double largest = 0;
  std::string parameter;
};
/// Of every copy of every stage against `expected`.
Difference compare(Team& team, const TrainingPlan& plan, const std::vector<std::vector<float>>& expected);

}  // namespace plumb::test
