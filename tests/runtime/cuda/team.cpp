#include "tests/runtime/cuda/team.hpp"

#include "runtime/executor.hpp"
#include "runtime/step_record.hpp"
#include "runtime/together.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/ir/error.hpp"

#include <thread>
#include <utility>

namespace plumb::test {

ModelShape mlp(std::uint64_t hidden) {
  ModelShape model;
  model.architecture = Architecture::mlp;
  model.name = "mlp";
  model.hidden = hidden;
  model.ffn = 4 * hidden;
  return model;
}

ModelShape gpt(std::uint64_t hidden) {
  ModelShape model;
  model.name = "gpt";
  model.hidden = hidden;
  model.ffn = (8 * hidden / 3 + 127) / 128 * 128;
  model.vocab = 4096;
  model.attention.heads = model.attention.key_value_heads = hidden / 64;
  model.attention.head_dim = 64;
  return model;
}

ModelShape gpt2(std::uint64_t hidden) {
  ModelShape model = gpt(hidden);
  model.name = "gpt2";
  model.norm = NormKind::layer_norm;
  model.ffn_kind = FfnKind::gelu;
  model.position = PositionKind::learned;
  model.learned_positions = 1024;
  model.attention.qkv_bias = model.attention.output_bias = model.ffn_bias = true;
  model.tied_embeddings = true;
  return model;
}

ModelShape qwen3(std::uint64_t hidden) {
  ModelShape model = gpt(hidden);
  model.name = "qwen3";
  model.attention.query_key_norm = true;
  model.attention.heads *= 2;
  model.tied_embeddings = true;
  return model;
}

LoweredSchedule schedule_of(std::string_view name, std::uint32_t ranks, CommPlacement placement,
                            std::uint32_t data_parallel) {
  const Generator& made_by = generator(name);
  for (std::uint32_t m = 2 * ranks;; ++m) {
    try {
      return make_lowered(made_by, {ranks, m, std::nullopt, std::nullopt}, {placement, data_parallel});
    } catch (const BadInput&) {
      if (m > 4 * ranks) throw;
    }
  }
}

TrainingPlan plan_for(LoweredSchedule schedule, ModelShape model, std::uint64_t tokens, WeightType weights) {
  TrainingPlan plan;
  model.layers = schedule.stages;
  plan.layout.parallelism.pipeline = schedule.ranks();
  plan.layout.numerics.weights = weights;
  plan.layout.sequence = tokens;
  plan.layout.stages = even_stages(model, schedule.stages);
  plan.model = std::move(model);
  plan.schedule = std::move(schedule);
  return plan;
}

TrainingData data_of(const TrainingPlan& plan) {
  return TrainingData::synthetic(plan.model, plan.layout, plan.seed);
}

void load(Team& team, const TrainingPlan& plan) {
  const TrainingData data = data_of(plan);
  const std::uint32_t microbatches = plan.schedule.microbatches;
  std::vector<std::thread> threads;
  for (std::uint32_t i = 0; i < microbatches * plan.schedule.data_parallel; ++i) {
    threads.emplace_back([&, i] {
      const Microbatch microbatch{i % microbatches};
      MicrobatchData made;
      for (const auto& worker : team) {
        if (worker->copy() != i / microbatches || !worker->needs(microbatch)) continue;
        if (made == MicrobatchData{}) made = data.microbatch(1, i);
        worker->load(microbatch, made);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void step(Team& team) {
  run_together(team, [](Worker& worker) {
    worker.clear_gradients();
    execute(worker.program(), worker);
  });
}

Timeline timeline_of(Team& team, const TrainingPlan& plan) {
  std::vector<StepTimes> records;
  std::vector<StageMemory> memory(plan.schedule.stages);
  for (const auto& worker : team) {
    if (worker->copy() > 0) continue;
    records.push_back(worker->times());
    for (const Stage stage : worker->program().held)
      memory[stage.value] = worker->stage_memory()[stage.value];
  }
  return assemble_timeline(plan.schedule, records, memory);
}

std::vector<double> losses(Team& team, const TrainingPlan& plan) {
  std::vector<double> all(std::size_t{plan.schedule.microbatches} * plan.schedule.data_parallel);
  for (const auto& worker : team) {
    for (const auto& [microbatch, loss] : worker->losses())
      all[std::size_t{worker->copy()} * plan.schedule.microbatches + microbatch.value] = loss;
  }
  return all;
}

GradientCheck compare(Team& team, const TrainingPlan& plan, const NamedGradients& expected) {
  GradientCheck worst;
  for (const auto& worker : team) {
    NamedGradients own;
    NamedGradients of_expected;
    add_gradients(*worker, plan, own);
    for (const auto& [name, gradients] : own) of_expected[name] = expected.at(name);
    const GradientCheck check = compare_gradients(own, of_expected);
    if (worst.worst_parameter.empty() || !(check.max_difference <= worst.max_difference)) worst = check;
  }
  return worst;
}

}  // namespace plumb::test
