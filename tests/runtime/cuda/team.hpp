// Workers of a small pipeline, and what they did.
#pragma once
#include "runtime/gradient_check.hpp"
#include "runtime/training_data.hpp"
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"
#include "schedules/ir/timeline.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace plumb::test {

/// How large a model the tests of GPU workers take: enough for a GPU's kernels, little enough for the host's.
struct Sizes {
  std::uint64_t mlp_hidden = 0;
  std::uint64_t gpt_hidden = 0;
  std::uint64_t tokens = 0;
  std::vector<WeightType> types;
};
Sizes sizes();

using Team = std::vector<std::unique_ptr<Worker>>;

/// A model of one layer a stage, on `tokens` tokens a microbatch (one sequence).
TrainingPlan plan_for(LoweredSchedule schedule, ModelShape model, std::uint64_t tokens, WeightType weights);
ModelShape mlp(std::uint64_t hidden);
/// Heads of 64, SwiGLU, RMSNorm, rotary positions, 4,096 tokens of vocabulary.
ModelShape gpt(std::uint64_t hidden);
/// The same in GPT-2's manner: LayerNorm, GELU, biases, learned positions, the head tied to the embedding.
ModelShape gpt2(std::uint64_t hidden);
/// The same in Qwen3's manner: norms of queries and keys, two heads to a key, the head tied to the embedding.
ModelShape qwen3(std::uint64_t hidden);

/// The schedule with the fewest microbatches from 2 p on that it takes.
LoweredSchedule schedule_of(std::string_view name, std::uint32_t ranks, CommPlacement placement,
                            std::uint32_t data_parallel = 1);
TrainingData data_of(const TrainingPlan& plan);
/// Gives every worker the microbatches of the first step that it needs.
void load(Team& team, const TrainingPlan& plan);
/// One step on what was loaded: gradients cleared, every rank's program executed.
void step(Team& team);
/// Of the first copy.
Timeline timeline_of(Team& team, const TrainingPlan& plan);

/// Mean losses of what this team's last stages computed: [copy x microbatches + microbatch].
std::vector<double> losses(Team& team, const TrainingPlan& plan);
/// Every worker's gradients against those of `expected` that it holds: the worst of all.
GradientCheck compare(Team& team, const TrainingPlan& plan, const NamedGradients& expected);

}  // namespace plumb::test
