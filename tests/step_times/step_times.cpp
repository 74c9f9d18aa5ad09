#include "tests/step_times/step_times.hpp"

#include "schedules/generators/generator.hpp"
#include "sim/estimate.hpp"
#include "tools/planner/predict.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <stdexcept>

#include <fmt/format.h>

namespace plumb::test {
namespace {

// Ranks from 1, equals sharing their mean.
std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t end = i;
    while (end < order.size() && values[order[end]] == values[order[i]]) ++end;
    for (std::size_t k = i; k < end; ++k) ranks[order[k]] = static_cast<double>(i + end + 1) / 2;
    i = end;
  }
  return ranks;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const double n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ab / std::sqrt(aa * bb);
}

}  // namespace

bool MeasuredStep::chosen_on() const {
  const std::string text = fmt::format("{},{},{},{},{},{},{},{},{},{}", devices, global_batch, micro_batch,
                                       hidden, heads, layers, sequence, tensor, data, pipeline);
  std::uint64_t hash = 14695981039346656037ull;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash % 2 == 0;
}

std::vector<MeasuredStep> read_steps(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error("cannot read " + path);
  std::vector<MeasuredStep> steps;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) {
    if (line.empty()) continue;
    std::replace(line.begin(), line.end(), ',', ' ');
    MeasuredStep step;
    unsigned long long hidden = 0, heads = 0, layers = 0, sequence = 0;
    if (std::sscanf(line.c_str(), "%u %u %u %llu %llu %llu %llu %u %u %u %lf", &step.devices,
                    &step.global_batch, &step.micro_batch, &hidden, &heads, &layers, &sequence, &step.tensor,
                    &step.data, &step.pipeline, &step.milliseconds) != 11) {
      throw std::runtime_error(path + ": no eleven numbers: " + line);
    }
    step.hidden = hidden;
    step.heads = heads;
    step.layers = layers;
    step.sequence = sequence;
    steps.push_back(step);
  }
  return steps;
}

ModelShape gpt(std::uint64_t hidden, std::uint64_t heads, std::uint64_t layers, std::uint64_t sequence,
               std::uint64_t vocab) {
  ModelShape model;
  model.name = fmt::format("gpt-{}x{}", layers, hidden);
  model.hidden = hidden;
  model.layers = layers;
  model.ffn = 4 * hidden;
  model.vocab = vocab;
  model.attention.heads = model.attention.key_value_heads = heads;
  model.attention.head_dim = hidden / heads;
  model.attention.qkv_bias = model.attention.output_bias = model.ffn_bias = true;
  model.norm = NormKind::layer_norm;
  model.ffn_kind = FfnKind::gelu;
  model.position = PositionKind::learned;
  model.learned_positions = model.max_sequence = sequence;
  model.tied_embeddings = true;
  return model;
}

Layout layout_of(const MeasuredStep& step, const ModelShape& model, const DeviceDescription& device) {
  Layout layout;
  layout.parallelism = {step.pipeline, step.tensor, step.data, 1, true, true};
  apply_software(device, layout);
  layout.micro_batch_size = step.micro_batch;
  layout.sequence = step.sequence;
  layout.stages = even_stages(model, step.pipeline);
  return layout;
}

double predicted(const MeasuredStep& step, const DeviceDescription& device) {
  const ModelShape model = gpt(step.hidden, step.heads, step.layers, step.sequence);
  const CostModel cost = estimate(device, model, layout_of(step, model, device));
  const LoweredSchedule schedule =
      make_lowered(generator("1f1b"), {step.pipeline, step.microbatches(), std::nullopt, std::nullopt},
                   {CommPlacement::per_op, step.data});
  const Prediction prediction = predict(schedule, cost, {}, Detail::actions);
  return static_cast<double>(prediction.report.step_time.ns) * 1e-6;
}

Score score(const std::vector<double>& predicted, const std::vector<double>& measured) {
  Score out;
  out.rows = measured.size();
  out.spearman = correlation(ranks_of(predicted), ranks_of(measured));
  std::vector<double> errors;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    const double error = predicted[i] / measured[i] - 1;
    out.bias += error;
    errors.push_back(std::abs(error));
  }
  const double n = static_cast<double>(errors.size());
  out.bias /= n;
  out.mean_error = std::accumulate(errors.begin(), errors.end(), 0.0) / n;
  std::sort(errors.begin(), errors.end());
  out.median_error = errors[errors.size() / 2];
  out.worst_error = errors.back();
  return out;
}

}  // namespace plumb::test
