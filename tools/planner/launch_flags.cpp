#include "tools/planner/launch_flags.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

// Every stage as many layers, embedding and head at the ends, nothing else: what frameworks do by default.
std::optional<std::uint64_t> even_layers(const std::vector<StageContent>& stages) {
  for (const StageContent& stage : stages) {
    if (stage.layers != stages.front().layers || stage.multi_token_layers > 0) return std::nullopt;
  }
  return stages.front().layers;
}

Recompute recompute_of(const Layout& layout) { return layout.stages.front().recompute; }

std::string layers_of(const StageContent& stage) {
  std::string out;
  const auto add = [&](const std::string& name) {
    out += fmt::format("{}\"{}\"", out.empty() ? "" : ",", name);
  };
  if (stage.embedding) add("tok_embeddings");
  for (std::uint64_t k = 0; k < stage.layers; ++k) add(fmt::format("layers.{}", stage.first_layer + k));
  if (stage.head) {
    add("norm");
    add("output");
  }
  return "[" + out + "]";
}

}  // namespace

std::optional<std::vector<std::string>> megatron_flags(const LayoutPlan& plan, const ModelShape& model,
                                                       std::uint64_t global_batch) {
  const std::string_view schedule = plan.generator->name;
  const Parallelism& parallelism = plan.layout.parallelism;
  const bool overlapped = schedule == "interleaved-1f1b-overlap";
  if (schedule != "1f1b" && schedule != "interleaved-1f1b" && !(overlapped && parallelism.expert > 1)) {
    return std::nullopt;
  }
  std::vector<std::string> lines;
  std::string sizes = fmt::format("--tensor-model-parallel-size {} --pipeline-model-parallel-size {}",
                                  parallelism.tensor, parallelism.pipeline);
  if (model.experts) {
    sizes +=
        fmt::format(" --expert-model-parallel-size {} --expert-tensor-parallel-size 1", parallelism.expert);
  }
  if (parallelism.tensor > 1 && parallelism.sequence_parallel) sizes += " --sequence-parallel";
  lines.push_back(sizes);

  const std::uint32_t chunks = plan.shape.chunks.value_or(1);
  const std::optional<std::uint64_t> even = even_layers(plan.layout.stages);
  std::string stages;
  if (!even) {
    stages = fmt::format("--pipeline-model-parallel-layout \"{}\"", to_megatron(plan.layout.stages));
  } else if (chunks > 1) {
    stages = fmt::format("--num-layers-per-virtual-pipeline-stage {}", *even);
  }
  if (plan.shape.group) {
    stages += fmt::format("{}--microbatch-group-size-per-virtual-pipeline-stage {}",
                          stages.empty() ? "" : " ", *plan.shape.group);
  }
  if (!stages.empty()) lines.push_back(stages);

  lines.push_back(fmt::format("--micro-batch-size {} --global-batch-size {} --seq-length {}",
                              plan.layout.micro_batch_size, global_batch, plan.layout.sequence));
  std::string rest = "--bf16";
  if (plan.layout.numerics.weights == WeightType::fp8) rest += " --fp8-format hybrid";
  if (parallelism.shard_optimizer) rest += " --use-distributed-optimizer";
  if (model.multi_token_layers > 0) rest += fmt::format(" --mtp-num-layers {}", model.multi_token_layers);
  if (overlapped) rest += " --overlap-moe-expert-parallel-comm";
  lines.push_back(rest);
  if (recompute_of(plan.layout) == Recompute::full) {
    lines.emplace_back("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1");
  } else if (recompute_of(plan.layout) == Recompute::selective) {
    std::string modules;
    if (!plan.layout.numerics.fused_attention) {
      modules = " core_attn";
    } else {
      if (model.attention.latent && model.attention.latent->query_rank > 0) modules += " mla_up_proj";
      if (model.experts) modules += " moe_act";
    }
    lines.push_back("--recompute-granularity selective --recompute-modules" + modules);
  }
  return lines;
}

std::optional<std::vector<std::string>> torchtitan_config(const LayoutPlan& plan, std::uint64_t global_batch,
                                                          const std::string& csv) {
  if (plan.generator->copies > 1) return std::nullopt;
  constexpr std::array<std::pair<std::string_view, std::string_view>, 7> classes{{
      {"gpipe", "GPipe"},
      {"1f1b", "1F1B"},
      {"interleaved-1f1b", "Interleaved1F1B"},
      {"looped-bfs", "LoopedBFS"},
      {"interleaved-zb", "InterleavedZeroBubble"},
      {"zb-v", "ZBVZeroBubble"},
      {"dualpipe-v", "DualPipeV"},
  }};
  const Parallelism& parallelism = plan.layout.parallelism;
  std::vector<std::string> lines{"[parallelism]"};
  const auto put = [&](std::string_view key, const std::string& value) {
    lines.push_back(fmt::format("{} = {}", key, value));
  };
  put("pipeline_parallel_degree", fmt::format("{}", parallelism.pipeline));
  put("tensor_parallel_degree", fmt::format("{}", parallelism.tensor));
  put("data_parallel_shard_degree", fmt::format("{}", parallelism.data));
  if (parallelism.expert > 1) put("expert_parallel_degree", fmt::format("{}", parallelism.expert));
  if (parallelism.pipeline > 1) {
    const auto* named = std::find_if(classes.begin(), classes.end(),
                                     [&](const auto& row) { return row.first == plan.generator->name; });
    // PyTorch's own classes choose the group themselves.
    if (named != classes.end() && !plan.shape.group) {
      put("pipeline_parallel_schedule", fmt::format("\"{}\"", named->second));
    } else {
      put("pipeline_parallel_schedule", "\"_PipelineScheduleRuntime\"");
      put("pipeline_parallel_schedule_csv", fmt::format("\"{}\"", csv));
    }
    put("pipeline_parallel_microbatch_size", fmt::format("{}", plan.layout.micro_batch_size));
    std::string parts;
    for (const StageContent& stage : plan.layout.stages) {
      parts += fmt::format("{}{}", parts.empty() ? "" : ", ", layers_of(stage));
    }
    put("module_fqns_per_model_part", fmt::format("[{}]", parts));
  }
  lines.emplace_back("[training]");
  put("local_batch_size", fmt::format("{}", plan.layout.micro_batch_size * plan.shape.microbatches));
  put("global_batch_size", fmt::format("{}", global_batch));
  put("seq_len", fmt::format("{}", plan.layout.sequence));
  lines.emplace_back("[activation_checkpoint]");
  put("mode", fmt::format("\"{}\"", to_string(recompute_of(plan.layout))));
  return lines;
}

}  // namespace plumb
