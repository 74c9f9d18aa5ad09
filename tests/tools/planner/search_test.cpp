#include "tools/planner/search.hpp"

#include "calibrate/device_description.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/config.hpp"
#include "sim/estimate.hpp"
#include "tools/planner/parallel.hpp"

#include <algorithm>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

constexpr std::int64_t ms = 1'000'000;
constexpr Bytes gib{std::int64_t{1} << 30};

// Eight layers; one takes 2 ms forward and 4 backward for a sequence, and 1 and 2 ms more of waiting for its
// tensor-parallel group; weights 1 GiB a layer, activations 64 MiB.
ModelShape model() {
  ModelShape model;
  model.name = "eight";
  model.hidden = 64;
  model.layers = 8;
  model.ffn = 256;
  model.vocab = 0;
  model.attention.heads = 8;
  model.attention.key_value_heads = 8;
  model.attention.head_dim = 8;
  return model;
}

CostModel costs(const Layout& layout) {
  const auto t = static_cast<std::int64_t>(layout.parallelism.tensor);
  const auto b = static_cast<std::int64_t>(layout.micro_batch_size);
  CostModel cost;
  for (const StageContent& content : layout.stages) {
    const auto n = static_cast<std::int64_t>(content.layers);  // embedding and head cost nothing here
    const bool again = content.recompute == Recompute::full;
    StageCost stage;
    const auto op = [&](std::int64_t compute, std::int64_t wait) {
      OpCost out;
      out.recipe.push_back({Lane::compute, {n * b * compute / t}, {}, "compute", false});
      if (t > 1) out.recipe.push_back({Lane::communication, {n * b * wait}, {}, "gather", false});
      return out;
    };
    stage.forward = op(2 * ms, ms);
    stage.backward_input = op((again ? 4 : 2) * ms, 2 * ms);
    stage.backward_weight = op(2 * ms, 0);
    stage.backward = op((again ? 6 : 4) * ms, 2 * ms);
    const Bytes kept{n * b * gib.count / 16 / t / (again ? 16 : 1)};
    stage.forward.memory.at_begin = kept;
    stage.backward_input.memory.at_end = -kept;
    stage.backward.memory.at_end = -kept;
    stage.weights = {n * gib.count / t};
    cost.stages.push_back(stage);
  }
  return cost;
}

SearchRequest request(std::vector<std::string> names, Bytes memory) {
  SearchRequest request;
  request.model = model();
  request.devices = 4;
  request.global_batch = 8;
  request.sequence = 128;
  request.memory = memory;
  request.micro_batch_sizes = {1};
  for (const std::string& name : names) request.schedules.push_back(&generator(name));
  return request;
}

std::string words(const LayoutPlan& plan) {
  return std::string(plan.generator->name) + " " + to_text(plan.layout, plan.shape);
}

TEST(Search, FindsTheWinnerThatIsDerivedByHand) {
  // Four devices, eight sequences. 1 rank, 4 copies: 2 sequences of 8 x 6 ms = 96 ms, but 8 GiB of weights.
  // 2 ranks, 2 copies: 4 microbatches, (4 + 1) x 4 x 6 = 120. 4 ranks: (8 + 3) x 2 x 6 = 132. Two-way tensor
  // parallelism: a layer takes 1 + 1 and 2 + 2 ms, as long as alone: 4 x 8 x 6 = 192 with one rank.
  const SearchResult roomy = search(request({"1f1b"}, gib * 20), costs);
  EXPECT_EQ(words(roomy.plans[0]), "1f1b pp 1 tp 1 dp 4, micro batch 1");
  EXPECT_EQ(roomy.plans[0].step_time().ns, 96 * ms);
  const SearchResult tight = search(request({"1f1b"}, gib * 5), costs);
  EXPECT_EQ(words(tight.plans[0]), "1f1b pp 2 tp 1 dp 2, micro batch 1");
  EXPECT_EQ(tight.plans[0].step_time().ns, 120 * ms);
  EXPECT_EQ(words(tight.plans[1]), "1f1b pp 4 tp 1 dp 1, micro batch 1");
  EXPECT_EQ(tight.plans[1].step_time().ns, 132 * ms);
  // Weights of 4 layers and activations of two microbatches of them: 4 + 2 x 4 / 16 GiB.
  EXPECT_EQ(tight.plans[0].peak, (Bytes{4 * gib.count + gib.count / 2}));
  // In four chunks of one layer: (4 + 1 / 4) x 24 = 102.
  const SearchResult chunked = search(request({"1f1b", "interleaved-1f1b"}, gib * 6), costs);
  EXPECT_EQ(words(chunked.plans[0]), "interleaved-1f1b pp 2 tp 1 dp 2, 4 chunks, micro batch 1");
  EXPECT_EQ(chunked.plans[0].step_time().ns, 102 * ms);
}

