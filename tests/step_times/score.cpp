// Prints how far the estimate is off: score_step_times FILE [KEY=VALUE ...] [--rows]
//   KEY=VALUE   another efficiency than the bundled ones, e.g. gemm=0.7 launch=5e-6 (times in seconds)
//   --published the large models of others instead of FILE; KEY=VALUE then changes each step's own
//   efficiencies
//   --rows      one line a row: measured, predicted, chosen on or held out
#include "tests/step_times/published.hpp"
#include "tests/step_times/step_times.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <stdexcept>

#include <fmt/format.h>

namespace plumb::test {
namespace {

void set(Efficiencies& e, const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos) throw std::runtime_error("not KEY=VALUE: " + text);
  const std::string key = text.substr(0, equals);
  const double value = std::stod(text.substr(equals + 1));
  const std::map<std::string, double*> shares{{"gemm", &e.gemm},
                                              {"memory", &e.memory},
                                              {"attention", &e.attention},
                                              {"collective", &e.collective},
                                              {"gemm_fill", &e.gemm_fill},
                                              {"traffic", &e.traffic},
                                              {"loss_traffic", &e.loss_traffic},
                                              {"reduction_overlap", &e.reduction_overlap},
                                              {"tensor_overlap", &e.tensor_overlap},
                                              {"gemm_fp8", &e.gemm_fp8}};
  const std::map<std::string, Duration*> times{{"launch", &e.launch},
                                               {"collective_launch", &e.collective_launch},
                                               {"message_launch", &e.message_launch},
                                               {"host_forward", &e.host_forward},
                                               {"host_backward", &e.host_backward},
                                               {"host_step", &e.host_step}};
  if (const auto share = shares.find(key); share != shares.end()) {
    *share->second = value;
  } else if (const auto time = times.find(key); time != times.end()) {
    time->second->ns = std::llround(value * 1e9);
  } else {
    throw std::runtime_error("no efficiency: " + key);
  }
}

struct Row {
  MeasuredStep step;
  double predicted;
};

Score score_of(const std::vector<Row>& rows, const std::function<bool(const MeasuredStep&)>& wanted) {
  std::vector<double> ours, theirs;
  for (const Row& row : rows) {
    if (!wanted(row.step)) continue;
    ours.push_back(row.predicted);
    theirs.push_back(row.step.milliseconds);
  }
  return score(ours, theirs);
}

void print(const std::string& name, const Score& s) {
  fmt::print("| {} | {} | {:.4f} | {:.1f} % | {:.1f} % | {:.1f} % | {:+.1f} % |\n", name, s.rows, s.spearman,
             100 * s.mean_error, 100 * s.median_error, 100 * s.worst_error, 100 * s.bias);
}

// The large models: predicted beside measured.
int compare_published(const std::vector<std::string>& changes) {
  std::vector<double> ours, theirs;
  fmt::print(
      "| step | source | device | measured s | predicted s | error | MFU measured | predicted | fullest rank "
      "|\n"
      "|:--|:--|:--|--:|--:|--:|--:|--:|--:|\n");
  for (PublishedStep step : published_steps()) {
    for (const std::string& change : changes) {
      const auto colon = change.find(':');
      if (change.substr(0, colon) == step.software.software) set(step.software, change.substr(colon + 1));
    }
    const Report report = predicted(step);
    const double seconds = static_cast<double>(report.step_time.ns) * 1e-9;
    Bytes fullest;
    for (const RankReport& rank : report.ranks)
      fullest = std::max(fullest, rank.peak_bytes.value_or(Bytes{}));
    fmt::print("| {} | {} | {} | {:.2f} | {:.2f} | {:+.1f} % | {:.1f} % | {:.1f} % | {} |\n", step.name,
               step.source, step.device, step.seconds, seconds, 100 * (seconds / step.seconds - 1),
               100 * *report.mfu * seconds / step.seconds, 100 * *report.mfu, to_text(fullest));
    ours.push_back(seconds);
    theirs.push_back(step.seconds);
  }
  const Score all = score(ours, theirs);
  fmt::print(
      "\n{} steps: Spearman {:.4f}, mean error {:.1f} %, median {:.1f} %, worst {:.1f} %, bias {:+.1f} %\n",
      all.rows, all.spearman, 100 * all.mean_error, 100 * all.median_error, 100 * all.worst_error,
      100 * all.bias);
  return 0;
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.at(0) == "--published") return compare_published({arguments.begin() + 1, arguments.end()});
  DeviceDescription device = device_description("a100");
  bool each = false;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    if (arguments[i] == "--rows") {
      each = true;
    } else {
      set(device.efficiencies, arguments[i]);
    }
  }
  std::vector<Row> rows;
  for (const MeasuredStep& step : read_steps(arguments.at(0)))
    rows.push_back({step, predicted(step, device)});
  if (each) {
    for (const Row& row : rows)
      fmt::print("{} {:.3f} {}\n", row.step.milliseconds, row.predicted,
                 row.step.chosen_on() ? "chosen" : "held");
    return 0;
  }
  fmt::print(
      "| rows | count | Spearman | mean error | median | worst | bias |\n|:--|--:|--:|--:|--:|--:|--:|\n");
  print("held out", score_of(rows, [](const MeasuredStep& step) { return !step.chosen_on(); }));
  print("chosen on", score_of(rows, [](const MeasuredStep& step) { return step.chosen_on(); }));
  print("all", score_of(rows, [](const MeasuredStep&) { return true; }));
  const auto by = [&](const char* name, const std::function<std::uint64_t(const MeasuredStep&)>& key) {
    std::map<std::uint64_t, std::size_t> values;
    for (const Row& row : rows) ++values[key(row.step)];
    for (const auto& [value, count] : values) {
      print(fmt::format("{} {}", name, value),
            score_of(rows, [&](const MeasuredStep& step) { return key(step) == value; }));
    }
  };
  by("hidden", [](const MeasuredStep& step) { return step.hidden; });
  by("layers", [](const MeasuredStep& step) { return step.layers; });
  by("micro-batch", [](const MeasuredStep& step) { return step.micro_batch; });
  by("microbatches", [](const MeasuredStep& step) { return step.microbatches(); });
  by("tensor", [](const MeasuredStep& step) { return step.tensor; });
  by("data", [](const MeasuredStep& step) { return step.data; });
  by("pipeline", [](const MeasuredStep& step) { return step.pipeline; });
  return 0;
}

}  // namespace
}  // namespace plumb::test

int main(int argc, char** argv) {
  try {
    return plumb::test::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "score_step_times: {}\n", error.what());
    return 2;
  }
}
