#include "calibrate/session.hpp"

#include "calibrate/lookup.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/model/config.hpp"
#include "schedules/model/layer_costs.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::HasSubstr;

CalibrationRequest request(std::uint32_t ranks) {
  CalibrationRequest r;
  r.model.architecture = Architecture::mlp;
  r.model.hidden = 2048;
  r.model.ffn = 8192;
  r.model.layers = ranks;
  r.layout.sequence = 4096;
  for (std::uint32_t s = 0; s < ranks; ++s)
    r.layout.stages.push_back({s, 1, 0, false, false, Recompute::none});
  r.ranks = ranks;
  return r;
}

// A device whose times follow a rule: everything takes 1 us and 1 us more for each target before it.
class MadeUp : public Measurer {
 public:
  Provenance provenance() const override { return {}; }
  Setting setting() const override { return {Share::partition, 16, 8, true}; }
  std::vector<std::vector<std::uint32_t>> message_pairs() const override { return {{0, 1}}; }
  bool can_measure(const Target& target) const override {
    const auto* slowdown = std::get_if<SlowdownTarget>(&target);
    return slowdown == nullptr || slowdown->key.communication_sms == 0;
  }
  std::vector<Measurement> measure(const Target& target, const StoppingRule&) override {
    if (measured.size() == fails_at && failures < most_failures) {
      ++failures;
      throw DeviceError("out of memory");
    }
    measured.push_back(target);
    clock.ns += 1'000'000;
    SampleSet set;
    for (int k = 0; k < 12; ++k) set.add({{1'000 * static_cast<std::int64_t>(measured.size())}, 1'755});
    Measurement out;
    out.samples = set.samples();
    if (const auto* work = std::get_if<WorkTarget>(&target)) {
      out.figures = TimedWork{work->work, work->setting, std::nullopt, "gemm", set.summary(), std::nullopt};
    } else if (const auto* transfer = std::get_if<TransferTarget>(&target)) {
      out.figures = Transfer{transfer->key, {transfer->size, set.summary()}};
    } else if (const auto* slowdown = std::get_if<SlowdownTarget>(&target)) {
      out.figures = Slowdown{slowdown->key, set.summary(), set.summary()};
    } else {
      out.figures = MeasuredMemory{std::get<MemoryTarget>(target).work, {}, {}, {}, {}, {}, {}, {}};
    }
    return {out};
  }

  bool in_turns(const Target& a, const Target& b) const override {
    const auto* one = std::get_if<WorkTarget>(&a);
    const auto* other = std::get_if<WorkTarget>(&b);
    return takes_turns && one && other && one->setting == other->setting;
  }
  std::vector<Measurement> measure_in_turns(const std::vector<Target>& targets,
                                            const StoppingRule& rule) override {
    if (most_in_turns < targets.size()) throw DeviceError("too many");
    groups.push_back(targets.size());
    return Measurer::measure_in_turns(targets, rule);
  }

  std::vector<Target> measured;
  bool goes_on_after_failure() const override { return goes_on; }

  bool takes_turns = false;
  std::size_t most_in_turns = 1'000'000;
  std::vector<std::size_t> groups;  // that were measured in turns

  std::size_t fails_at = 1'000'000;
  std::size_t failures = 0;
  std::size_t most_failures = 1'000'000;
  bool goes_on = false;
  Duration clock;
};

struct Kept {
  std::vector<std::size_t> missing;
  std::vector<Progress> progress;
  std::size_t stop_at = 1'000'000;