TEST(Search, RecomputesOnlyWhereItMust) {
  // 4 ranks hold 2 layers: 2 GiB of weights, and rank 0 four microbatches of 2 x 64 MiB: 2.5 GiB. Recomputing
  // everything leaves 2.03 GiB and costs (8 + 3) x 2 x 8 = 176 ms instead of 132.
  SearchRequest four = request({"1f1b"}, Bytes{gib.count * 5 / 2 - 1});
  EXPECT_EQ(search(request({"1f1b"}, Bytes{gib.count * 5 / 2}), costs).plans[0].step_time().ns, 132 * ms);
  four.tensor = {1};
  const SearchResult result = search(four, costs);
  EXPECT_EQ(words(result.plans[0]), "1f1b pp 4 tp 1 dp 1, micro batch 1, recompute full");
  EXPECT_EQ(result.plans[0].step_time().ns, 176 * ms);
}

std::vector<std::string> all_words(const SearchResult& result) {
  std::vector<std::string> out;
  for (const LayoutPlan& plan : result.plans) out.push_back(words(plan));
  for (const std::size_t i : result.front) out.push_back("front " + words(result.plans[i]));
  for (const Refusal& refusal : result.refused) {
    out.push_back(refusal.schedule + ": " + refusal.reason + " x " + std::to_string(refusal.candidates));
  }
  return out;
}

TEST(Search, MissesNothingThatSimulatingEverythingWouldShow) {
  SearchRequest some = request({}, gib * 4);
  some.devices = 8;
  some.global_batch = 32;
  some.micro_batch_sizes = {1, 2};
  const SearchResult quick = search(some, costs);
  SearchRequest every = some;
  every.best = 100'000;
  const SearchResult all = search(every, costs);
  EXPECT_LT(quick.simulated, all.simulated);
  ASSERT_GE(quick.plans.size(), 10u);
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(words(quick.plans[i]), words(all.plans[i])) << i;
  std::vector<std::string> front, whole_front;
  for (const std::size_t i : quick.front) front.push_back(words(quick.plans[i]));
  for (const std::size_t i : all.front) whole_front.push_back(words(all.plans[i]));
  EXPECT_EQ(front, whole_front);
  std::set<const Generator*> seen;
  for (const LayoutPlan& plan : all.plans) {
    if (!seen.insert(plan.generator).second) continue;
    const auto same = std::find_if(quick.plans.begin(), quick.plans.end(),
                                   [&](const LayoutPlan& p) { return p.generator == plan.generator; });
    ASSERT_NE(same, quick.plans.end()) << plan.generator->name;
    EXPECT_EQ(words(*same), words(plan));
  }
}

// Stages' costs are not quite sums over what they hold (a tied head, an MTP module beside it); what is found
// must not notice.
TEST(Search, MissesNothingOnTheCostsOfADataSheetEither) {
  ShortForm tied;
  tied.kind = ShortForm::Kind::gpt;
  tied.hidden = 2048;
  tied.layers = 8;
  tied.heads = 16;
  std::vector<ModelShape> models{model_of(tied)};
  for (const char* name : {"mixtral-8x7b", "deepseek-v3"}) {
    models.push_back(parse_config(bundled_models().at(name), name, name).shape);
    models.back().layers = 8;
    models.back().experts->in_layer.resize(8);
  }
  const DeviceDescription& device = device_description("h100");
  for (const ModelShape& shape : models) {
    SCOPED_TRACE(shape.name);
    SearchRequest some;
    some.model = shape;
    some.devices = 16;
    some.global_batch = 64;
    some.sequence = 2048;
    some.chunks = {2};
    some.micro_batch_sizes = {4};
    const auto of_device = [&](const Layout& layout) { return estimate(device, some.model, layout); };
    // Without a cap nothing is ruled out by a bound.
    SearchRequest every = some;
    every.best = 100'000;
    every.memory = gib * 10'000;
    const SearchResult all = search(every, of_device);
    std::vector<Bytes> peaks;
    for (const std::size_t i : all.best) peaks.push_back(all.plans[i].peak);
    std::nth_element(peaks.begin(), peaks.begin() + static_cast<std::ptrdiff_t>(peaks.size() / 2),
                     peaks.end());
    some.memory = peaks[peaks.size() / 2];
    std::vector<Duration> fit;
    for (const std::size_t i : all.best) {
      if (all.plans[i].peak <= some.memory) fit.push_back(all.plans[i].step_time());
    }
    const SearchResult quick = search(some, of_device);
    EXPECT_LT(quick.simulated, all.simulated / 2);
    ASSERT_GE(fit.size(), some.best);
    for (std::size_t i = 0; i < some.best; ++i) {
      EXPECT_LE(quick.plans[quick.best[i]].step_time(), fit[i]) << i;
    }
  }
}

