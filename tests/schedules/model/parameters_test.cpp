// What a stage's parameters are and how they begin.
#include "schedules/model/parameters.hpp"

#include "schedules/ir/error.hpp"

#include <cmath>
#include <map>

#include <gtest/gtest.h>

namespace plumb {
namespace {

ModelShape small() {
  ModelShape model;
  model.hidden = 8;
  model.layers = 4;
  model.ffn = 12;
  model.vocab = 16;
  model.attention.heads = 4;
  model.attention.key_value_heads = 2;
  model.attention.head_dim = 2;
  return model;
}

// norm_1 8, qkv (4 + 2 x 2) x 2 = 16 x 8 = 128, output 64, norm_2 8, gate_up 24 x 8 = 192, down 8 x 12 = 96:
// 496.
TEST(Parameters, OfALayerAreItsMatricesAndGainsInOrder) {
  const auto list = stage_parameters(small(), {2, 1, 0, false, false, Recompute::none});
  std::vector<std::string> names;
  for (const ParameterSpec& parameter : list) names.push_back(parameter.name);
  EXPECT_EQ(names, (std::vector<std::string>{"layers.2.norm_1.gain", "layers.2.qkv.weight",
                                             "layers.2.output.weight", "layers.2.norm_2.gain",
                                             "layers.2.gate_up.weight", "layers.2.down.weight"}));
  EXPECT_EQ(elements_of(list), 496u);
  EXPECT_EQ(list[2].offset, 136u);
  EXPECT_FALSE(list[0].decays);
  EXPECT_TRUE(list[1].decays);
}

// The same names with the same values however the layers are cut into stages.
TEST(Parameters, BeginAlikeHoweverTheModelIsCut) {
  const ModelShape model = small();
  std::map<std::string, std::vector<float>> whole, cut;
  const auto collect = [&](const StageContent& content, std::map<std::string, std::vector<float>>& into) {
    for (const ParameterSpec& parameter : stage_parameters(model, content)) {
      auto& values = into[parameter.name];
      values.resize(parameter.elements());
      initialise(parameter, 7, values);
    }
  };
  collect({0, 4, 0, true, true, Recompute::none}, whole);
  collect({0, 1, 0, true, false, Recompute::none}, cut);
  collect({1, 2, 0, false, false, Recompute::none}, cut);
  collect({3, 1, 0, false, true, Recompute::none}, cut);
  EXPECT_EQ(whole, cut);
  EXPECT_NE(whole["layers.0.qkv.weight"], whole["layers.1.qkv.weight"]);
  EXPECT_EQ(whole["final_norm.gain"], std::vector<float>(8, 1.0f));
}

// The last stage has a copy of the first one's matrix under its name, which begins with the same values; in
// one piece there is one.
TEST(Parameters, ATiedHeadHasTheEmbeddingsMatrix) {
  ModelShape model = small();
  model.tied_embeddings = true;
  const StageContent first{0, 2, 0, true, false, Recompute::none},
      last{2, 2, 0, false, true, Recompute::none};
  const StageContent whole{0, 4, 0, true, true, Recompute::none};
  const auto own = shared_matrix(model, first), copy = shared_matrix(model, last);
  ASSERT_TRUE(own && copy);
  EXPECT_FALSE(own->copied);
  EXPECT_TRUE(copy->copied);
  EXPECT_EQ(own->name, "embedding.weight");
  EXPECT_EQ(copy->name, "embedding.weight");
  EXPECT_EQ(copy->elements(), 16u * 8u);
  std::vector<float> a(own->elements()), b(copy->elements());
  initialise(*own, 7, a);
  initialise(*copy, 7, b);
  EXPECT_EQ(a, b);
  EXPECT_FALSE(shared_matrix(model, whole));
  EXPECT_FALSE(shared_matrix(model, {1, 1, 0, false, false, Recompute::none}));
  // Without the copy, the pieces have as many as the whole: the embedding and 4 layers' 496, and final_norm.
  const auto of = [&](const StageContent& content) { return elements_of(stage_parameters(model, content)); };
  EXPECT_EQ(of(whole), 128u + 4u * 496u + 8u);
  EXPECT_EQ(of(first) + of(last), of(whole) + 128u);
  EXPECT_EQ(stage_parameters(model, whole).back().name, "final_norm.gain");
}

// The mean of 100,000 values of deviation 1 deviates by 1 / 316; four standard errors are 0.0127, and of the
// variance (kurtosis 3 - 6 / 20 for four uniform numbers, so 1.7 in place of 2) 4 x sqrt(1.7 / 100,000) =
// 0.0165.
TEST(Parameters, NoiseHasMeanZeroAndDeviationOne) {
  const std::uint64_t stream = stream_of(1, "anything");
  double sum = 0, squares = 0;
  constexpr int count = 100000;
  for (int i = 0; i < count; ++i) {
    const double value = noise(stream, static_cast<std::uint64_t>(i));
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / count, 0, 0.0127);
  EXPECT_NEAR(squares / count, 1, 0.0165);
  EXPECT_NE(noise(stream, 0), noise(stream_of(2, "anything"), 0));
}

TEST(Parameters, RefusesWhatNoRuntimeComputes) {
  ModelShape model = small();
  model.experts = ExpertsShape{};
  EXPECT_THROW(stage_parameters(model, {0, 1, 0, false, false, Recompute::none}), BadInput);
  model = small();
  model.attention.latent = LatentAttention{};
  EXPECT_THROW(stage_parameters(model, {0, 1, 0, false, false, Recompute::none}), BadInput);
}

}  // namespace
}  // namespace plumb
