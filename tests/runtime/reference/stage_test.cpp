// A whole stage: its gradients are its slopes, its halves add up, and it keeps what the model's formulas say,
// to the byte.
#include "runtime/reference/stage.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::reference {
namespace {

ModelShape gpt(NormKind norm, FfnKind ffn, PositionKind position, bool biases) {
  ModelShape model;
  model.name = "tiny";
  model.hidden = 8;
  model.layers = 2;
  model.ffn = 6;
  model.vocab = 11;
  model.attention.heads = 4;
  model.attention.key_value_heads = 2;
  model.attention.head_dim = 4;
  model.attention.qkv_bias = model.attention.output_bias = model.ffn_bias = biases;
  model.norm = norm;
  model.ffn_kind = ffn;
  model.position = position;
  if (position == PositionKind::learned) model.learned_positions = 5;
  return model;
}

ModelShape mlp() {
  ModelShape model;
  model.architecture = Architecture::mlp;
  model.name = "mlp";
  model.hidden = 6;
  model.layers = 2;
  model.ffn = 10;
  return model;
}

// As Llama, GPT-2 with a head of its own and tied, Qwen3, DualPipe's example.
std::vector<ModelShape> models() {
  const ModelShape llama = gpt(NormKind::rms_norm, FfnKind::swiglu, PositionKind::rotary, false);
  const ModelShape gpt2 = gpt(NormKind::layer_norm, FfnKind::gelu, PositionKind::learned, true);
  ModelShape tied = gpt2, qwen3 = llama;
  tied.name = "tied";
  qwen3.name = "qwen3";
  tied.tied_embeddings = qwen3.tied_embeddings = true;
  qwen3.attention.query_key_norm = true;
  return {llama, gpt2, tied, qwen3, mlp()};
}

Layout layout_of(const ModelShape& model, std::uint32_t stages) {
  Layout layout;
  layout.numerics.weights = WeightType::fp32;
  layout.micro_batch_size = 2;
  layout.sequence = 5;
  layout.stages = even_stages(model, stages);
  return layout;
}

// Memory for one microbatch of one stage, and its data.
template <class T>
struct Bench {
  Bench(const ModelShape& model, const Layout& layout, std::uint32_t stage)
      : stage_(model, layout, plumb::Stage{stage}) {
    const StageNeeds needs = stage_.needs();
    const auto make = [](Bytes bytes) {
      return std::vector<double>(static_cast<std::size_t>(bytes.count) / 8 + 1);
    };
    blocks = {make(needs.message),         make(needs.message),        make(needs.kept_for_input),
              make(needs.kept_for_weight), make(needs.gradients_kept), make(needs.workspace)};
    const auto at = [&](std::size_t i) { return reinterpret_cast<std::byte*>(blocks[i].data()); };
    view = {at(0), at(1), at(2), at(3), at(4), at(5)};
    weights.resize(stage_.elements());
    gradients.resize(stage_.elements());
    for (const ParameterSpec& parameter : stage_.parameters()) {
      std::vector<float> values(parameter.elements());
      initialise(parameter, 5, values);
      // A transformer's are larger than a training's first ones, so that every path has a slope worth
      // measuring.
      const float factor = parameter.decays && model.vocab > 0 ? 6 : 1;
      for (std::size_t i = 0; i < values.size(); ++i) {
        weights[parameter.offset + i] = static_cast<T>(values[i] * factor);
      }
    }
    const std::size_t tokens = layout.tokens();
    for (std::size_t t = 0; t < tokens; ++t) {
      tokens_.push_back(static_cast<std::int32_t>(t * 7 % 11));
      targets_.push_back(static_cast<std::int32_t>((t * 5 + 3) % 11));
    }
    for (std::size_t i = 0; i < tokens * model.hidden; ++i) {
      input_.push_back(static_cast<T>(noise(1, i)));
      target_.push_back(static_cast<T>(noise(2, i)));
    }
    data = {tokens_, targets_, input_, target_};
  }
  double forward() { return stage_.forward(weights, data, view); }
  void backward_input(T scale) { stage_.backward_input(weights, gradients, scale, view); }
  void backward_weight() { stage_.backward_weight(gradients, view); }

