// Measured step times of GPTs (vTrain's A100 rows), predicted row by row, and how far off that is.
#pragma once
#include "calibrate/device_description.hpp"
#include "schedules/ir/units.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace plumb::test {

struct MeasuredStep {
  std::uint32_t devices = 0, global_batch = 0, micro_batch = 0;
  std::uint64_t hidden = 0, heads = 0, layers = 0, sequence = 0;
  std::uint32_t tensor = 1, data = 1, pipeline = 1;
  double milliseconds = 0;

  std::uint32_t microbatches() const { return global_batch / micro_batch / data; }
  /// Efficiencies were chosen on these rows alone: those whose ten numbers, written with commas between, have
  /// an even FNV-1a hash.
  bool chosen_on() const;
};

/// GPUs,global batch,micro batch,hidden,heads,layers,sequence,tensor,data,pipeline,ms; a header line first.
std::vector<MeasuredStep> read_steps(const std::string& path);

/// A GPT with GPT-2's vocabulary, padded to 51,200.
ModelShape gpt(std::uint64_t hidden, std::uint64_t heads, std::uint64_t layers, std::uint64_t sequence,
               std::uint64_t vocab = 51'200);
Layout layout_of(const MeasuredStep& step, const ModelShape& model, const DeviceDescription& device);

/// The step time of 1F1B, optimizer included, in milliseconds.
double predicted(const MeasuredStep& step, const DeviceDescription& device);

struct Score {
  std::size_t rows = 0;
  double spearman = 0;
  double mean_error = 0, median_error = 0, worst_error = 0, bias = 0;  // of predicted / measured - 1
};
Score score(const std::vector<double>& predicted, const std::vector<double>& measured);

}  // namespace plumb::test
