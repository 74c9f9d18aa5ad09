// Step times that others measured on large models and published with their layout: nothing was chosen on
// these.
#pragma once
#include "calibrate/device_description.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"
#include "sim/report.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace plumb::test {

struct PublishedStep {
  std::string name;
  std::string source;
  std::string device;
  Efficiencies software;
  ModelShape model;
  Parallelism parallelism;
  std::uint32_t chunks = 1;
  std::uint32_t microbatches = 1;
  std::uint64_t sequence = 0;
  std::uint64_t micro_batch = 1;
  WeightType weights = WeightType::bf16;
  Recompute recompute = Recompute::none;
  bool sequence_parallel = true;
  std::string schedule = "1f1b";
  double seconds = 0;  // measured
};

std::vector<PublishedStep> published_steps();
/// The step as it is predicted: time, MFU and memory.
Report predicted(const PublishedStep& step);

}  // namespace plumb::test