  SessionHooks hooks(MadeUp& device) {
    return {[&device] { return device.clock; }, [this](const Progress& p) { progress.push_back(p); },
            [this](const Calibration& c, const std::vector<Measurement>&) {
              missing.push_back(c.missing.size());
            },
            [this, &device] { return device.measured.size() >= stop_at; }};
  }
};

TEST(Session, PlansEachTargetOnceAndTheStagesFirst) {
  MadeUp device;
  const std::vector<Target> targets = plan_targets(request(8), device);
  EXPECT_EQ(std::set<Target>(targets.begin(), targets.end()).size(), targets.size());
  // Eight equal stages are one target a kind.
  ASSERT_GE(targets.size(), 5u);
  for (std::size_t k = 0; k < 5; ++k) {
    EXPECT_EQ(std::get<WorkTarget>(targets[k]).work.name, "stage");
    EXPECT_EQ(std::get<WorkTarget>(targets[k]).work.kind, static_cast<WorkKind>(k));
  }
  // The message that this model sends, 4,096 x 2,048 bf16, stands among the sizes.
  const auto sent = std::find_if(targets.begin(), targets.end(), [](const Target& target) {
    const auto* transfer = std::get_if<TransferTarget>(&target);
    return transfer != nullptr && transfer->size.count == 16'777'216 &&
           transfer->key.kind == TransferKind::hop;
  });
  EXPECT_NE(sent, targets.end());
  for (const Target& target : targets) EXPECT_TRUE(device.can_measure(target));
}

// A stage of one layer has 2 x 2,048 x 8,192 parameters and 128 MiB of float32 gradients. Eight ranks are
// four pairs of owners, the outermost ranks 0 and 7. A gibibyte is the most that is added up.
TEST(Session, MeasuresWhatTwoOwnersAddUpAtTheSizeOfTheModelsGradients) {
  MadeUp device;
  const auto sums = [&](const CalibrationRequest& wanted) {
    std::set<std::int64_t> sizes;
    for (const Target& target : plan_targets(wanted, device)) {
      const auto* transfer = std::get_if<TransferTarget>(&target);
      if (transfer == nullptr || transfer->key.kind != TransferKind::all_reduce) continue;
      if (transfer->key.ranks != std::vector<std::uint32_t>{0, 7}) continue;
      EXPECT_EQ(transfer->key.at_once, 4u);
      EXPECT_FALSE(transfer->key.setting.others_busy);
      sizes.insert(transfer->size.count);
    }
    return sizes;
  };
  CalibrationRequest over_nccl = request(8);
  over_nccl.transport = "nccl";
  EXPECT_EQ(sums(over_nccl), (std::set<std::int64_t>{1 << 20, 1 << 24, 1 << 26, 1 << 27}));
  CalibrationRequest large = over_nccl;
  large.model.ffn *= 16;
  EXPECT_EQ(*sums(large).rbegin(), 1 << 30);
}

// Four ranks with one stage each or two: stages of two layers and of one, each twice: the first stage of an
// mlp has no gradient of its input to compute.
TEST(Session, MeasuresTheStagesOfEveryCut) {
  MadeUp device;
  CalibrationRequest two = request(4);
  two.model.layers = 8;
  for (StageContent& stage : two.layout.stages) stage.layers = 2;
  two.other_cuts = {request(8).layout};
  std::set<std::string> forwards;
  for (const Target& target : plan_targets(two, device)) {
    const auto* work = std::get_if<WorkTarget>(&target);
    if (work != nullptr && work->work.name == "stage" && work->work.kind == WorkKind::forward)
      forwards.insert(to_string(work->work));
  }
  EXPECT_EQ(forwards.size(), 4u);
}

TEST(Session, PlansThePiecesOfLayersWithTheWorkTheyHave) {
  MadeUp device;
  std::set<std::string> products;
  for (const Target& target : plan_targets(request(2), device)) {
    const auto* work = std::get_if<WorkTarget>(&target);
    if (work != nullptr && work->work.name == "gemm") products.insert(to_string(work->work));
  }
  // Linear H -> 4H and 4H -> H over 4,096 tokens, three kinds of work each.
  EXPECT_EQ(products.size(), 6u);
  EXPECT_EQ(products.count("gemm backward_weight bf16 k=2048 m=4096 n=8192"), 1u);
}

// Forwards of a model's parts that are planned, by name; and how many products of all kinds.
std::pair<std::set<std::string>, std::size_t> planned(const std::string& config) {
  MadeUp device;
  CalibrationRequest wanted;
  wanted.model = parse_config(config, "config.json", "a model").shape;
  wanted.ranks = wanted.layout.parallelism.pipeline = 2;
  wanted.layout.sequence = 512;
  wanted.layout.stages = even_stages(wanted.model, 2);
  std::set<std::string> names;
  std::set<WorkKey> products;
  std::set<std::string> memory;
  for (const Target& target : plan_targets(wanted, device)) {
    if (const auto* one = std::get_if<MemoryTarget>(&target)) memory.insert(to_string(one->work));
    const auto* work = std::get_if<WorkTarget>(&target);
    if (work == nullptr) continue;
    if (work->work.kind == WorkKind::forward) names.insert(work->work.name);
    if (work->work.name == "gemm") products.insert(work->work);
  }
  EXPECT_EQ(memory.size(), 3u) << "a layer, a first stage and a last one";
  return {names, products.size()};
}

// In the names of schedules/model. A product of each sort (the head is one) has three kinds.
TEST(Session, PlansAllOfALlamaAQwen3AndAGpt2) {
  const std::set<std::string> llama{"stage",      "layer",      "embedding",  "norm_1", "gemm",
                                    "rope",       "attention",  "residual_1", "norm_2", "swiglu",
                                    "residual_2", "final_norm", "loss"};
  const auto found = planned(
      R"({"model_type":"llama","hidden_size":256,"num_hidden_layers":4,"num_attention_heads":4,
          "num_key_value_heads":2,"intermediate_size":1024,"vocab_size":1000})");
  EXPECT_EQ(found.first, llama);
  EXPECT_EQ(found.second, 15u) << "qkv, output, gate_up, down, head";

