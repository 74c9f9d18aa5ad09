// Costs of a model where a calibration knows some of its work.
#include "calibrate/lookup.hpp"
#include "calibrate/work.hpp"
#include "schedules/ir/error.hpp"
#include "sim/estimate.hpp"
#include "sim/overlap.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

// Four layers of DualPipe's example on two stages; the last computes the loss.
ModelShape mlp() {
  ModelShape model;
  model.architecture = Architecture::mlp;
  model.name = "mlp";
  model.hidden = 1024;
  model.ffn = 4096;
  model.layers = 4;
  model.position = PositionKind::none;
  model.ffn_kind = FfnKind::gelu;
  return model;
}

Layout layout_of(std::uint64_t sequence) {
  Layout layout;
  layout.parallelism.pipeline = 2;
  layout.sequence = sequence;
  layout.stages = even_stages(mlp(), 2);
  return layout;
}

void measure(Calibration& calibration, WorkKey work, std::int64_t ns) {
  TimedWork timed;
  timed.work = std::move(work);
  timed.time.median = {ns};
  calibration.work.push_back(timed);
}

constexpr std::array kinds{WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight,
                           WorkKind::backward};

// A layer's forward takes 100 us at 256 tokens and 200 us at 512, each later kind 10 us more.
Calibration two_lengths() {
  Calibration calibration;
  calibration.name = "two lengths";
  calibration.provenance.gpu = "NVIDIA H200";
  for (const std::uint64_t sequence : {256u, 512u}) {
    std::int64_t ns = static_cast<std::int64_t>(sequence) * 100'000 / 256;
    for (const WorkKind kind : kinds) {
      measure(calibration, layer_work(mlp(), layout_of(sequence), 0, kind), ns);
      ns += 10'000;
    }
  }
  return calibration;
}

CostModel costs(const Calibration& calibration, std::uint64_t sequence) {
  return estimate(calibration, device_description("h200"), mlp(), layout_of(sequence));
}