  Stage<T> stage_;
  std::vector<std::vector<double>> blocks;
  StageMemoryView view;
  std::vector<T> weights, gradients;
  std::vector<std::int32_t> tokens_, targets_;
  std::vector<T> input_, target_;
  StageData<T> data;
};

// The slope is wrong by h^2 / 6 of the third derivative; behind a norm of inputs around 0.12 that is 1e-10 /
// 6 / 0.12^3 = 1e-8.
TEST(ReferenceStage, EveryParametersGradientIsTheLosssSlope) {
  for (const ModelShape& model : models()) {
    Bench<double> bench(model, layout_of(model, 1), 0);
    bench.forward();
    bench.backward_input(0.5);
    bench.backward_weight();
    const std::vector<double> gradients = bench.gradients;
    constexpr double h = 1e-5;
    for (const ParameterSpec& parameter : bench.stage_.parameters()) {
      for (std::uint64_t i = 0; i < parameter.elements(); ++i) {
        double& weight = bench.weights[parameter.offset + i];
        const double kept = weight;
        weight = kept + h;
        const double above = bench.forward();
        weight = kept - h;
        const double below = bench.forward();
        weight = kept;
        ASSERT_NEAR(gradients[parameter.offset + i], 0.5 * (above - below) / (2 * h),
                    1e-8 * (1 + std::abs(gradients[parameter.offset + i])))
            << model.name << " " << parameter.name << "[" << i << "]";
      }
    }
  }
}

// Two stages in a row do what one does: output to input, and the gradient back.
TEST(ReferenceStage, StagesInARowAreTheWholeModel) {
  for (const ModelShape& model : models()) {
    Bench<double> whole(model, layout_of(model, 1), 0);
    const double loss = whole.forward();
    whole.backward_input(1);
    whole.backward_weight();
    Bench<double> first(model, layout_of(model, 2), 0), second(model, layout_of(model, 2), 1);
    first.forward();
    second.view.input = first.view.output;
    EXPECT_DOUBLE_EQ(second.forward(), loss) << model.name;
    second.backward_input(1);
    first.view.input = second.view.output;
    first.backward_input(1);
    first.backward_weight();
    second.backward_weight();
    // A tied head's matrix is on both: its gradient in one piece is the sum, in another order of addition.
    using Named = std::map<std::string, std::vector<double>>;
    const auto collect = [](const Bench<double>& bench, Named& named) {
      for (const ParameterSpec& parameter : bench.stage_.parameters()) {
        std::vector<double>& values = named[parameter.name];
        values.resize(parameter.elements());
        for (std::uint64_t i = 0; i < values.size(); ++i) values[i] += bench.gradients[parameter.offset + i];
      }
    };
    Named together, expected;
    collect(first, together);
    collect(second, together);
    collect(whole, expected);
    if (model.tied_embeddings) {
      const std::vector<double> sum = together.extract("embedding.weight").mapped();
      const std::vector<double> one = expected.extract("embedding.weight").mapped();
      ASSERT_EQ(sum.size(), one.size());
      for (std::size_t i = 0; i < sum.size(); ++i)
        EXPECT_NEAR(sum[i], one[i], 1e-15 * (1 + std::abs(one[i])));
    }
    EXPECT_EQ(together, expected) << model.name;
  }
}

TEST(ReferenceStage, KeepsWhatTheFormulasSayToTheByte) {
  for (const ModelShape& model : models()) {
    for (const std::uint32_t stages : {1u, 2u}) {
      const Layout layout = layout_of(model, stages);
      for (std::uint32_t s = 0; s < stages; ++s) {
        const StageNeeds needs = Stage<float>(model, layout, plumb::Stage{s}).needs();
        const StageBytes formula = stage_bytes(model, layout, plumb::Stage{s});
        const std::string where =
            model.name + ", stage " + std::to_string(s) + " of " + std::to_string(stages);
        EXPECT_EQ(needs.kept_for_input + needs.kept_for_weight, formula.kept_by_forward) << where;
        EXPECT_EQ(needs.kept_for_input, formula.freed_by_backward_input) << where;
        EXPECT_EQ(needs.gradients_kept, formula.added_by_backward_input) << where;
        if (s + 1 < stages) {
          EXPECT_EQ(needs.message, formula.activation_message) << where;
        }
        EXPECT_EQ(Stage<float>(model, layout, plumb::Stage{s}).elements(), formula.parameters) << where;
      }
    }
  }
}

TEST(ReferenceStage, RefusesWhatItDoesNotCompute) {
  const ModelShape model = models()[0];
  Layout layout = layout_of(model, 1);
  layout.stages[0].recompute = Recompute::full;
  EXPECT_THROW(Stage<float>(model, layout, plumb::Stage{0}), BadInput);
  layout = layout_of(model, 1);
  layout.numerics.fused_attention = false;
  EXPECT_THROW(Stage<float>(model, layout, plumb::Stage{0}), BadInput);
}

}  // namespace
}  // namespace plumb::reference