  std::set<std::string> qwen = llama;
  qwen.insert("qk_norm");
  const auto of_qwen = planned(
      R"({"model_type":"qwen3","hidden_size":256,"num_hidden_layers":4,"num_attention_heads":4,
          "num_key_value_heads":2,"head_dim":128,"intermediate_size":1024,"vocab_size":1000,
          "attention_bias":false,"tie_word_embeddings":true})");
  EXPECT_EQ(of_qwen.first, qwen);
  EXPECT_EQ(of_qwen.second, 15u);

  std::set<std::string> gpt = llama;
  gpt.erase("rope");
  gpt.erase("swiglu");
  gpt.insert("gelu");
  const auto of_gpt = planned(
      R"({"model_type":"gpt2","n_embd":256,"n_layer":4,"n_head":4,"n_positions":1024,"vocab_size":1000})");
  EXPECT_EQ(of_gpt.first, gpt);
  EXPECT_EQ(of_gpt.second, 15u) << "qkv, output, up, down, head";
}

// 8 ranks that share a GPU: a layer's five kinds with 2 and with 4 of them idle.
TEST(Session, PlansALayerUnderPartialLoadWhereRanksShareAGpu) {
  MadeUp device;
  std::map<std::uint32_t, int> idle;
  for (const Target& target : plan_targets(request(8), device)) {
    if (const auto* work = std::get_if<WorkTarget>(&target)) ++idle[work->setting.idle_others];
  }
  EXPECT_EQ(idle.size(), 3u);
  EXPECT_EQ(idle[2], 5);
  EXPECT_EQ(idle[4], 5);
}

TEST(Session, PlansALayerBesideEachThingThatRanksOfOneGpuCompute) {
  MadeUp device;
  std::map<OthersCompute, std::set<WorkKind>> beside;
  CalibrationRequest wanted = request(8);
  for (const Target& target : plan_targets(wanted, device)) {
    const auto* work = std::get_if<WorkTarget>(&target);
    if (work && work->setting.others_compute != OthersCompute::as_in_steps)
      beside[work->setting.others_compute].insert(work->work.kind);
  }
  const std::set<WorkKind> single{WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight,
                                  WorkKind::backward};
  EXPECT_EQ(beside, (std::map<OthersCompute, std::set<WorkKind>>{{OthersCompute::forwards, single},
                                                                 {OthersCompute::backwards, single},
                                                                 {OthersCompute::pairs, single}}));
  wanted.transport = "nccl";
  for (const Target& target : plan_targets(wanted, device)) {
    const auto* work = std::get_if<WorkTarget>(&target);
    EXPECT_TRUE(!work || work->setting.others_compute == OthersCompute::as_in_steps) << to_string(target);
  }
}

