// Parameters against the published counts, FLOPs against arXiv 2401.10241's table 1, kept bytes against
// arXiv 2205.05198, and the kept set of the fused kernels by hand.
#include "schedules/model/layer_costs.hpp"

#include "schedules/ir/error.hpp"
#include "tests/schedules/model/shapes.hpp"

#include <map>
#include <tuple>

#include <gtest/gtest.h>

namespace plumb {
namespace {

using testing::deepseek_v3;
using testing::gpt;
using testing::layout_of;
using testing::llama;
using testing::mixtral_8x7b;
using testing::mlp;

// One layer in the middle of a stage: the parts of the group.
std::vector<Part> one_layer(const ModelShape& model, const Layout& layout) {
  for (const PartGroup& group : stage_groups(model, layout, Stage{0})) {
    if (group.name == "layer" || group.name == "expert_layer") return group.parts;
  }
  return {};
}

bool is_row_statistic(const KeptTensor& tensor) {
  return tensor.name == "rstd" || tensor.name == "mean" || tensor.name == "query_rstd" ||
         tensor.name == "log_sum_exp";
}

std::int64_t kept_but_statistics(const std::vector<Part>& parts) {
  std::int64_t sum = 0;
  for (const Part& part : parts) {
    for (const KeptTensor& tensor : part.kept)
      if (!is_row_statistic(tensor) && !tensor.recomputed) sum += tensor.bytes.count;
  }
  return sum;
}

TEST(Parameters, OfPublishedModelsAreExact) {
  EXPECT_EQ(parameters(llama(4096, 32, 32, 8, 14336, 128256)), 8'030'261'248u);       // Llama-3-8B
  EXPECT_EQ(parameters(llama(8192, 80, 64, 8, 28672, 128256)), 70'553'706'496u);      // Llama-3-70B
  EXPECT_EQ(parameters(llama(16384, 126, 128, 8, 53248, 128256)), 405'853'388'800u);  // Llama-3.1-405B
  ModelShape qwen = llama(8192, 80, 64, 8, 29568, 152064);
  qwen.attention.qkv_bias = true;
  EXPECT_EQ(parameters(qwen), 72'706'203'648u);  // Qwen2.5-72B
  EXPECT_EQ(parameters(mixtral_8x7b()), 46'702'792'704u);
  EXPECT_EQ(parameters(deepseek_v3()), 671'026'419'200u);
}

TEST(Parameters, OfGpt2CountItsTiedMatrixOnce) {
  ModelShape model = gpt(768, 12, 12);
  model.vocab = 50257;
  model.learned_positions = 1024;
  model.tied_embeddings = true;
  EXPECT_EQ(parameters(model), 124'439'808u);  // GPT-2 small
}

// Of DeepSeek-V3's 671 B a token meets about 37 B (arXiv 2412.19437). By hand: every token meets all but 248
// of 256 experts of 3 x 7168 x 2048 in each of 58 layers: 671,026,419,200 - 58 x 248 x 44,040,192.
TEST(Parameters, ActiveOnesLeaveOutTheExpertsATokenIsNotRoutedTo) {
  EXPECT_EQ(active_parameters(deepseek_v3()), 671'026'419'200u - 58ull * 248 * 44'040'192);
  EXPECT_NEAR(static_cast<double>(active_parameters(deepseek_v3())), 37e9, 1e9);
  EXPECT_EQ(active_parameters(llama(4096, 32, 32, 8, 14336, 128256)), 8'030'261'248u);
}

// The MTP module has "11.5B unique parameters" (DeepSeek-V3's README_WEIGHTS): a layer, 2H -> H, three norms.
// Layer: MLA 7168 x 1536 + 1536 + 1536 x 128 x 192 + 7168 x 576 + 512 + 512 x 128 x 256 + 128 x 128 x 7168 =
// 187,107,328; 257 experts of 44,040,192; router 256 x 7168 + 256; two norms. Then 2 x 7168^2 + 3 x 7168.
TEST(Parameters, OfTheMtpModuleStandApart) {
  const std::uint64_t layer = 187'107'328ull + 257ull * 44'040'192 + 256 * 7168 + 256 + 2 * 7168;
  EXPECT_EQ(multi_token_parameters(deepseek_v3()), layer + 2ull * 7168 * 7168 + 3 * 7168);
  EXPECT_NEAR(static_cast<double>(multi_token_parameters(deepseek_v3())), 11.5e9, 0.15e9);
}

// arXiv 2401.10241, table 1, per layer of a GPT: F sbh(24h + 4s), B (ours: backward_input) sbh(24h + 8s),
// W sbh(24h).
TEST(LayerFlops, AreThoseOfTheZeroBubblePapersTableOne) {
  const ModelShape model = gpt(4096, 2, 32);
  const Layout layout = layout_of(model, 1, 3, 1024);
  double forward = 0, backward_input = 0, backward_weight = 0;
  for (const Part& part : one_layer(model, layout)) {
    forward += part.forward.flops;
    backward_input += part.backward_input.flops;
    backward_weight += part.backward_weight.flops;
  }
  const double s = 1024, b = 3, h = 4096;
  EXPECT_DOUBLE_EQ(forward, s * b * h * (24 * h + 4 * s));
  EXPECT_DOUBLE_EQ(backward_input, s * b * h * (24 * h + 8 * s));
  EXPECT_DOUBLE_EQ(backward_weight, s * b * h * (24 * h));
}

// 6 FLOPs a parameter of every product, plus 12 s h a layer: with the head, without the lookup and the gains.
TEST(TrainFlops, OfATokenAreSixAParameterAndTheAttention) {
  const double layer = 4096. * (4096 + 2 * 1024) + 4096. * 4096 + 3. * 4096 * 14336;
  EXPECT_DOUBLE_EQ(train_flops_per_token(llama(4096, 32, 32, 8, 14336, 128256), 8192),
                   6 * (32 * layer + 4096. * 128256) + 32 * 12. * 8192 * 4096);
}

// t = 15, bf16, float32 gradients. qkv: 15 x 8 in, 16 x 8 weights, 15 x 16 out; backward_input reads the
// output's gradient and the weights and writes the input's; backward_weight reads both and adds to 16 x 8 in
// float32. A norm reads and writes 15 x 8, and in backward reads two and writes one.
TEST(BytesMoved, TouchEveryOperandOnce) {
  const ModelShape model = llama(8, 1, 4, 2, 12, 32);
  std::size_t seen = 0;
  for (const Part& part : one_layer(model, layout_of(model, 1, 3, 5))) {
    if (part.name == "qkv") {
      EXPECT_EQ(part.gemm, (GemmShape{15, 16, 8, 1}));
      EXPECT_EQ(part.forward.moved, Bytes{2 * (15 * 8 + 16 * 8 + 15 * 16)});
      EXPECT_EQ(part.backward_input.moved, Bytes{2 * (15 * 16 + 16 * 8 + 15 * 8)});
      EXPECT_EQ(part.backward_weight.moved, Bytes{2 * (15 * 16 + 15 * 8) + 2 * 4 * 16 * 8});
      ++seen;
    }
    if (part.name == "norm_1") {
      EXPECT_EQ(part.forward.moved, Bytes{2 * 2 * 15 * 8});
      EXPECT_EQ(part.backward_input.moved, Bytes{3 * 2 * 15 * 8});
      ++seen;
    }
    if (part.name == "attention") {  // q and o 15 x 8, k and v 15 x 4, a float32 a row and head
      EXPECT_EQ(part.forward.moved, Bytes{2 * 15 * (8 + 8 + 4 + 4) + 4 * 15 * 4});
      ++seen;
    }
  }
  EXPECT_EQ(seen, 3u);
}

struct PaperModel {
  const char* name;
  std::uint64_t heads, hidden, layers, micro_batch;
};
// Table 3 of arXiv 2205.05198; sequence 2048, tensor parallelism 8.
constexpr PaperModel paper_models[] = {{"22B", 64, 6144, 48, 4},
                                       {"175B", 96, 12288, 96, 1},
                                       {"530B", 128, 20480, 105, 1},
                                       {"1T", 160, 25600, 128, 1}};

// Table 2 of arXiv 2205.05198. It neglects the norms' statistics, so they are left out here: of float32 a
// token two for each norm.
TEST(KeptBytes, WithDropoutAreThoseOfTheSequenceParallelPaper) {
  for (const PaperModel& paper : paper_models) {
    SCOPED_TRACE(paper.name);
    const ModelShape model = gpt(paper.hidden, paper.layers, paper.heads);
    Layout layout = layout_of(model, 1, paper.micro_batch, 2048);
    layout.numerics.fused_attention = false;
    layout.numerics.dropout = true;
    const auto b = static_cast<std::int64_t>(paper.micro_batch), h = static_cast<std::int64_t>(paper.hidden),
               a = static_cast<std::int64_t>(paper.heads);
    const std::int64_t s = 2048, t = 8;
    const auto kept = [&](std::uint32_t tensor, bool sequence_parallel, Recompute recompute) {
      layout.parallelism.tensor = tensor;
      layout.parallelism.sequence_parallel = sequence_parallel;
      layout.stages[0].recompute = recompute;
      return kept_but_statistics(one_layer(model, layout));
    };
    EXPECT_EQ(kept(1, false, Recompute::none), s * b * h * 34 + 5 * a * s * s * b);
    EXPECT_EQ(kept(8, false, Recompute::none), s * b * h * 10 + (s * b * h * 24 + 5 * a * s * s * b) / t);
    EXPECT_EQ(kept(8, true, Recompute::none), (s * b * h * 34 + 5 * a * s * s * b) / t);
    EXPECT_EQ(kept(8, false, Recompute::selective), s * b * h * 10 + s * b * h * 24 / t);
    EXPECT_EQ(kept(8, true, Recompute::selective), s * b * h * 34 / t);
    EXPECT_EQ(kept(8, false, Recompute::full), s * b * h * 2);
    EXPECT_EQ(kept(8, true, Recompute::full), s * b * h * 2 / t);
  }
}

// The paper's section 4.3: final norm 2sbh, the output layer's input 2sbh, logits in float32 4sbv.
TEST(KeptBytes, OfAnUnfusedHeadAreThoseOfTheSequenceParallelPaper) {
  const ModelShape model = gpt(6144, 2, 64);
  Layout layout = layout_of(model, 1, 4, 2048);
  layout.numerics.fused_loss = false;
  layout.parallelism.tensor = 8;
  const std::vector<PartGroup> groups = stage_groups(model, layout, Stage{0});
  const std::int64_t sb = 4 * 2048;
  EXPECT_EQ(groups.back().name, "head");
  // The paper leaves out the targets, 4 bytes a token.
  EXPECT_EQ(kept_but_statistics(groups.back().parts), sb * 4 * 6144 / 8 + sb * 4 * 51200 / 8 + sb * 4);
}

std::map<std::string, std::int64_t> by_name(const std::vector<Part>& parts) {
  std::map<std::string, std::int64_t> out;
  for (const Part& part : parts) {
    for (const KeptTensor& tensor : part.kept) {
      out[part.name + "." + tensor.name + (tensor.for_input ? " i" : "") + (tensor.for_weight ? " w" : "")] =
          tensor.bytes.count;
    }
    if (part.gradient_kept.count > 0) out["d(" + part.name + ")"] = part.gradient_kept.count;
  }
  return out;
}

// Hidden 8, 4 heads of 2, 2 key/value heads, FFN 12, 3 sequences of 5 tokens: t = 15; bf16.
TEST(KeptBytes, OfALlamaLayerAreTheContractsByHand) {
  const ModelShape model = llama(8, 1, 4, 2, 12, 32);
  const std::map<std::string, std::int64_t> expected{{"norm_1.x i", 15 * 8 * 2},
                                                     {"norm_1.rstd i", 15 * 4},
                                                     {"qkv.input w", 15 * 8 * 2},
                                                     {"d(qkv)", 15 * (8 + 2 * 4) * 2},
                                                     {"attention.q i", 15 * 8 * 2},
                                                     {"attention.k i", 15 * 4 * 2},
                                                     {"attention.v i", 15 * 4 * 2},
                                                     {"attention.o i w", 15 * 8 * 2},
                                                     {"attention.log_sum_exp i", 15 * 4 * 4},
                                                     {"d(output)", 15 * 8 * 2},
                                                     {"norm_2.x i", 15 * 8 * 2},
                                                     {"norm_2.rstd i", 15 * 4},
                                                     {"gate_up.input w", 15 * 8 * 2},
                                                     {"d(gate_up)", 15 * 24 * 2},
                                                     {"swiglu.gate_and_up i", 15 * 24 * 2},
                                                     {"down.input w", 15 * 12 * 2},
                                                     {"d(down)", 15 * 8 * 2}};
  EXPECT_EQ(by_name(one_layer(model, layout_of(model, 1, 3, 5))), expected);
}

TEST(KeptBytes, InFloat32AreTwiceThoseInBf16ButForStatistics) {
  const ModelShape model = gpt(8, 1, 4);
  Layout layout = layout_of(model, 1, 3, 5);
  auto half = by_name(one_layer(model, layout));
  layout.numerics.weights = WeightType::fp32;
  for (const auto& [name, bytes] : by_name(one_layer(model, layout))) {
    const bool statistic = name.find("rstd") != std::string::npos || name.find("mean") != std::string::npos ||
                           name.find("log_sum_exp") != std::string::npos;
    EXPECT_EQ(bytes, half.at(name) * (statistic ? 1 : 2)) << name;
  }
}

TEST(KeptBytes, OfEmbeddingHeadAndLossAreTheContractsByHand) {
  const ModelShape model = llama(8, 1, 4, 2, 12, 32);
  const std::vector<PartGroup> groups = stage_groups(model, layout_of(model, 1, 3, 5), Stage{0});
  EXPECT_EQ(
      by_name(groups.front().parts),
      (std::map<std::string, std::int64_t>{{"embedding.token_ids w", 15 * 4}, {"d(embedding)", 15 * 8 * 2}}));
  EXPECT_EQ(by_name(groups.back().parts),
            (std::map<std::string, std::int64_t>{{"final_norm.x i", 15 * 8 * 2},
                                                 {"final_norm.rstd i", 15 * 4},
                                                 {"head.input i w", 15 * 8 * 2},
                                                 {"d(head)", 15 * 32 * 2},
                                                 {"loss.targets i", 15 * 4},
                                                 {"loss.log_sum_exp i", 15 * 4}}));
  for (const Part& part : groups.back().parts)
    if (part.name == "head") {
      EXPECT_EQ(part.forward.workspace, Bytes{15 * 32 * 2});
    }
}

TEST(KeptBytes, OfDualPipesExampleStageAreTheContractsByHand) {
  const ModelShape model = mlp(8, 2);
  Layout layout = layout_of(model, 2, 1, 6);
  layout.numerics.weights = WeightType::fp32;
  const std::map<std::string, std::int64_t> layer{{"linear_1.input w", 6 * 8 * 4},
                                                  {"d(linear_1)", 6 * 32 * 4},
                                                  {"gelu.pre_activation i", 6 * 32 * 4},
                                                  {"linear_2.input w", 6 * 32 * 4},
                                                  {"d(linear_2)", 6 * 8 * 4}};
  EXPECT_EQ(by_name(stage_parts(model, layout, Stage{0})), layer);
  std::map<std::string, std::int64_t> last = layer;
  last["loss.output i"] = last["loss.target i"] = 6 * 8 * 4;
  EXPECT_EQ(by_name(stage_parts(model, layout, Stage{1})), last);
  const StageBytes bytes = stage_bytes(model, layout, Stage{1});
  EXPECT_EQ(bytes.kept_by_forward, Bytes{6 * 4 * (8 + 32 + 32 + 8 + 8)});
  EXPECT_EQ(bytes.freed_by_backward_input, Bytes{6 * 4 * (32 + 8 + 8)});
  EXPECT_EQ(bytes.added_by_backward_input, Bytes{6 * 4 * (32 + 8)});
  EXPECT_EQ(bytes.parameters, 2u * 8 * 32);
}

// Hidden 8, 4 experts of 6, 2 a token, a shared one of 10, expert group of 2; t = 15, so 30 rows are routed.
TEST(KeptBytes, OfExpertsAreTheContractsByHand) {
  ModelShape model = llama(8, 1, 4, 2, 12, 32);
  model.experts = ExpertsShape{4, 2, 6, 10, false, false, {true}};
  Layout layout = layout_of(model, 1, 3, 5);
  layout.parallelism.data = 2;
  layout.parallelism.expert = 2;
  auto kept = by_name(one_layer(model, layout));
  const std::map<std::string, std::int64_t> expected{{"router.input w", 15 * 8 * 2},
                                                     {"router.scores i", 15 * 4 * 4},
                                                     {"router.chosen i", 15 * 2 * 4},
                                                     {"d(router)", 15 * 4 * 4},
                                                     {"shared_swiglu.gate_and_up i", 15 * 20 * 2},
                                                     {"d(shared_gate_up)", 15 * 20 * 2},
                                                     {"shared_down.input w", 15 * 10 * 2},
                                                     {"d(shared_down)", 15 * 8 * 2},
                                                     {"experts_gate_up.input w", 30 * 8 * 2},
                                                     {"d(experts_gate_up)", 30 * 12 * 2},
                                                     {"experts_swiglu.gate_and_up i", 30 * 12 * 2},
                                                     {"experts_swiglu.weights i", 30 * 4},
                                                     {"experts_down.input w", 30 * 6 * 2},
                                                     {"d(experts_down)", 30 * 8 * 2}};
  std::erase_if(kept, [](const auto& entry) {
    return entry.first.find("router") == std::string::npos &&
           entry.first.find("shared") == std::string::npos &&
           entry.first.find("experts") == std::string::npos;
  });
  EXPECT_EQ(kept, expected);
  for (const Part& part : one_layer(model, layout)) {
    if (part.name == "dispatch") {
      EXPECT_EQ(part.forward.sent, Bytes{30 * 8 * 2});
    }
    // 30 rows on each device's 2 of 4 experts: 15 each.
    if (part.name == "experts_gate_up") {
      EXPECT_EQ(part.gemm, (GemmShape{15, 12, 8, 2}));
    }
  }
}

// Hidden 8, 2 heads, query rank 6, key/value rank 4, rope 2, nope 3, value 5: keys of 5; t = 15; bf16.
TEST(KeptBytes, OfLatentAttentionAreTheContractsByHand) {
  ModelShape model = llama(8, 1, 2, 2, 12, 32);
  model.attention.head_dim = 5;
  model.attention.latent = LatentAttention{6, 4, 2, 3, 5};
  std::map<std::string, std::int64_t> expected{{"norm_1.x i", 15 * 8 * 2},
                                               {"norm_1.rstd i", 15 * 4},
                                               {"qkv_down.input w", 15 * 8 * 2},
                                               {"d(qkv_down)", 15 * (6 + 4 + 2) * 2},
                                               {"latent_norm.x i", 15 * (6 + 4) * 2},
                                               {"latent_norm.rstd i", 15 * 4},
                                               {"latent_norm.query_rstd i", 15 * 4},
                                               {"q_up.input w", 15 * 6 * 2},
                                               {"d(q_up)", 15 * 2 * 5 * 2},
                                               {"kv_up.input w", 15 * 4 * 2},
                                               {"d(kv_up)", 15 * 2 * (3 + 5) * 2},
                                               {"attention.q i", 15 * 2 * 5 * 2},
                                               {"attention.k i", 15 * 2 * 5 * 2},
                                               {"attention.v i", 15 * 2 * 5 * 2},
                                               {"attention.o i w", 15 * 2 * 5 * 2},
                                               {"attention.log_sum_exp i", 15 * 2 * 4},
                                               {"d(output)", 15 * 8 * 2}};
  auto kept = by_name(one_layer(model, layout_of(model, 1, 3, 5)));
  std::erase_if(kept, [](const auto& entry) {
    return entry.first.find("norm_2") != std::string::npos ||
           entry.first.find("gate_up") != std::string::npos ||
           entry.first.find("swiglu") != std::string::npos || entry.first.find("down.") == 0 ||
           entry.first == "d(down)";
  });
  EXPECT_EQ(kept, expected);

  // Without a query rank, queries come from the norm's output, which is kept once.
  model.attention.latent->query_rank = 0;
  kept = by_name(one_layer(model, layout_of(model, 1, 3, 5)));
  EXPECT_EQ(kept.at("kv_down.input w"), 15 * 8 * 2);
  EXPECT_EQ(kept.at("latent_norm.x i"), 15 * 4 * 2);
  EXPECT_FALSE(kept.contains("q.input w"));
}

// With fused attention, selective recompute makes queries, keys, values and the experts' activation again:
// a latent layer keeps t x 2 heads x (5 + 5 + 5) x 2 bytes less and does both up-projections' and rope's work
// twice; experts of 12, 2 of 4 a token, keep t x 2 x 12 x 2 less.
TEST(Recomputing, SelectivelyMakesAgainWhatIsCheap) {
  ModelShape model = llama(8, 1, 2, 2, 12, 32);
  model.attention.head_dim = 5;
  model.attention.latent = LatentAttention{6, 4, 2, 3, 5};
  model.experts.emplace();
  model.experts->routed = 4;
  model.experts->per_token = 2;
  model.experts->ffn = 12;
  model.experts->in_layer = {true};
  Layout layout = layout_of(model, 1, 3, 5);
  const StageBytes none = stage_bytes(model, layout, Stage{0});
  const auto flops_of_input = [&] {
    std::map<std::string, double> out;
    for (const Part& part : one_layer(model, layout)) out[part.name] = part.backward_input.flops;
    return out;
  };
  const auto before = flops_of_input();
  layout.stages[0].recompute = Recompute::selective;
  const StageBytes selective = stage_bytes(model, layout, Stage{0});
  const std::int64_t queries = 15 * 2 * 15 * 2, activation = 15 * 2 * 12 * 2;
  EXPECT_EQ(none.kept_by_forward.count - selective.kept_by_forward.count, queries + activation);
  // The activation is an operand of the weight's gradient: once made again, it stays until then.
  EXPECT_EQ(selective.added_by_backward_input.count - none.added_by_backward_input.count, activation);
  const auto after = flops_of_input();
  EXPECT_EQ(after.at("q_up") - before.at("q_up"), 2. * 15 * 6 * 10);
  EXPECT_EQ(after.at("kv_up") - before.at("kv_up"), 2. * 15 * 4 * 16);
  EXPECT_EQ(after.at("experts_down"), before.at("experts_down"));
  EXPECT_EQ(after.at("attention"), before.at("attention"));

  // A dense model with fused attention has nothing that is cheap.
  const ModelShape dense = llama(8, 1, 4, 2, 12, 32);
  Layout plain = layout_of(dense, 1, 3, 5);
  const StageBytes all = stage_bytes(dense, plain, Stage{0});
  plain.stages[0].recompute = Recompute::selective;
  EXPECT_EQ(stage_bytes(dense, plain, Stage{0}), all);
}

// fp8: what a linear keeps and leaves has a byte an element; norms, attention, the head stay in bf16.
TEST(KeptBytes, InFp8AreHalvedWhereALinearReadsThem) {
  const ModelShape model = llama(8, 1, 4, 2, 12, 32);
  Layout layout = layout_of(model, 1, 3, 5);
  layout.numerics.weights = WeightType::fp8;
  const auto kept = by_name(stage_parts(model, layout, Stage{0}));
  EXPECT_EQ(kept.at("qkv.input w"), 15 * 8);
  EXPECT_EQ(kept.at("d(down)"), 15 * 8);
  EXPECT_EQ(kept.at("norm_1.x i"), 15 * 8 * 2);
  EXPECT_EQ(kept.at("attention.o i w"), 15 * 8 * 2);
  EXPECT_EQ(kept.at("head.input i w"), 15 * 8 * 2);
  EXPECT_EQ(kept.at("d(head)"), 15 * 32 * 2);
  // The layer's matrices in a byte: qkv 16 x 8, output 8 x 8, gate_up 24 x 8, down 8 x 12. The rest,
  // embedding and head 2 x 32 x 8 and three gains of 8, in two.
  EXPECT_EQ(stage_bytes(model, layout, Stage{0}).weights,
            Bytes{16 * 8 + 8 * 8 + 24 * 8 + 8 * 12 + 2 * (2 * 32 * 8 + 3 * 8)});
}

// The MTP module and the final norm behind it read the same hidden state: kept once.
TEST(KeptBytes, OfAnMtpModuleShareTheHiddenState) {
  ModelShape model = llama(8, 1, 4, 2, 12, 32);
  model.multi_token_layers = 1;
  const std::vector<PartGroup> groups = stage_groups(model, layout_of(model, 1, 3, 5), Stage{0});
  ASSERT_EQ(groups.size(), 4u);
  const auto module = by_name(groups[2].parts);
  EXPECT_EQ(module.at("mtp_hidden_norm.x i"), 15 * 8 * 2);
  EXPECT_EQ(module.at("mtp_projection.input w"), 15 * 16 * 2);
  EXPECT_EQ(module.at("mtp_head.input i w"), 15 * 8 * 2);
  EXPECT_FALSE(by_name(groups[3].parts).contains("final_norm.x i"));
}

// A middle stage of one layer, t = 15, bf16. Forward: the output projection's and down's 15 x 8 before the
// residual add. backward_input: a norm's two gradients of 15 x 8. Fused: swiglu's gradient of 15 x 12 beside
// gate_up's of 15 x 24.
TEST(Workspace, IsWhatIsTransientWhileAPartRuns) {
  const ModelShape model = llama(8, 3, 4, 2, 12, 32);
  const StageBytes bytes = stage_bytes(model, layout_of(model, 3, 3, 5), Stage{1});
  EXPECT_EQ(bytes.forward_workspace, Bytes{15 * 8 * 2});
  EXPECT_EQ(bytes.backward_input_workspace, Bytes{2 * 15 * 8 * 2});
  EXPECT_EQ(bytes.backward_weight_workspace, Bytes{0});
  EXPECT_EQ(bytes.backward_workspace, Bytes{15 * (12 + 24) * 2});
}

// Two devices of a tensor group hold the matrices once and the gains twice: 3 of 8 on this model of one
// layer.
TEST(TensorShards, SumToTheModelButForWhatIsWholeOnEach) {
  const ModelShape model = llama(8, 1, 4, 2, 12, 32);
  Layout layout = layout_of(model, 1, 3, 4);
  layout.parallelism.tensor = 2;
  EXPECT_EQ(2 * stage_bytes(model, layout, Stage{0}).parameters, parameters(model) + 3 * 8);
  // Four devices have a whole one of two key/value heads of 2 each: 2 x 2 x 8 more, for keys and for values.
  layout.parallelism.tensor = 4;
  EXPECT_EQ(4 * stage_bytes(model, layout, Stage{0}).parameters,
            parameters(model) + 3 * 3 * 8 + 2 * (2 * 2 * 8));
}

TEST(Collectives, FrameBothBlocksWithTensorParallelism) {
  const ModelShape model = llama(8, 1, 4, 2, 12, 32);
  Layout layout = layout_of(model, 1, 3, 4);
  layout.parallelism.tensor = 2;
  const Bytes whole{12 * 8 * 2};
  const auto collectives = [&] {
    std::vector<std::string> names;
    for (const Part& part : one_layer(model, layout)) {
      if (!is_collective(part.part_class)) continue;
      names.push_back(part.name);
      for (const Work& work : {part.forward, part.backward_input, part.backward_weight})
        if (work.sent.count > 0) {
          EXPECT_EQ(work.sent, whole) << part.name;
        }
    }
    return names;
  };
  EXPECT_EQ(collectives(),
            (std::vector<std::string>{"attention_gather", "attention_scatter", "ffn_gather", "ffn_scatter"}));
  layout.parallelism.sequence_parallel = false;
  EXPECT_EQ(collectives(),
            (std::vector<std::string>{"attention_copy", "attention_sum", "ffn_copy", "ffn_sum"}));
}

TEST(Recomputing, InFullKeepsTheInputAndMovesAForwardIntoBackwardInput) {
  const ModelShape model = llama(8, 2, 4, 2, 12, 32);
  Layout layout = layout_of(model, 1, 3, 5);
  const std::vector<Part> plain = one_layer(model, layout);
  layout.stages[0].recompute = Recompute::full;
  const std::vector<Part> again = one_layer(model, layout);
  ASSERT_EQ(plain.size(), again.size());
  std::int64_t for_weight = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(again[i].backward_input.flops, plain[i].backward_input.flops + plain[i].forward.flops);
    EXPECT_EQ(again[i].backward_weight, plain[i].backward_weight);
    for (const KeptTensor& tensor : plain[i].kept) for_weight += tensor.for_weight ? tensor.bytes.count : 0;
  }
  EXPECT_EQ(kept_but_statistics(again), 15 * 8 * 2);
  // What backward_weight reads is made by backward_input then.
  const ModelShape bare = mlp(8, 1);
  Layout bare_layout = layout_of(bare, 1, 3, 5);
  const StageBytes none = stage_bytes(bare, bare_layout, Stage{0});
  bare_layout.stages[0].recompute = Recompute::full;
  const StageBytes full = stage_bytes(bare, bare_layout, Stage{0});
  EXPECT_EQ(full.kept_by_forward, none.kept_by_forward - Bytes{15 * 2 * (32 + 32)});  // gelu's and linear_2's
  EXPECT_EQ(full.added_by_backward_input,
            none.added_by_backward_input + Bytes{15 * 2 * 32});  // linear_2's input
  EXPECT_EQ(full.backward_input_workspace, none.backward_input_workspace + Bytes{15 * 2 * 32});
  EXPECT_GT(for_weight, 0);
}

// Llama-3-8B's 8,030,261,248 parameters on one device: bf16 weights, float32 gradients, and float32 master
// weights and two moments, over 4 data copies.
TEST(StageBytes, HoldWeightsGradientsAndTheShardOfTheOptimizer) {
  const ModelShape model = llama(4096, 32, 32, 8, 14336, 128256);
  Layout layout = layout_of(model, 1, 1, 8192);
  layout.parallelism.data = 4;
  const StageBytes bytes = stage_bytes(model, layout, Stage{0});
  EXPECT_EQ(bytes.weights, Bytes{8'030'261'248 * 2});
  EXPECT_EQ(bytes.gradients, Bytes{8'030'261'248 * 4});
  EXPECT_EQ(bytes.optimizer_state, Bytes{8'030'261'248 / 4 * 12});
  layout.parallelism.shard_optimizer = false;
  EXPECT_EQ(stage_bytes(model, layout, Stage{0}).optimizer_state, Bytes{8'030'261'248 * 12});
}

// Experts have 2 x 8 / 4 = 4 copies and everything else 8: 4 experts of 3 x 8 x 6 on 4 devices are 144 a
// device.
TEST(StageBytes, ShardExpertsOverTheirOwnCopies) {
  ModelShape model = llama(8, 1, 4, 2, 12, 32);
  model.experts = ExpertsShape{4, 2, 6, 0, false, false, {true}};
  Layout layout = layout_of(model, 1, 1, 8);
  layout.parallelism.tensor = 2;
  layout.parallelism.data = 8;
  layout.parallelism.expert = 4;
  const StageBytes bytes = stage_bytes(model, layout, Stage{0});
  EXPECT_EQ(bytes.expert_parameters, 144u);
  const std::uint64_t dense = bytes.parameters - 144;
  EXPECT_EQ(bytes.optimizer_state, Bytes{static_cast<std::int64_t>(((dense + 7) / 8 + 144 / 4) * 12)});
}

// Kept bytes grow in proportion to the microbatch. A product that wrapped around would break that: so every
// size is taken to where check_layout refuses it.
TEST(StageBytes, NeverOverflowWhateverTheSizes) {
  std::size_t counted = 0, refused = 0;
  for (const ModelShape& base : {llama(8, 2, 4, 2, 12, 32), deepseek_v3(), mixtral_8x7b(), gpt(64, 2, 4)}) {
    using Size = std::uint64_t ModelShape::*;
    for (const Size size :
         {&ModelShape::hidden, &ModelShape::ffn, &ModelShape::vocab, &ModelShape::multi_token_layers}) {
      for (const int power : {1, 10, 20, 31}) {
        for (const int batch : {0, 10, 20, 30}) {
          ModelShape model = base;
          model.*size = std::uint64_t{1} << power;
          if (model.attention.latent && power > 10)
            model.attention.latent->value_dim = std::uint64_t{1} << power;
          Layout one = layout_of(model, 1, 1, 2048);
          one.numerics.fused_attention = false;
          Layout many = one;
          many.micro_batch_size = std::uint64_t{1} << batch;
          try {
            check_model(model, "model");
            check_layout(model, many);
          } catch (const BadInput&) {
            ++refused;
            continue;
          }
          ++counted;
          const auto kept = [&](const Layout& layout) {
            return static_cast<double>(stage_bytes(model, layout, Stage{0}).kept_by_forward.count);
          };
          EXPECT_DOUBLE_EQ(kept(many), kept(one) * static_cast<double>(many.micro_batch_size));
          EXPECT_GT(kept(one), 0);
        }
      }
    }
  }
  EXPECT_GT(counted, 50u);
  EXPECT_GT(refused, 50u);
}

// However the layers are cut, nothing of the model is lost or doubled but the matrices that stages copy.
TEST(StageTotals, OverAnyLayoutSumToTheModel) {
  ModelShape tied = llama(8, 7, 4, 2, 12, 32);
  tied.tied_embeddings = true;
  ModelShape experts = deepseek_v3();
  for (const ModelShape& model : {llama(16, 13, 4, 2, 24, 64), tied, experts, gpt(32, 9, 4)}) {
    Layout one = layout_of(model, 1, 2, 16);
    const auto sum = [&](const Layout& layout) {
      std::uint64_t owned = 0;
      double flops = 0;
      Bytes kept;
      for (std::uint32_t s = 0; s < layout.stages.size(); ++s) {
        for (const Part& part : stage_parts(model, layout, Stage{s})) {
          owned += part.parameters - part.copied_parameters;
          flops += part.forward.flops + part.backward_input.flops + part.backward_weight.flops;
        }
        kept += stage_bytes(model, layout, Stage{s}).kept_by_forward;
      }
      return std::tuple(owned, flops, kept);
    };
    const auto [owned, flops, kept] = sum(one);
    EXPECT_EQ(owned, parameters(model) + multi_token_parameters(model));
    for (const std::uint32_t stages : {2u, 3u, 5u, 7u}) {
      Layout cut = layout_of(model, stages, 2, 16);
      EXPECT_EQ(std::get<0>(sum(cut)), owned);
      EXPECT_DOUBLE_EQ(std::get<1>(sum(cut)), flops);
      EXPECT_EQ(std::get<2>(sum(cut)), kept);
    }
  }
}

// Tied head and embedding on two stages: the last holds a copy, and its gradients and optimizer state too.
TEST(StageTotals, CountACopyOfATiedMatrixOnTheLastStage) {
  ModelShape model = llama(8, 2, 4, 2, 12, 32);
  model.tied_embeddings = true;
  const std::uint64_t together = stage_bytes(model, layout_of(model, 1, 1, 8), Stage{0}).parameters;
  const Layout cut = layout_of(model, 2, 1, 8);
  EXPECT_EQ(stage_bytes(model, cut, Stage{0}).parameters + stage_bytes(model, cut, Stage{1}).parameters,
            together + 32 * 8);
}

// With MTP on a stage that has the embedding but not the head, that stage copies the head: 32 x 8.
TEST(StageTotals, CountMtpsCopiesWhereItStandsApart) {
  ModelShape model = llama(8, 2, 4, 2, 12, 32);
  model.multi_token_layers = 1;
  Layout layout = layout_of(model, 2, 1, 8);
  layout.stages = parse_stages("Ettm|L", model);
  const std::uint64_t head = 8 + 32 * 8;  // the last stage: final norm and head
  EXPECT_EQ(stage_bytes(model, layout, Stage{1}).parameters, head);
  EXPECT_EQ(stage_bytes(model, layout, Stage{0}).parameters,
            parameters(model) - head + multi_token_parameters(model) + 32 * 8);
}

// A module's hidden state ends in its loss, unless another module follows on a later stage: then two travel.
TEST(StageTotals, SendTwoHiddenStatesBetweenMtpModules) {
  ModelShape model = llama(8, 2, 4, 2, 12, 32);
  model.multi_token_layers = 2;
  Layout layout = layout_of(model, 1, 1, 8);
  layout.stages = parse_stages("Ett|m|mL", model);
  EXPECT_EQ(stage_bytes(model, layout, Stage{0}).activation_message, Bytes{8 * 8 * 2});
  EXPECT_EQ(stage_bytes(model, layout, Stage{1}).activation_message, Bytes{2 * 8 * 8 * 2});
  EXPECT_EQ(stage_bytes(model, layout, Stage{2}).gradient_message, Bytes{2 * 8 * 8 * 2});
}

TEST(Messages, AreTheResidualStreamAndItsGradient) {
  const ModelShape model = llama(8, 4, 4, 2, 12, 32);
  Layout layout = layout_of(model, 4, 3, 4);
  const auto message = [&](std::uint32_t stage) {
    const StageBytes bytes = stage_bytes(model, layout, Stage{stage});
    return std::pair(bytes.activation_message, bytes.gradient_message);
  };
  EXPECT_EQ(message(0), (std::pair{Bytes{12 * 8 * 2}, Bytes{0}}));
  EXPECT_EQ(message(1), (std::pair{Bytes{12 * 8 * 2}, Bytes{12 * 8 * 2}}));
  EXPECT_EQ(message(3), (std::pair{Bytes{0}, Bytes{12 * 8 * 2}}));
  layout.parallelism.tensor = 2;  // each device sends its half of the sequence
  EXPECT_EQ(message(1), (std::pair{Bytes{6 * 8 * 2}, Bytes{6 * 8 * 2}}));
}

}  // namespace
}  // namespace plumb
