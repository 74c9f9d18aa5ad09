// Measuring on a GPU: the gate, the sampler, and a whole measurer at sizes that take no time.
#include "calibrate/measure/background.hpp"
#include "calibrate/measure/gate.hpp"
#include "calibrate/measure/sampler.hpp"
#include "calibrate/measure/turn_sampler.hpp"
#include "calibrate/measurer.hpp"
#include "calibrate/session.hpp"
#include "calibrate/work.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/model/layer_costs.hpp"

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::measure {
namespace {

using device::Event;
using device::EventKind;
using device::Stream;

TEST(Gate, HoldsAStreamUntilItIsOpenedAndReadsTheClock) {
  const Stream stream;
  const Event event;
  Gate gate;
  gate.close(stream);
  event.record(stream);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(event.happened());
  gate.open();
  event.synchronize();
  stream.synchronize();
  // An H200's multiprocessors run at no more than 1980 MHz; an idle GPU's begin low and are raised as it
  // works.
  EXPECT_GT(gate.clock_mhz(), 100U);
  EXPECT_LE(gate.clock_mhz(), device::ClockReader().most_mhz() * 11 / 10);
}

TEST(Background, KeepsAStreamBusyUntilItIsDestroyed) {
  const Stream stream;
  const device::Buffer buffer(Bytes{64 << 20});
  std::atomic<int> launches = 0;
  {
    const Background busy(stream, [&] {
      device::fill(stream, buffer.data(), 1, std::size_t{64} << 20);
      ++launches;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  // 64 MB at 5 TB/s take 13 us: many in 100 ms, but never more than the device has done and three.
  EXPECT_GT(launches, 50);
  const int after = launches;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(launches, after);
}

TEST(Sampler, StopsAtTheRuleAndTimesWhatItIsGiven) {
  const Stream stream;
  const device::Buffer buffer(Bytes{256 << 20});
  const Event begin(EventKind::timing);
  const Event end(EventKind::timing);
  Sampler sampler;
  const auto sample = [&](int times) {
    return sampler.sample({stream, begin, end,
                           [&] {
                             begin.record(stream);
                             for (int i = 0; i < times; ++i) {
                               device::fill(stream, buffer.data(), i, std::size_t{256} << 20);
                             }
                             end.record(stream);
                           }},
                          WarmUp::a_few_runs, {0.05, 11, 200, Duration{500'000'000}});
  };
  const double once = static_cast<double>(sample(1).summary().median.ns);
  const double five = static_cast<double>(sample(5).summary().median.ns);
  EXPECT_NEAR(five / once, 5, 0.5);
}

TEST(TurnSampler, TimesEachThingAndTheClockOverIt) {
  const Stream stream;
  const device::Buffer buffer(Bytes{256 << 20});
  const auto fill = [&](int times) {
    for (int i = 0; i < times; ++i) device::fill(stream, buffer.data(), i, std::size_t{256} << 20);
  };
  const std::vector<Turn> turns{{[&] { fill(5); }, [&] { fill(4); }}, {[&] { fill(5); }, [&] { fill(20); }}};
  Load load;
  const auto sampled = sample_in_turns(stream, turns, {0.05, 11, 200, Duration{500'000'000}}, load);
  ASSERT_EQ(sampled.size(), 2U);
  const Summary four = summary_of(sampled[0].samples);
  const Summary twenty = summary_of(sampled[1].samples);
  EXPECT_NEAR(static_cast<double>(twenty.median.ns) / static_cast<double>(four.median.ns), 5, 0.5);
  // 256 MB at 5 TB/s take 50 us; the clock is read over more than 100.
  EXPECT_GT(twenty.sm_clock_mhz, 100U);
  EXPECT_LE(twenty.sm_clock_mhz, device::ClockReader().most_mhz() * 11 / 10);
}

CalibrationRequest small_request(std::uint32_t ranks) {
  CalibrationRequest request;
  request.ranks = ranks;
  request.model.hidden = 256;
  request.model.layers = 4;
  request.model.ffn = 512;
  request.model.vocab = 1024;
  request.model.attention.heads = request.model.attention.key_value_heads = 4;
  request.model.attention.head_dim = 64;
  request.layout.sequence = 256;
  request.layout.parallelism.pipeline = ranks;
  request.layout.stages = even_stages(request.model, ranks);
  return request;
}

CalibrationRequest small_request(std::uint32_t ranks, ShortForm::Kind kind) {
  ShortForm form;
  form.kind = kind;
  form.hidden = 256;
  form.layers = 4;
  form.heads = 4;
  form.vocab = 1024;
  CalibrationRequest request = small_request(ranks);
  request.model = model_of(form);
  request.layout.stages = even_stages(request.model, ranks);
  return request;
}

void measures_everything_that_it_plans(const CalibrationRequest& request) {
  const auto measurer = make_measurer(request);
  EXPECT_EQ(measurer->setting().of, 2U);
  EXPECT_TRUE(measurer->setting().others_busy);
  const StoppingRule rule{0.2, 6, 20, Duration{5'000'000}};
  bool work = false, hop = false, slowdown = false, memory = false;
  const std::vector<Target> targets = plan_targets(request, *measurer);
  std::vector<Target> ops;
  for (const Target& target : targets) {
    if (measurer->in_turns(targets.front(), target)) ops.push_back(target);
  }
  std::vector<Measurement> all = measurer->measure_in_turns(ops, rule);
  ASSERT_EQ(all.size(), ops.size());
  for (std::size_t i = 0; i < ops.size(); ++i) EXPECT_EQ(target_of(all[i]), ops[i]);
  for (const Target& target : targets) {
    if (measurer->in_turns(targets.front(), target)) continue;
    const auto measured = measurer->measure(target, rule);
    ASSERT_EQ(measured.size(), 1U) << to_string(target);
    EXPECT_EQ(target_of(measured[0]), target) << to_string(target);
    all.push_back(measured[0]);
  }
  for (const Measurement& measured : all) {
    const Target target = target_of(measured);
    const auto& figures = measured.figures;
    if (const auto* one = std::get_if<TimedWork>(&figures)) {
      work = true;
      const bool whole = one->work.name == "stage" || one->work.name == "layer";
      EXPECT_EQ(one->host_launch.has_value(), whole) << to_string(target);
      // The sum that closes a residual branch is in the product before it, or the norm behind it.
      const bool inside = one->work.name.starts_with("residual");
      EXPECT_GT(one->time.median, Duration{inside ? -1 : whole ? 1'000 : 500}) << to_string(target);
    } else if (const auto* transfer = std::get_if<Transfer>(&figures)) {
      hop = hop || transfer->key.kind == TransferKind::hop;
      EXPECT_GT(transfer->point.time.median, Duration{500}) << to_string(target);
      EXPECT_LT(transfer->point.time.median, Duration{5'000'000}) << to_string(target);
    } else if (std::holds_alternative<Slowdown>(figures)) {
      slowdown = true;
    } else {
      memory = true;
    }
  }
  EXPECT_TRUE(work && hop && slowdown && memory);
}

TEST(LocalMeasurer, MeasuresEverythingThatItPlans) { measures_everything_that_it_plans(small_request(2)); }

TEST(LocalMeasurer, MeasuresEverythingOfAModelOfGpt2sKind) {
  measures_everything_that_it_plans(small_request(2, ShortForm::Kind::gpt));
}

TEST(LocalMeasurer, MeasuresEverythingOfAModelWithNormsOfQueriesAndKeys) {
  CalibrationRequest request = small_request(2);
  request.model.attention.query_key_norm = true;
  request.model.attention.key_value_heads = 2;
  measures_everything_that_it_plans(request);
}

TEST(LocalMeasurer, MeasuresStagesAndLayersWithAFlushedCache) {
  CalibrationRequest request = small_request(1);
  const auto measurer = make_measurer(request);
  request.flush = true;
  const StoppingRule rule{0.2, 6, 20, Duration{5'000'000}};
  for (const Target& target : plan_targets(request, *measurer)) {
    const auto measured = measurer->measure(target, rule);
    EXPECT_EQ(target_of(measured.at(0)), target);
    EXPECT_GT(std::get<TimedWork>(measured[0].figures).time.median, Duration{1'000}) << to_string(target);
  }
}

TEST(LocalMeasurer, MeasuresEverythingOfAnMlp) {
  measures_everything_that_it_plans(small_request(2, ShortForm::Kind::mlp));
}

// An event between two kernels takes about a microsecond, of a layer that takes hundreds.
TEST(LocalMeasurer, TheLayersPartsAddUpToIt) {
  CalibrationRequest request = small_request(1);
  request.model.hidden = request.layout.sequence = 2048;
  request.model.ffn = 5632;
  request.model.attention.heads = request.model.attention.key_value_heads = 16;
  request.model.attention.head_dim = 128;
  const auto measurer = make_measurer(request);
  const StoppingRule rule{0.02, 11, 200, Duration{20'000'000}};
  const auto median = [&](const WorkKey& key) {
    const auto measured = measurer->measure(WorkTarget{key, measurer->setting()}, rule);
    return static_cast<double>(std::get<TimedWork>(measured[0].figures).time.median.ns);
  };
  for (const WorkKind kind : {WorkKind::forward, WorkKind::backward_input, WorkKind::backward_weight}) {
    const PartGroup layer = stage_groups(request.model, request.layout, Stage{0}).at(1);
    ASSERT_EQ(layer.name, "layer");
    double sum = 0;
    for (const Part& part : layer.parts) sum += median(part_work(part, request.model, request.layout, kind));
    const double whole = median(layer_work(request.model, request.layout, 0, kind));
    EXPECT_NEAR(sum / whole, 1, 0.1) << words(kind);
  }
}

// Of a whole model in one stage (embedding, layers and head) and of a layer, for every kind of model. That
// the kernels write exactly these bytes is a test of the layers: Stages.WriteTheirBlocksAndNothingElse.
TEST(LocalMeasurer, ItsMemoryIsWhatTheFormulasSay) {
  CalibrationRequest llama = small_request(1);
  CalibrationRequest gpt2 = llama;
  gpt2.model.norm = NormKind::layer_norm;
  gpt2.model.ffn_kind = FfnKind::gelu;
  gpt2.model.position = PositionKind::learned;
  gpt2.model.learned_positions = 1024;
  gpt2.model.attention.qkv_bias = gpt2.model.attention.output_bias = gpt2.model.ffn_bias = true;
  gpt2.model.tied_embeddings = true;
  CalibrationRequest mlp = llama;
  mlp.model = {};
  mlp.model.architecture = Architecture::mlp;
  mlp.model.hidden = 256;
  mlp.model.layers = 4;
  mlp.model.ffn = 1024;
  for (CalibrationRequest request : {llama, gpt2, mlp}) {
    for (const WeightType type : {WeightType::bf16, WeightType::fp32}) {
      request.layout.numerics.weights = type;
      const auto measurer = make_measurer(request);
      Layout one = request.layout;
      one.stages = {{0, 1, 0, false, false, Recompute::none}};
      const std::pair<WorkKey, StageBytes> all[] = {
          {stage_work(request.model, request.layout, Stage{0}, WorkKind::forward),
           stage_bytes(request.model, request.layout, Stage{0})},
          {layer_work(request.model, request.layout, 0, WorkKind::forward),
           stage_bytes(request.model, one, Stage{0})}};
      for (const auto& [work, formula] : all) {
        SCOPED_TRACE(to_string(MemoryTarget{work}));
        ASSERT_TRUE(measurer->can_measure(MemoryTarget{work}));
        const auto memory = std::get<MeasuredMemory>(measurer->measure(MemoryTarget{work}, {})[0].figures);
        EXPECT_EQ(memory.weights, formula.weights);
        EXPECT_EQ(memory.gradients, formula.gradients);
        EXPECT_EQ(memory.kept_by_forward, formula.kept_by_forward);
        EXPECT_EQ(memory.freed_by_backward_input, formula.freed_by_backward_input);
        EXPECT_EQ(memory.added_by_backward_input, formula.added_by_backward_input);
        EXPECT_EQ(memory.freed_by_backward_weight, formula.kept_by_forward - formula.freed_by_backward_input +
                                                       formula.added_by_backward_input);
      }
    }
  }
}

// Two ranks of one process cannot have NCCL between them on one GPU; one rank has it to itself.
TEST(NcclMeasurer, ARankAloneMeasuresItsWorkAndHasNobodyToSendTo) {
  CalibrationRequest request = small_request(1);
  request.transport = "nccl";
  Rendezvous alone(Placement{});
  const auto measurer = make_measurer(request, {&alone, 0, 0, 0});
  EXPECT_TRUE(measurer->leads());
  EXPECT_FALSE(measurer->setting().others_busy);
  const StoppingRule rule{0.2, 6, 20, Duration{5'000'000}};
  bool work = false;
  for (const Target& target : plan_targets(request, *measurer)) {
    EXPECT_FALSE(std::holds_alternative<TransferTarget>(target)) << to_string(target);
    const auto measured = measurer->measure(target, rule);
    ASSERT_EQ(measured.size(), 1U) << to_string(target);
    EXPECT_EQ(target_of(measured[0]), target);
    if (const auto* one = std::get_if<TimedWork>(&measured[0].figures)) {
      work = true;
      EXPECT_FALSE(one->rank) << "there is nobody to be told from";
    }
  }
  EXPECT_TRUE(work);
}

}  // namespace
}  // namespace plumb::measure
