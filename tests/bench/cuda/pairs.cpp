// A forward beside a backward, launched in several ways, against the two in turn: every share of the GPU does
// the same at the same time.
//   pairs SHARES[,SHARES…] mlp|gpt HIDDEN TOKENS LAYERS [rounds]
// The forward is of one stage, the backward of another, as DualPipe has them. Each way runs for some 40 ms
// before the next one has its turn, so that a falling clock slows all of them alike; medians over the rounds.
#include "runtime/device/buffer.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/model_stage.hpp"
#include "runtime/layers/random.hpp"
#include "schedules/model/parameters.hpp"
#include "tests/runtime/cuda/team.hpp"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace plumb;

namespace {

using layers::Lane;

device::Buffer block(std::uint64_t bytes) { return device::Buffer(Bytes{static_cast<std::int64_t>(bytes)}); }

// A middle stage with one microbatch, ready for any of its ops.
struct Rig {
  device::Buffer weights, gradients;
  std::unique_ptr<layers::ModelStage> stage;
  std::vector<device::Buffer> blocks;
  layers::StageBuffers forward, backward;

  Rig(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
      const Lane& lane) {
    const auto specs = stage_parameters(model, layout.stages[0]);
    const std::uint64_t count = elements_of(specs);
    weights = block(2 * count);
    gradients = block(4 * count);
    fill_constant(lane, {gradients.data(), layers::DataType::fp32, 1, count}, 0);
    const auto parameters =
        layers::stage_tensors(specs, layers::DataType::bf16, weights.data(), gradients.as<float>());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto deviation = static_cast<float>(specs[i].deviation);
      if (deviation > 0) {
        fill_uniform(lane, parameters[i].weights, i + 1, deviation * std::sqrt(3.0F));
      } else {
        fill_constant(lane, parameters[i].weights, static_cast<float>(specs[i].mean));
      }
    }
    stage = std::make_unique<layers::ModelStage>(model, layout, Stage{0}, parameters, algorithms, lane);
    const layers::StageNeeds& n = stage->needs();
    const auto place = [&](Bytes bytes) {
      blocks.emplace_back(bytes);
      return blocks.back().data();
    };
    const auto noise = [&](Bytes bytes, float amplitude) {
      void* at = place(bytes);
      fill_uniform(lane, {at, layers::DataType::bf16, layout.tokens(), model.hidden}, blocks.size(),
                   amplitude);
      return at;
    };
    const auto scratch = [&](Bytes bytes) { return layers::Scratch(place(bytes), bytes); };
    forward.input = noise(n.output, 1.7F);
    forward.output = place(n.output);
    forward.kept_for_input = place(n.kept_for_input);
    forward.kept_for_weight = place(n.kept_for_weight);
    backward = forward;
    backward.input = noise(n.output, 1e-3F);
    backward.output = place(n.output);
    backward.gradients_kept = place(n.gradients_kept);
    forward.scratch = scratch(n.forward_scratch);
    backward.scratch =
        scratch(std::max({n.backward_scratch, n.backward_input_scratch, n.backward_weight_scratch}));
    stage->forward(lane, forward);
    stage->backward_input(lane, backward);
    stage->backward_weight(lane, backward);
    lane.stream().synchronize();
  }
};

struct Way {
  const char* name;
  int forward_lane, backward_lane;  // 0, 1: equal priority; 2: high
  bool in_turns;
};
constexpr Way ways[] = {
    {"forward alone", 0, -1, false},      {"backward alone", -1, 0, false},
    {"one stream, in turn", 0, 0, false}, {"one stream, by layer", 0, 0, true},
    {"two, whole ops", 1, 0, false},      {"two, by layer", 1, 0, true},
    {"two, forward first", 2, 0, true},   {"two, backward first", 1, 2, true},
};
constexpr std::size_t way_count = std::size(ways);

struct Share {
  std::vector<device::Stream> streams;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::unique_ptr<Rig> first, second;
  device::Event begin{device::EventKind::timing}, end{device::EventKind::timing}, fork, join;

  Share(const device::GreenContext* share, std::uint32_t multiprocessors) {
    for (const auto priority : {device::Priority::low, device::Priority::low, device::Priority::normal})
      streams.push_back(share ? share->stream(priority) : device::Stream(priority));
    for (const auto& stream : streams) lanes.push_back(std::make_unique<Lane>(stream, multiprocessors));
  }

