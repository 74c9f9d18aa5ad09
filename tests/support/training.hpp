// Small models to train in tests.
#pragma once
#include "runtime/training_plan.hpp"
#include "schedules/generators/generator.hpp"

#include <cstdint>

namespace plumb::test {

/// A transformer of `layers` layers that takes next to no time: 16 wide, 4 heads on 2 keys, a vocabulary
/// of 32.
inline ModelShape tiny_gpt(std::uint64_t layers) {
  ModelShape model;
  model.name = "tiny";
  model.hidden = 16;
  model.layers = layers;
  model.ffn = 24;
  model.vocab = 32;
  model.attention.heads = 4;
  model.attention.key_value_heads = 2;
  model.attention.head_dim = 4;
  return model;
}

/// The same in GPT-2's manner: LayerNorm, learned positions, GELU, biases.
inline ModelShape tiny_gpt2(std::uint64_t layers) {
  ModelShape model = tiny_gpt(layers);
  model.norm = NormKind::layer_norm;
  model.ffn_kind = FfnKind::gelu;
  model.position = PositionKind::learned;
  model.learned_positions = 8;
  model.attention.key_value_heads = 4;
  model.attention.qkv_bias = model.attention.output_bias = model.ffn_bias = true;
  return model;
}

/// In Qwen3's manner: norms of queries and keys, and a tied head.
inline ModelShape tiny_qwen3(std::uint64_t layers) {
  ModelShape model = tiny_gpt(layers);
  model.name = "tiny qwen3";
  model.attention.query_key_norm = true;
  model.tied_embeddings = true;
  return model;
}

inline ModelShape tiny_mlp(std::uint64_t layers) {
  ModelShape model;
  model.architecture = Architecture::mlp;
  model.name = "mlp";
  model.hidden = 12;
  model.layers = layers;
  model.ffn = 48;
  return model;
}

/// One sequence of 8 tokens a microbatch, in float32.
inline TrainingPlan plan_of(const ModelShape& model, LoweredSchedule schedule) {
  TrainingPlan plan;
  plan.layout.numerics.weights = WeightType::fp32;
  plan.layout.micro_batch_size = 1;
  plan.layout.sequence = 8;
  plan.layout.stages = even_stages(model, schedule.stages);
  plan.layout.parallelism.pipeline = schedule.ranks();
  plan.layout.parallelism.data = schedule.data_parallel;
  plan.model = model;
  plan.schedule = std::move(schedule);
  return plan;
}

}  // namespace plumb::test
