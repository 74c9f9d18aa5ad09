// plumb calibrate --model: measures on the GPUs at hand, and writes down what it measured as it goes.
#pragma once
#include "tools/console.hpp"
#include "tools/model_options.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plumb::tools {

struct MeasureOptions {
  ModelOptions model;
  std::optional<std::uint32_t> ranks;
  std::vector<std::uint32_t> chunks{1};  // stages a rank: a cut of the model each
  std::string transport = "local";
  std::string budget = "2s";  // for one figure
  std::string only;           // a regular expression; empty: all
  double precision_percent = 1;
  std::string name;
  std::string algorithms;  // the calibration whose products are computed again; empty: the fastest
  bool resume = false;
  bool flush = false;
  std::string out;
  bool force = false;  // goes on with what another machine began
  bool json = false;
};

/// Returns the exit code: 0, 1 where it was interrupted, 3 where some figure could not be measured. Throws
/// BadInput and DeviceError; what had been measured is in `out` then too.
int measure_calibration(const MeasureOptions& options, Console& console);

}  // namespace plumb::tools