// A stage's and a layer's kinds, and no target that an ordinary calibration has.
TEST(Session, WithAFlushedCacheItPlansStagesAndLayersInASettingOfTheirOwn) {
  MadeUp device;
  const CalibrationRequest ordinary = request(8);
  CalibrationRequest wanted = ordinary;
  wanted.flush = true;
  const std::vector<Target> both = plan_targets(ordinary, device);
  const std::set<Target> seen(both.begin(), both.end());
  const std::vector<Target> flushed = plan_targets(wanted, device);
  // An mlp's first stage and its others: four ops, a pair and the optimizer each; a layer: four ops and a
  // pair.
  EXPECT_EQ(flushed.size(), 17u);
  for (const Target& target : flushed) {
    EXPECT_TRUE(std::get<WorkTarget>(target).setting.flushed);
    EXPECT_FALSE(seen.contains(target));
    EXPECT_THAT(to_string(target), HasSubstr(", cache flushed"));
  }
}

// Of every stage all of its gradients, float32, among ranks that compute; over NCCL an all-reduce of any size
// says it.
TEST(Session, PlansWhatTwoOwnersOfAStageAddUpInsideOneGpu) {
  MadeUp device;
  const auto sums = [&](const CalibrationRequest& wanted) {
    std::vector<TransferTarget> found;
    for (const Target& target : plan_targets(wanted, device)) {
      const auto* transfer = std::get_if<TransferTarget>(&target);
      if (transfer && transfer->key.kind == TransferKind::all_reduce &&
          transfer->key.setting == device.setting())
        found.push_back(*transfer);
    }
    return found;
  };
  CalibrationRequest wanted = request(4);
  const std::vector<TransferTarget> found = sums(wanted);
  ASSERT_EQ(found.size(), 1u) << "an mlp's stages have equally many parameters";
  EXPECT_EQ(found[0].size, stage_bytes(wanted.model, wanted.layout, Stage{1}).gradients);
  EXPECT_EQ(found[0].key.ranks, (std::vector<std::uint32_t>{0, 1}));
  wanted.transport = "nccl";
  EXPECT_TRUE(sums(wanted).empty());
}

TEST(Session, ARankAloneNeedsNoCollectives) {
  MadeUp device;
  const std::vector<Target> targets = plan_targets(request(1), device);
  EXPECT_TRUE(std::none_of(targets.begin(), targets.end(), [](const Target& target) {
    const auto* transfer = std::get_if<TransferTarget>(&target);
    return transfer != nullptr && transfer->key.kind >= TransferKind::all_reduce;
  }));
}

TEST(Session, MeasuresEverythingAndSaysHowLongItTakes) {
  MadeUp device;
  Kept kept;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(4), device);
  EXPECT_TRUE(measure_missing(device, targets, {}, calibration, kept.hooks(device)));
  EXPECT_EQ(device.measured, targets);
  EXPECT_TRUE(calibration.missing.empty());
  EXPECT_TRUE(missing_targets(calibration, targets).empty());
  EXPECT_EQ(kept.missing.back(), 0u);
  EXPECT_EQ(calibration.forward.front().duration.ns, 11'000)
      << "the layer's forward is the eleventh target, behind five kinds of op of the first stage and five of "
         "those behind it";
  // Half way, at 1 ms a target.
  const Progress& half = kept.progress[targets.size() / 2];
  EXPECT_EQ(half.done, targets.size() / 2);
  EXPECT_EQ(half.remaining.ns, static_cast<std::int64_t>(targets.size() - targets.size() / 2) * 1'000'000);
  EXPECT_EQ(half.target, to_string(targets[targets.size() / 2]));
}

