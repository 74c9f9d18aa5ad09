#include "tests/step_times/published.hpp"

#include "schedules/generators/generator.hpp"
#include "schedules/model/layer_costs.hpp"
#include "sim/estimate.hpp"
#include "tests/step_times/step_times.hpp"
#include "tools/planner/predict.hpp"

#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

namespace plumb::test {
namespace {

ModelShape llama(const char* name, std::uint64_t hidden, std::uint64_t layers, std::uint64_t heads,
                 std::uint64_t key_value_heads, std::uint64_t ffn, std::uint64_t vocab) {
  ModelShape model;
  model.name = name;
  model.hidden = hidden;
  model.layers = layers;
  model.ffn = ffn;
  model.vocab = vocab;
  model.attention.heads = heads;
  model.attention.key_value_heads = key_value_heads;
  model.attention.head_dim = hidden / heads;
  return model;
}

ModelShape llama_8b() { return llama("Llama-3-8B", 4096, 32, 32, 8, 14336, 128256); }
ModelShape llama_70b() { return llama("Llama-3-70B", 8192, 80, 64, 8, 28672, 128256); }
ModelShape llama_405b() { return llama("Llama-3.1-405B", 16384, 126, 128, 8, 53248, 128256); }

ModelShape nemotron_340b() {
  ModelShape model = llama("Nemotron-4-340B", 18432, 96, 96, 8, 73728, 256000);
  model.ffn_kind = FfnKind::gelu;  // squared ReLU: two linears as well
  return model;
}

ModelShape deepseek_v3() {
  ModelShape model = llama("DeepSeek-V3", 7168, 61, 128, 128, 18432, 129280);
  model.attention.head_dim = 192;
  model.attention.latent = LatentAttention{1536, 512, 64, 128, 128};
  ExpertsShape experts;
  experts.routed = 256;
  experts.per_token = 8;
  experts.ffn = 2048;
  experts.shared_ffn = 2048;
  experts.gate_bias = true;
  experts.in_layer.assign(61, true);
  for (std::size_t layer = 0; layer < 3; ++layer) experts.in_layer[layer] = false;
  model.experts = experts;
  return model;
}

ModelShape qwen_235b() {
  ModelShape model = llama("Qwen3-235B-A22B", 4096, 94, 64, 4, 12288, 151936);
  model.attention.head_dim = 128;
  model.attention.query_key_norm = true;
  ExpertsShape experts;
  experts.routed = 128;
  experts.per_token = 8;
  experts.ffn = 1536;
  experts.in_layer.assign(94, true);
  model.experts = experts;
  return model;
}

}  // namespace

std::vector<PublishedStep> published_steps() {
  const Efficiencies eager = eager_efficiencies();
  std::vector<PublishedStep> steps;
  const auto add = [&](PublishedStep step) { steps.push_back(std::move(step)); };

  // arXiv 2205.05198, tables 3 and 5: full recompute without, and selective recompute with sequence
  // parallelism.
  const auto megatron = [&](const char* name, ModelShape model, std::uint32_t pipeline, std::uint32_t chunks,
                            std::uint32_t batch, std::uint64_t micro_batch, double full, double selective) {
    for (const bool is_full : {true, false}) {
      PublishedStep step;
      step.name = std::string(name) + (is_full ? ", full recompute" : ", selective, sequence-parallel");
      step.source = "arXiv 2205.05198";
      step.device = "a100";
      step.software = eager;
      step.model = model;
      step.parallelism = {pipeline, 8, 1, 1, true, false};
      step.chunks = chunks;
      step.microbatches = static_cast<std::uint32_t>(batch / micro_batch);
      step.micro_batch = micro_batch;
      step.sequence = 2048;
      step.recompute = is_full ? Recompute::full : Recompute::selective;
      step.sequence_parallel = !is_full;
      step.schedule = chunks > 1 ? "interleaved-1f1b" : "1f1b";
      step.seconds = is_full ? full : selective;
      add(step);
    }
  };
  megatron("GPT 22B", gpt(6144, 64, 48, 2048), 1, 1, 4, 4, 1.42, 1.10);
  megatron("GPT 175B", gpt(12288, 96, 96, 2048), 8, 3, 64, 1, 18.13, 13.75);
  megatron("GPT 530B", gpt(20480, 128, 105, 2048), 35, 3, 280, 1, 49.05, 37.83);
  megatron("GPT 1T", gpt(25600, 160, 128, 2048), 64, 1, 512, 1, 94.42, 71.49);

  const auto modern = [&](std::string name, const char* source, const char* device, ModelShape model,
                          Parallelism parallelism, std::uint32_t chunks, std::uint32_t batch,
                          std::uint64_t micro_batch, std::uint64_t sequence, WeightType weights,
                          double seconds) {
    PublishedStep step;
    step.name = std::move(name);
    step.source = source;
    step.device = device;
    step.software =
        std::string_view(device) == "a100" ? fused_efficiencies() : device_description(device).efficiencies;
    step.model = std::move(model);
    step.parallelism = parallelism;
    step.chunks = chunks;
    step.microbatches = static_cast<std::uint32_t>(batch / micro_batch / parallelism.data);
    step.micro_batch = micro_batch;
    step.sequence = sequence;
    step.weights = weights;
    step.schedule = chunks > 1 ? "interleaved-1f1b" : "1f1b";
    step.seconds = seconds;
    add(step);
  };
  // Where a source gives tokens per second and device.
  const auto seconds_of = [](double batch, double sequence, double devices, double tokens_per_s) {
    return batch * sequence / devices / tokens_per_s;
  };
  const char* recipes = "NVIDIA DGX Cloud benchmarking recipes, 24.11";
  ModelShape gpt_175b = gpt(12288, 96, 96, 2048);
  for (const auto& [weights, small, large] :
       {std::tuple{WeightType::bf16, 8.309, 8.49}, std::tuple{WeightType::fp8, 5.626, 5.96}}) {
    const char* type = weights == WeightType::bf16 ? "bf16" : "fp8";
    modern(std::string("GPT-3 175B on 128, ") + type, recipes, "h100", gpt_175b, {8, 4, 4, 1}, 12, 256, 1,
           2048, weights, small);
    modern(std::string("GPT-3 175B on 2,048, ") + type, recipes, "h100", gpt_175b, {8, 4, 64, 1}, 12, 4096, 1,
           2048, weights, large);
  }
  for (const auto& [weights, small, large] :
       {std::tuple{WeightType::bf16, 4.61, 4.84}, std::tuple{WeightType::fp8, 3.16, 3.49}}) {
    const char* type = weights == WeightType::bf16 ? "bf16" : "fp8";
    modern(std::string("Nemotron-4 340B on 128, ") + type, recipes, "h100", nemotron_340b(), {8, 8, 2, 1}, 12,
           32, 1, 4096, weights, small);
    modern(std::string("Nemotron-4 340B on 2,048, ") + type, recipes, "h100", nemotron_340b(), {8, 8, 32, 1},
           12, 512, 1, 4096, weights, large);
  }
  const char* bridge = "Megatron Bridge performance summary, 25.09 to 25.11";
  modern("Llama-3-70B on 64, fp8", bridge, "h100", llama_70b(), {8, 4, 2, 1}, 5, 128, 1, 8192,
         WeightType::fp8, seconds_of(128, 8192, 64, 1602));
  modern("Llama-3-8B on 8, fp8 (sharded weights)", bridge, "h100", llama_8b(), {1, 1, 8, 1}, 1, 128, 1, 8192,
         WeightType::fp8, seconds_of(128, 8192, 8, 14451));
  modern("Qwen3-235B on 256, fp8", bridge, "h100", qwen_235b(), {8, 2, 16, 32}, 4, 2048, 1, 4096,
         WeightType::fp8, seconds_of(2048, 4096, 256, 1575));
  modern("DeepSeek-V3 on 1,024, fp8", bridge, "h100", deepseek_v3(), {8, 2, 64, 64}, 4, 8192, 1, 4096,
         WeightType::fp8, seconds_of(8192, 4096, 1024, 1297));
  modern("Llama-3-8B on 8, fp8", bridge, "b200", llama_8b(), {1, 1, 8, 1}, 1, 128, 2, 8192, WeightType::fp8,
         seconds_of(128, 8192, 8, 30624));
  modern("DeepSeek-V3 on 256, fp8", bridge, "b200", deepseek_v3(), {16, 1, 16, 8}, 1, 2048, 1, 4096,
         WeightType::fp8, seconds_of(2048, 4096, 256, 2139));
  modern("Llama-3-8B on 8, fp8", bridge, "gb200", llama_8b(), {1, 1, 8, 1}, 1, 128, 2, 8192, WeightType::fp8,
         seconds_of(128, 8192, 8, 31508));
  modern("Llama-3.1-405B on 256, fp8", bridge, "gb200", llama_405b(), {16, 4, 4, 1}, 4, 1536, 1, 8192,
         WeightType::fp8, seconds_of(1536, 8192, 256, 813));
  modern("Qwen3-235B on 256, bf16", bridge, "gb200", qwen_235b(), {8, 1, 32, 32}, 3, 8192, 1, 4096,
         WeightType::bf16, seconds_of(8192, 4096, 256, 4916));
  modern("DeepSeek-V3 on 256, bf16", bridge, "gb200", deepseek_v3(), {4, 1, 64, 64}, 4, 4096, 1, 4096,
         WeightType::bf16, seconds_of(4096, 4096, 256, 3139));
  modern("DeepSeek-V3 on 256, fp8", bridge, "gb200", deepseek_v3(), {8, 1, 32, 32}, 4, 4096, 1, 4096,
         WeightType::fp8, seconds_of(4096, 4096, 256, 4018));

  // arXiv 2407.21783, table 4 and section 3.3.2: 430 and 400 TFLOP/s a device on 8,192 and 16,384.
  const char* llama3 = "arXiv 2407.21783";
  const double flops = 8192 * train_flops_per_token(llama_405b(), 8192);
  modern("Llama-3.1-405B on 8,192, bf16", llama3, "h100", llama_405b(), {16, 8, 64, 1}, 4, 2048, 1, 8192,
         WeightType::bf16, 2048 * flops / 8192 / 430e12);
  modern("Llama-3.1-405B on 16,384, bf16", llama3, "h100", llama_405b(), {16, 8, 128, 1}, 4, 2048, 1, 8192,
         WeightType::bf16, 2048 * flops / 16384 / 400e12);

  // arXiv 2412.19437: 180,000 H800 hours for 10^12 tokens, 2,048 devices, a batch of 15,360 sequences.
  modern("DeepSeek-V3 on 2,048, fp8, DualPipe", "arXiv 2412.19437", "h800", deepseek_v3(), {16, 1, 128, 64},
         1, 15360, 1, 4096, WeightType::fp8, seconds_of(15360, 4096, 2048, 1e12 / (180e3 * 3600)));
  steps.back().schedule = "dualpipe";
  // torchtitan, 64 A100, weights sharded over all.
  modern("Llama-3-8B on 64, bf16 (sharded weights)", "torchtitan docs/performance, 2024", "a100", llama_8b(),
         {1, 1, 64, 1}, 1, 64, 1, 8192, WeightType::bf16, seconds_of(64, 8192, 64, 2973));
  modern("Llama-3-70B on 64, bf16, full recompute (sharded weights)", "torchtitan docs/performance, 2024",
         "a100", llama_70b(), {1, 1, 64, 1}, 1, 64, 1, 8192, WeightType::bf16, seconds_of(64, 8192, 64, 331));
  steps.back().recompute = Recompute::full;
  return steps;
}

Report predicted(const PublishedStep& step) {
  DeviceDescription device = device_description(step.device);
  device.efficiencies = step.software;
  Layout layout;
  layout.parallelism = step.parallelism;
  apply_software(device, layout);
  layout.parallelism.sequence_parallel = step.sequence_parallel;
  layout.numerics.weights = step.weights;
  layout.micro_batch_size = step.micro_batch;
  layout.sequence = step.sequence;
  layout.stages = even_stages(step.model, step.parallelism.pipeline * step.chunks);
  for (StageContent& stage : layout.stages) stage.recompute = step.recompute;
  const CostModel cost = estimate(device, step.model, layout);
  const Shape shape{step.parallelism.pipeline, step.microbatches,
                    step.chunks > 1 ? std::optional(step.chunks) : std::nullopt, std::nullopt};
  const LoweredSchedule schedule =
      make_lowered(generator(step.schedule), shape, {CommPlacement::per_op, step.parallelism.data});
  Report report = predict(schedule, cost, {}, Detail::actions).report;
  const Throughput worth = throughput(report.step_time, step.microbatches, device, step.model, layout);
  report.tokens_per_s = worth.tokens_per_s;
  report.mfu = worth.mfu;
  return report;
}

}  // namespace plumb::test
