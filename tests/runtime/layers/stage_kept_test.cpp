// Needs no GPU: places are worked out, and nothing is read there.
#include "runtime/layers/stage_kept.hpp"

#include "schedules/model/layer_costs.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::layers {
namespace {

struct Place {
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
};

ModelShape llama() {
  ModelShape m;
  m.name = "llama";
  m.hidden = 64;
  m.layers = 6;
  m.ffn = 96;
  m.vocab = 40;
  m.attention.heads = 4;
  m.attention.key_value_heads = 2;
  m.attention.head_dim = 32;  // not hidden / heads, on purpose
  return m;
}
std::vector<ModelShape> models() {
  ModelShape gpt2 = llama(), qwen3 = llama(), mlp = llama();
  gpt2.name = "gpt2";
  gpt2.norm = NormKind::layer_norm;
  gpt2.ffn_kind = FfnKind::gelu;
  gpt2.position = PositionKind::learned;
  gpt2.learned_positions = 16;
  gpt2.tied_embeddings = gpt2.ffn_bias = gpt2.attention.qkv_bias = gpt2.attention.output_bias = true;
  qwen3.name = "qwen3";
  qwen3.attention.query_key_norm = true;
  mlp.name = "mlp";
  mlp.architecture = Architecture::mlp;
  return {llama(), gpt2, qwen3, mlp};
}

// The block is full of them, and no two share a byte.
void expect_side_by_side(std::vector<Place> places, Bytes block, const std::string& what) {
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.begin < b.begin; });
  std::uint64_t end = 0;
  for (const Place& place : places) {
    if (place.bytes == 0) continue;
    EXPECT_EQ(place.begin, end) << what;
    end = place.begin + place.bytes;
  }
  EXPECT_EQ(end, static_cast<std::uint64_t>(block.count)) << what;
}

// Of first, middle and last stage. All sizes here are multiples of sixteen bytes, so there are no gaps.
TEST(StageKept, FillsItsBlocksWithTheModelsTensorsAndNothingElse) {
  for (const ModelShape& model : models()) {
    for (const WeightType weights : {WeightType::bf16, WeightType::fp32}) {
      Layout layout;
      layout.parallelism.pipeline = 3;
      layout.numerics.weights = weights;
      layout.micro_batch_size = 2;
      layout.sequence = 16;
      layout.stages = even_stages(model, 3);
      for (std::uint32_t s = 0; s < 3; ++s) {
        const std::string what =
            model.name + (weights == WeightType::bf16 ? " bf16" : " fp32") + ", stage " + std::to_string(s);
        StageShape shape;
        shape.model = model;
        shape.content = layout.stages[s];
        shape.content.embedding = s == 0;
        shape.content.head = s == 2;
        shape.type = weights == WeightType::bf16 ? DataType::bf16 : DataType::fp32;
        shape.attention_size = {shape.type, 2, 16, 4, 2, 32};
        shape.tokens = layout.tokens();
        const StageKept kept(shape);
        const StageBytes said = stage_bytes(model, layout, Stage{s});
        EXPECT_EQ(kept.for_input() + kept.for_weight(), said.kept_by_forward) << what;
        EXPECT_EQ(kept.for_input(), said.freed_by_backward_input) << what;
        EXPECT_EQ(kept.gradients(), said.added_by_backward_input) << what;

        // Blocks of their own that begin at 1 MiB: a place is where it is, less that.
        const auto base = std::uintptr_t{1} << 20;
        const auto* block = reinterpret_cast<const void*>(base);
        std::vector<Place> input, weight, gradients;
        const auto tensor = [&](std::vector<Place>& places, const Tensor& t) {
          if (t.data)
            places.push_back(
                {reinterpret_cast<std::uintptr_t>(t.data) - base, std::uint64_t(t.bytes().count)});
        };
        const auto fours = [&](std::vector<Place>& places, const void* data, std::uint64_t count) {
          if (data) places.push_back({reinterpret_cast<std::uintptr_t>(data) - base, 4 * count});
        };
        const std::uint64_t tokens = shape.tokens;
        for (std::uint64_t l = 0; l < shape.content.layers; ++l) {
          const LayerKept k = kept.layer(l, block, block);
          for (const Tensor& t : {k.x_1, k.qkv, k.heads.x, k.x_2, k.gate_and_up}) tensor(input, t);
          for (const float* f : {k.norm_1.mean, k.norm_1.rstd, k.norm_2.mean, k.norm_2.rstd})
            fours(input, f, tokens);
          fours(input, k.heads.rstd, tokens * 6);
          fours(input, k.log_sum_exp, tokens * 4);
          for (const Tensor& t : {k.normed_1, k.o, k.normed_2, k.activated}) tensor(weight, t);
          const LayerGradients g = kept.layer_gradients(l, block);
          for (const Tensor& t : {g.qkv, g.x_2, g.gate_and_up, g.output}) tensor(gradients, t);
        }
        if (shape.looks_up()) {
          fours(weight, block, tokens);            // the token ids
          tensor(gradients, shape.hidden(block));  // of what was looked up
        }
        if (shape.content.head) {
          const HeadKept k = kept.head(block, block);
          tensor(input, k.x);
          tensor(input, k.target);
          fours(input, k.norm.mean, tokens);
          fours(input, k.norm.rstd, tokens);
          fours(input, k.targets, tokens);
          fours(input, k.log_sum_exp, tokens);
          tensor(weight, k.normed);
          if (!shape.is_mlp()) tensor(gradients, kept.logit_gradients(block));
        }
        expect_side_by_side(input, kept.for_input(), what + ", for backward_input");
        expect_side_by_side(weight, kept.for_weight(), what + ", for backward_weight");
        expect_side_by_side(gradients, kept.gradients(), what + ", gradients");
      }
    }
  }
}

}  // namespace
}  // namespace plumb::layers