TEST(Session, InterruptedItKeepsWhatItHasAndGoesOnWhereItWas) {
  MadeUp device;
  Kept kept;
  kept.stop_at = 7;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(4), device);
  EXPECT_FALSE(measure_missing(device, targets, {}, calibration, kept.hooks(device)));
  ASSERT_EQ(calibration.missing.size(), targets.size() - 7);
  EXPECT_EQ(calibration.missing.front(), to_string(targets[7]));
  EXPECT_EQ(calibration.missing.back(), to_string(targets.back()));
  EXPECT_EQ(calibration.forward.size(), 1u) << "what there is can be used";

  MadeUp again;
  Kept more;
  EXPECT_TRUE(measure_missing(again, targets, {}, calibration, more.hooks(again)));
  EXPECT_EQ(again.measured, std::vector<Target>(targets.begin() + 7, targets.end()));
  EXPECT_EQ(more.progress.front().done, 7u);
}

std::size_t work_under_full_load(const std::vector<Target>& targets) {
  return static_cast<std::size_t>(std::count_if(targets.begin(), targets.end(), [](const Target& target) {
    const auto* work = std::get_if<WorkTarget>(&target);
    return work != nullptr && work->setting.idle_others == 0 &&
           work->setting.others_compute == OthersCompute::as_in_steps;
  }));
}

// A layer's five kinds with 2 and with 4 of 8 ranks idle, and but for the pair beside forwards, backwards and
// pairs.
const std::vector<std::size_t> groups_of_a_layer{5, 5, 4, 4, 4};

// 8 ranks: all work under full load is one group, the first; a layer's are the others. Everything else is
// measured alone.
TEST(Session, WhatCanBeSampledInTurnsIsMeasuredAtOnce) {
  MadeUp device;
  device.takes_turns = true;
  Kept kept;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(8), device);
  EXPECT_TRUE(measure_missing(device, targets, {}, calibration, kept.hooks(device)));
  const std::size_t loaded = work_under_full_load(targets);
  std::vector<std::size_t> expected{loaded};
  expected.insert(expected.end(), groups_of_a_layer.begin(), groups_of_a_layer.end());
  EXPECT_EQ(device.groups, expected);
  EXPECT_EQ(std::set<Target>(device.measured.begin(), device.measured.end()),
            std::set<Target>(targets.begin(), targets.end()));
  EXPECT_TRUE(calibration.missing.empty());
  EXPECT_EQ(kept.missing.front(), targets.size() - loaded) << "a group is kept at once";
  EXPECT_EQ(kept.progress[1].done, loaded);
  EXPECT_THAT(kept.progress[0].target, HasSubstr(", in turns with " + std::to_string(loaded - 1) + " more"));
}

TEST(Session, InterruptedBetweenGroupsItGoesOnWithTheNext) {
  MadeUp device;
  device.takes_turns = true;
  Kept kept;
  kept.stop_at = 1;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(8), device);
  EXPECT_FALSE(measure_missing(device, targets, {}, calibration, kept.hooks(device)));
  const std::size_t loaded = work_under_full_load(targets);
  EXPECT_EQ(calibration.missing.size(), targets.size() - loaded);
  MadeUp again;
  again.takes_turns = true;
  Kept more;
  EXPECT_TRUE(measure_missing(again, targets, {}, calibration, more.hooks(again)));
  EXPECT_EQ(again.groups, groups_of_a_layer);
  EXPECT_EQ(more.progress.front().done, loaded);
}

// Where they cannot be in memory at once, say: each is tried alone, and the one that fails alone is named.
TEST(Session, AGroupThatFailsIsMeasuredOneByOne) {
  MadeUp device;
  device.takes_turns = true;
  device.goes_on = true;
  device.most_in_turns = 5;
  device.fails_at = 3;
  device.most_failures = 1;
  Kept kept;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(8), device);
  std::vector<std::string> failed;
  SessionHooks hooks = kept.hooks(device);
  hooks.failed = [&](const std::string& target, const std::string&) { failed.push_back(target); };
  EXPECT_FALSE(measure_missing(device, targets, {}, calibration, hooks));
  EXPECT_EQ(device.groups, groups_of_a_layer);
  EXPECT_EQ(failed, std::vector<std::string>{to_string(targets[3])});
  EXPECT_EQ(calibration.missing, failed);
}