TEST(Search, GivesOneResultWhateverTheThreads) {
  SearchRequest some = request({}, gib * 4);
  some.devices = 8;
  some.global_batch = 32;
  some.threads = 1;
  const std::vector<std::string> one = all_words(search(some, costs));
  for (const unsigned threads : {2u, 5u}) {
    some.threads = threads;
    EXPECT_EQ(all_words(search(some, costs)), one);
  }
}

TEST(Search, SaysWhatItRuledOutAndWhatIsNearest) {
  const SearchResult result = search(request({"1f1b"}, gib), costs);
  EXPECT_TRUE(result.plans.empty());
  ASSERT_TRUE(result.nearest);
  // All four devices hold two layers' worth whatever the split: 2 GiB and the least activations, of one rank
  // with four-way tensor parallelism, recomputed: 8 / 16 / 4 / 16 GiB.
  EXPECT_EQ(result.nearest->layout.parallelism.tensor, 4u);
  EXPECT_EQ(result.nearest->peak, (Bytes{2 * gib.count + gib.count / 128}));
  ASSERT_FALSE(result.refused.empty());
  EXPECT_EQ(result.refused[0].schedule, "1f1b");
  EXPECT_THAT(result.refused[0].reason, ::testing::HasSubstr("out of memory by at least 1.008 GiB"));
  // dualpipe takes 4 ranks and 8 microbatches, or 2 ranks and 4 at least; two copies of 4 layers are 8 GiB.
  const SearchResult two_copies = search(request({"dualpipe"}, gib * 5), costs);
  EXPECT_EQ(two_copies.plans[0].layout.parallelism.pipeline, 4u);
}

TEST(Search, StopsWithWhatItHas) {
  SearchRequest some = request({}, gib * 20);
  some.devices = 8;
  some.global_batch = 64;
  std::atomic<bool> stop{false};
  std::size_t calls = 0;
  const SearchResult result = search(
      some, costs,
      [&](const SearchProgress& progress) {
        calls += !progress.bounding;
        if (!progress.bounding) stop = true;
      },
      &stop);
  EXPECT_TRUE(result.interrupted);
  EXPECT_EQ(calls, 1u) << "one round, then no more";
  EXPECT_FALSE(result.plans.empty());
  const SearchResult at_once = search(some, costs, {}, &stop);
  EXPECT_TRUE(at_once.interrupted);
  EXPECT_TRUE(at_once.plans.empty());
}

TEST(Search, RefusesWhatNoLayoutCanBe) {
  SearchRequest odd = request({"1f1b"}, gib * 20);
  odd.devices = 7;  // seven copies do not share 8 sequences, and 7 ranks take 8 layers: one way remains
  EXPECT_EQ(words(search(odd, costs).plans[0]), "1f1b pp 7 tp 1 dp 1, micro batch 1");
  odd.devices = 11;  // 11 ranks are more than 8 layers, 11 heads there are none, 11 does not divide 8
  EXPECT_THROW(search(odd, costs), BadInput);
  SearchRequest asked = request({"1f1b"}, gib * 20);
  asked.pipeline = {3};
  EXPECT_THROW(search(asked, costs), BadInput);
  SearchRequest batch = request({"1f1b"}, gib * 20);
  batch.pipeline = {1};
  batch.tensor = {1};
  batch.global_batch = 6;
  try {
    search(batch, costs);
    FAIL() << "6 sequences on 4 copies";
  } catch (const BadInput& refused) {
    EXPECT_THAT(refused.what(), ::testing::HasSubstr("global batch of 6"));
  }
}

TEST(ForEachInParallel, CallsEachOnceAndPassesOnTheFirstFailure) {
  std::vector<std::atomic<int>> calls(100);
  for_each_in_parallel(
      100, [&](std::size_t i) { ++calls[i]; }, 4);
  for (const auto& count : calls) EXPECT_EQ(count, 1);
  for_each_in_parallel(0, [](std::size_t) { FAIL(); });
  try {
    for_each_in_parallel(
        50,
        [](std::size_t i) {
          if (i % 10 == 7) throw BadInput("work", std::to_string(i));
        },
        3);
    FAIL();
  } catch (const BadInput& failure) {
    EXPECT_STREQ(failure.what(), "work: 7");
  }
}

}  // namespace
}  // namespace plumb