TEST(MeasuredEstimate, AMeasuredLayerStandsForEveryLayerOfAStage) {
  const CostModel cost = costs(two_lengths(), 512);
  EXPECT_EQ(total(cost.stages[0].forward).ns, 2 * 200'000);
  EXPECT_EQ(total(cost.stages[0].backward_input).ns, 2 * 210'000);
  EXPECT_EQ(total(cost.stages[0].backward_weight).ns, 2 * 220'000);
  EXPECT_EQ(total(cost.stages[0].backward).ns, 2 * 230'000);
  EXPECT_EQ(cost.sources.at("layer"), "measured");
  // The loss on the last stage was not measured.
  EXPECT_GT(total(cost.stages[1].forward).ns, 2 * 200'000);
  EXPECT_EQ(cost.sources.at("forward"), "estimated");
  EXPECT_EQ(cost.sources.at("backward_weight"), "measured") << "the loss has none";
}

// A stage of two layers, 1024 x 4096, has 2 x 2 x 4 Mi parameters and 64 MiB of float32 gradients.
// All-reduces are measured at 32 MiB (10 ms) and 128 MiB (40 ms), so 64 MiB take 20 ms. Of eight ranks each
// sends 2 x 7/8 of them, of two owners as many as there are: 20 x 4/7 ms.
TEST(MeasuredEstimate, TwoOwnersAddUpGradientsAsLongAsAnAllReduceOfThemTakes) {
  Calibration calibration = two_lengths();
  EXPECT_LT(costs(calibration, 512).stages[0].owner_exchange.ns, 5'000'000) << "over the GPU's own links";
  for (const std::uint32_t ranks : {8u, 2u}) {
    TransferSeries series;
    series.key.kind = TransferKind::all_reduce;
    series.key.transport = ranks == 8 ? "nccl" : "local";
    for (std::uint32_t r = 0; r < ranks; ++r) series.key.ranks.push_back(r);
    series.fit = LinkFit{};
    series.fit->knots = {{{32 << 20}, {10'000'000}}, {{128 << 20}, {40'000'000}}};
    calibration.transfers.push_back(series);
    EXPECT_EQ(costs(calibration, 512).stages[0].owner_exchange.ns, ranks == 8 ? 11'428'571 : 20'000'000);
  }
}

// Half way between 256 and 512 tokens.
TEST(MeasuredEstimate, BetweenMeasuredShapesItIsAStraightLine) {
  const CostModel cost = costs(two_lengths(), 384);
  EXPECT_EQ(total(cost.stages[0].forward).ns, 2 * 150'000);
  EXPECT_EQ(cost.sources.at("layer"), "interpolated");
  EXPECT_EQ(cost.sources.at("backward_weight"), "interpolated");
}

TEST(MeasuredEstimate, AMeasuredStageWinsOverItsLayers) {
  Calibration calibration = two_lengths();
  measure(calibration, stage_work(mlp(), layout_of(512), Stage{0}, WorkKind::forward), 333'333);
  const CostModel cost = costs(calibration, 512);
  EXPECT_EQ(total(cost.stages[0].forward).ns, 333'333);
  EXPECT_EQ(total(cost.stages[0].backward).ns, 2 * 230'000);
}

// One product of two, forward: 512 x 4,096 x 1,024 in 7 us; the rest of the layer is estimated as without it.
// Both stages: forward and backward last 2 x 200 and 2 x 230 us by their layers (the last a little more, for
// its loss), together 700 us. Forward of the first beside backward of the second saves what the stage that
// saves less does: the first, 860 - 700 us.
TEST(MeasuredEstimate, AMeasuredPairWinsOverWhatItsSegmentsMakeOfEachOther) {
  Calibration calibration = two_lengths();
  for (const Stage stage : {Stage{0}, Stage{1}})
    measure(calibration, stage_work(mlp(), layout_of(512), stage, WorkKind::forward_beside_backward),
            700'000);
  const CostModel cost = costs(calibration, 512);
  ASSERT_TRUE(cost.stages[0].overlapped);
  EXPECT_EQ(cost.stages[0].overlapped->ns, 700'000);
  EXPECT_EQ(cost.stated_pair(Stage{0}, Stage{1})->ns,
            2 * 200'000 + total(cost.stages[1].backward).ns - 160'000);
}

TEST(MeasuredEstimate, AMeasuredPartStandsInItsPlace) {
  Calibration calibration;
  calibration.name = "one product";
  WorkKey work{"gemm", "", WorkKind::forward, {{"m", 512}, {"n", 4096}, {"k", 1024}}, "bf16"};
  measure(calibration, work, 7'000);
  calibration.work.back().tail_ppm = 80'000;
  const CostModel with = costs(calibration, 512);
  const CostModel without = estimate(device_description("h200"), mlp(), layout_of(512));
  ASSERT_EQ(with.stages[0].forward.recipe.size(), without.stages[0].forward.recipe.size());
  for (std::size_t i = 0; i < with.stages[0].forward.recipe.size(); ++i) {
    const Segment& segment = with.stages[0].forward.recipe[i];
    if (segment.name == "linear_1") {
      EXPECT_EQ(segment.duration.ns, 7'000);
      EXPECT_EQ(segment.tail_ppm, 80'000u);
    } else if (segment.name != "host") {
      EXPECT_EQ(segment.duration, without.stages[0].forward.recipe[i].duration) << segment.name;
    }
  }
  EXPECT_EQ(with.stages[0].backward.recipe, without.stages[0].backward.recipe);
}

// A llama's layer, whose attention has 1.5 beside products, and its backward, where it was measured, 1.9.
std::uint32_t attentions_backward_beside_products(bool measured) {
  Calibration calibration;
  calibration.provenance.gpu = "NVIDIA H200";
  calibration.classes = {"gemm", "attention"};
  calibration.slowdown_ppm = {{2'000'000, 1'300'000}, {1'500'000, 1'800'000}};
  if (measured) {
    calibration.classes.emplace_back("attention_backward");
    calibration.slowdown_ppm = {{2'000'000, 1'300'000, 1'700'000},
                                {1'500'000, 1'800'000, 1'600'000},
                                {1'900'000, 1'600'000, 2'000'000}};
  }
  ShortForm form;
  form.hidden = 256;
  form.layers = 2;
  form.heads = 4;
  const ModelShape model = model_of(form);
  Layout layout;
  layout.sequence = 256;
  layout.stages = even_stages(model, 1);
  measure(calibration, layer_work(model, layout, 0, WorkKind::forward), 100'000);
  const CostModel cost = estimate(calibration, device_description("h200"), model, layout);
  const auto class_in = [&](const OpCost& op, const char* name) {
    for (const Segment& segment : op.recipe) {
      if (segment.name == name) return segment.work_class;
    }
    ADD_FAILURE() << name;
    return WorkClass{};
  };
  const StageCost& stage = cost.stages[0];
  EXPECT_EQ(cost.classes[class_in(stage.forward, "attention").value], "attention");
  EXPECT_EQ(slowdown_ppm(cost, class_in(stage.forward, "attention"), class_in(stage.forward, "qkv")),
            1'500'000u);
  const WorkClass backward = class_in(stage.backward_input, "attention");
  EXPECT_EQ(cost.classes[backward.value], "attention_backward");
  return slowdown_ppm(cost, backward, class_in(stage.forward, "qkv"));
}

TEST(MeasuredEstimate, AttentionsBackwardHasAClassOfItsOwnAndInOldCalibrationsItsForwards) {
  EXPECT_EQ(attentions_backward_beside_products(true), 1'900'000u);
  EXPECT_EQ(attentions_backward_beside_products(false), 1'500'000u);
}

TEST(MeasuredEstimate, FullRecomputeRunsTheMeasuredForwardAgain) {
  Layout layout = layout_of(512);
  layout.stages[0].recompute = Recompute::full;
  const CostModel cost = estimate(two_lengths(), device_description("h200"), mlp(), layout);
  EXPECT_EQ(total(cost.stages[0].backward).ns, 2 * (230'000 + 200'000));
}

TEST(MeasuredEstimate, LinksAreTheCalibrationsWhereItMeasuredThem) {
  Calibration calibration = two_lengths();
  calibration.link = {Duration{1234}, BytesPerSecond{5e9}};
  EXPECT_NE(costs(calibration, 512).link, calibration.link) << "assumed links are no better than ours";
  calibration.sources["link"] = "measured";
  EXPECT_EQ(costs(calibration, 512).link, calibration.link);
  EXPECT_EQ(costs(calibration, 512).sources.at("link"), "measured");
}

TEST(MeasuredEstimate, RefusesACalibrationOfSomethingElse) {
  ModelShape other = mlp();
  other.hidden = 2048;
  try {
    estimate(two_lengths(), device_description("h200"), other, layout_of(512));
    ADD_FAILURE() << "took it";
  } catch (const BadInput& refused) {
    EXPECT_THAT(refused.what(), testing::HasSubstr("two lengths holds nothing of mlp"));
  }
}

TEST(MeasuredEstimate, FindsTheDataSheetByTheDriversName) {
  ASSERT_NE(measured_device(two_lengths()), nullptr);
  EXPECT_EQ(measured_device(two_lengths())->name, "h200");
  EXPECT_EQ(measured_device(Calibration{}), nullptr);
}

struct BundledH200 {
  Calibration calibration;
  ModelShape model;
  Layout layout;
};

BundledH200 bundled_h200() {
  BundledH200 bundled{parse_calibration(bundled_calibrations().at("llama-h200-4"), "llama-h200-4"),
                      model_of({ShortForm::Kind::llama, 2048, 4, 16, {}, {}, 8192, {}}),
                      {}};
  bundled.layout.parallelism.pipeline = 4;
  bundled.layout.sequence = 4096;
  bundled.layout.stages = even_stages(bundled.model, 4);
  return bundled;
}

// The bundled calibration of an H200 in four shares: a llama of hidden 2048, a layer a stage. It holds a
// layer's forward beside its backward, which the estimate does not read: it derives the pair from both ops,
// the parts' classes and the mutual slowdown.
TEST(MeasuredEstimate, APairOfABundledLayerIsDerivedToFivePercent) {
  const auto [h200, model, layout] = bundled_h200();
  const CostModel cost = estimate(h200, *measured_device(h200), model, layout);
  EXPECT_EQ(cost.sources.at("forward"), "measured");
  EXPECT_EQ(cost.sources.at("backward"), "measured");
  const Duration pair = pair_cost(Stage{1}, Stage{1}, cost).duration;
  const auto measured = find_duration(h200, layer_work(model, layout, 1, WorkKind::forward_beside_backward));
  ASSERT_TRUE(measured.has_value());
  EXPECT_NEAR(static_cast<double>(pair.ns) / static_cast<double>(measured->duration.ns), 1, 0.05);
  EXPECT_LT(pair, total(cost.stages[1].forward) + total(cost.stages[1].backward));
}

// Parts are timed inside their layer, and add up to it but for a few events and the clock's swing.
TEST(MeasuredEstimate, PartsOfABundledLayerAddUpToIt) {
  const auto [h200, model, layout] = bundled_h200();
  const auto ns = [&](const WorkKey& key) {
    const auto found = find_duration(h200, key);
    return found ? static_cast<double>(found->duration.ns) : 0;
  };
  for (const WorkKind kind : {WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight}) {
    double sum = 0;
    for (const Part& part : stage_parts(model, layout, Stage{1}))
      sum += ns(part_work(part, model, layout, kind));
    EXPECT_NEAR(sum / ns(layer_work(model, layout, 1, kind)), 1, 0.05) << words(kind);
  }
}

// The bundled layer of DeepSeek-V3: 4,096 tokens, experts over 64 devices, fp8. Stage 5 of 16 has four layers
// with experts and nothing else.
TEST(MeasuredEstimate, DeepSeeksMeasuredLayerStandsForItsLayersWithExperts) {
  const auto& bundled = bundled_calibrations();
  const Calibration deepseek = parse_calibration(bundled.at("deepseek-v3-h800"), "deepseek-v3-h800");
  ModelShape model;
  model.name = "DeepSeek-V3";
  model.hidden = 7168;
  model.layers = 61;
  model.ffn = 18432;
  model.vocab = 129280;
  model.attention.heads = model.attention.key_value_heads = 128;
  model.attention.head_dim = 192;
  model.attention.latent = LatentAttention{1536, 512, 64, 128, 128};
  model.experts.emplace();
  model.experts->routed = 256;
  model.experts->per_token = 8;
  model.experts->ffn = model.experts->shared_ffn = 2048;
  model.experts->in_layer.assign(61, true);
  for (std::size_t layer = 0; layer < 3; ++layer) model.experts->in_layer[layer] = false;
  Layout layout;
  layout.parallelism = {16, 1, 64, 64};
  layout.numerics.weights = WeightType::fp8;
  layout.sequence = 4096;
  layout.stages = even_stages(model, 16);
  ASSERT_EQ(layout.stages[5].layers, 4u);
  const CostModel cost = estimate(deepseek, *measured_device(deepseek), model, layout);
  EXPECT_EQ(total(cost.stages[5].forward), total(measured_chunk(deepseek).stages[0].forward));
  EXPECT_EQ(cost.sources.at("expert_layer"), "measured");
  // From the data sheet alone it is 97.7 ms where 95.8 ms were measured.
  const CostModel estimated = estimate(*measured_device(deepseek), model, layout);
  EXPECT_NEAR(static_cast<double>(total(estimated.stages[5].forward).ns),
              static_cast<double>(total(cost.stages[5].forward).ns),
              0.05 * static_cast<double>(total(cost.stages[5].forward).ns));
}

}  // namespace
}  // namespace plumb