  void launch(const Way& way) {
    const int main = way.backward_lane < 0 ? way.forward_lane : way.backward_lane;
    const device::Stream& stream = streams[static_cast<std::size_t>(main)];
    const bool two = way.forward_lane >= 0 && way.backward_lane >= 0 && way.forward_lane != way.backward_lane;
    if (two) {
      fork.record(stream);
      streams[static_cast<std::size_t>(way.forward_lane)].wait(fork);
    }
    if (way.in_turns) {
      interleave(first->stage->launching(OpKind::forward, lane(way.forward_lane), first->forward),
                 second->stage->launching(OpKind::backward, lane(way.backward_lane), second->backward));
    } else {
      if (way.forward_lane >= 0) first->stage->forward(lane(way.forward_lane), first->forward);
      if (way.backward_lane >= 0) second->stage->backward(lane(way.backward_lane), second->backward);
    }
    if (two) {
      join.record(streams[static_cast<std::size_t>(way.forward_lane)]);
      stream.wait(join);
    }
  }
  const Lane& lane(int which) const { return *lanes[static_cast<std::size_t>(which)]; }

  // Microseconds each, and what the host takes to launch one.
  std::pair<double, double> time(const Way& way, int count) {
    const device::Stream& stream =
        streams[static_cast<std::size_t>(way.backward_lane < 0 ? way.forward_lane : way.backward_lane)];
    begin.record(stream);
    const auto before = std::chrono::steady_clock::now();
    launch(way);
    const std::chrono::duration<double, std::micro> host = std::chrono::steady_clock::now() - before;
    for (int i = 1; i < count; ++i) launch(way);
    end.record(stream);
    stream.synchronize();
    return {static_cast<double>(device::between(begin, end).ns) / 1e3 / count, host.count()};
  }
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void measure(std::uint32_t count, const ModelShape& model, const Layout& layout, int rounds) {
  std::vector<device::GreenContext> partition;
  if (count > 1) partition = device::partition(count);
  const std::uint32_t multiprocessors =
      count > 1 ? partition[0].multiprocessors() : device::device_info().multiprocessors;
  layers::ProductAlgorithms algorithms;
  std::vector<std::unique_ptr<Share>> shares;
  for (std::uint32_t r = 0; r < count; ++r) {
    Share& share =
        *shares.emplace_back(std::make_unique<Share>(count > 1 ? &partition[r] : nullptr, multiprocessors));
    share.first = std::make_unique<Rig>(model, layout, algorithms, share.lane(0));
    share.second = std::make_unique<Rig>(model, layout, algorithms, share.lane(0));
  }
  device::synchronize();
  const double sum = shares[0]->time(ways[2], 4).first;
  const int times = std::max(2, static_cast<int>(40e3 / sum));
  std::vector<std::vector<double>> took(way_count), launched(way_count);
  std::barrier together(count);
  std::vector<std::thread> threads;
  std::vector<std::vector<std::pair<double, double>>> results(count);
  for (std::uint32_t r = 0; r < count; ++r) {
    threads.emplace_back([&, r] {
      for (int round = 0; round < rounds; ++round) {
        for (const Way& way : ways) {
          together.arrive_and_wait();
          results[r].push_back(shares[r]->time(way, times));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& own : results) {
    for (std::size_t i = way_count; i < own.size(); ++i) {  // the first round warms up
      took[i % way_count].push_back(own[i].first);
      launched[i % way_count].push_back(own[i].second);
    }
  }
  std::printf("%u x %u SMs, %s %lu, %lu tokens, %lu layers\n", count, multiprocessors, model.name.c_str(),
              model.hidden, layout.tokens(), model.layers);
  for (std::size_t i = 0; i < way_count; ++i) {
    std::printf("  %-22s %9.1f us  %.3f of in turn; host launches it in %.0f us\n", ways[i].name,
                median(took[i]), median(took[i]) / median(took[2]), median(launched[i]));
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 6) return std::fprintf(stderr, "see the first lines of pairs.cpp\n"), 2;
  const std::uint64_t hidden = std::stoul(argv[3]);
  ModelShape model = std::string(argv[2]) == "gpt" ? test::gpt(hidden) : test::mlp(hidden);
  model.layers = std::stoul(argv[5]);
  Layout layout;
  layout.sequence = std::stoul(argv[4]);
  layout.numerics.weights = WeightType::bf16;
  layout.stages = {{0, model.layers, 0, false, false, Recompute::none}};
  std::stringstream shares(argv[1]);
  for (std::string count; std::getline(shares, count, ',');)
    measure(static_cast<std::uint32_t>(std::stoul(count)), model, layout, argc > 6 ? std::stoi(argv[6]) : 4);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