TEST(Session, ADeviceThatFailsLeavesWhatWasMeasured) {
  MadeUp device;
  device.fails_at = 3;
  Kept kept;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(2), device);
  EXPECT_THROW(measure_missing(device, targets, {}, calibration, kept.hooks(device)), DeviceError);
  EXPECT_EQ(missing_targets(calibration, targets).size(), targets.size() - 3);
  EXPECT_EQ(kept.missing.size(), 3u) << "each was kept as it came";
}

// What is on disk when a process dies is what was written last, be it before the first target.
TEST(Session, WhatIsKeptCanBeReadAtAnyTime) {
  MadeUp device;
  Kept kept;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(2), device);
  SessionHooks hooks = kept.hooks(device);
  const auto read_back = [&] {
    std::ostringstream out;
    write_calibration(out, calibration);
    return parse_calibration(out.str(), "kept").missing.size();
  };
  hooks.progress = [&](const Progress& p) { EXPECT_EQ(read_back(), targets.size() - p.done); };
  EXPECT_TRUE(measure_missing(device, targets, {}, calibration, hooks));
  EXPECT_EQ(read_back(), 0u);
}

TEST(Session, WhatFailsAloneIsSkippedAndNamed) {
  MadeUp device;
  device.goes_on = true;
  device.fails_at = 3;
  device.most_failures = 1;
  Kept kept;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(2), device);
  std::vector<std::string> failed;
  SessionHooks hooks = kept.hooks(device);
  hooks.failed = [&](const std::string& target, const std::string& why) {
    failed.push_back(target);
    EXPECT_EQ(why, "out of memory");
  };
  EXPECT_FALSE(measure_missing(device, targets, {}, calibration, hooks));
  EXPECT_EQ(failed, std::vector<std::string>{to_string(targets[3])});
  EXPECT_EQ(calibration.missing, failed);
  EXPECT_EQ(device.measured.size(), targets.size() - 1);
}

TEST(Session, TwoFailuresOneAfterTheOtherAreADeviceThatIsGone) {
  MadeUp device;
  device.goes_on = true;
  device.fails_at = 3;
  Kept kept;
  Calibration calibration;
  const std::vector<Target> targets = plan_targets(request(2), device);
  EXPECT_THROW(measure_missing(device, targets, {}, calibration, kept.hooks(device)), DeviceError);
  EXPECT_EQ(device.failures, 2u);
  EXPECT_EQ(calibration.missing.size(), targets.size() - 3);
}

TEST(Session, ACalibrationIsContinuedOnItsOwnMachineOnly) {
  Provenance begun;
  begun.gpu = "NVIDIA H200";
  begun.cuda = "13.0";
  begun.nccl_library = "2.28.3";
  Provenance here = begun;
  EXPECT_EQ(why_not_resume(begun, here), "");
  here.gpu = "NVIDIA H100 80GB HBM3";
  EXPECT_THAT(why_not_resume(begun, here), HasSubstr("begun on NVIDIA H200, this is NVIDIA H100"));
  here = begun;
  here.nccl_library = "2.29.0";
  EXPECT_THAT(why_not_resume(begun, here), HasSubstr("NCCL 2.28.3"));
}

TEST(Session, SamplesAreAJsonLine) {
  Measurement measurement;
  measurement.figures =
      TimedWork{{"layer", "\"odd\"", WorkKind::forward, {{"hidden", 8}}, "bf16"}, {}, 3, "", {}, {}};
  measurement.samples = {{{10}, 1755}, {{11}, 1755}, {{19}, 900}};
  const std::string line = samples_line(measurement);
  EXPECT_THAT(
      line,
      HasSubstr(R"("rank":3,"durations_ns":[10,11,19],"sm_clock_mhz":[1755,1755,900],"set_aside":[2])"));
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_NO_THROW(JsonDocument("{\"schema\":\"x\",\"a\":" + line + "}", "line", "x"));
}

}  // namespace
}  // namespace plumb
