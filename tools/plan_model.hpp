// plumb plan --model: which layout and which schedule, for a model on N devices.
#pragma once
#include "tools/console.hpp"
#include "tools/model_options.hpp"
#include "tools/options.hpp"
#include "tools/step_options.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// `--model … --devices N --memory 80GiB --global-batch B [--sequence S]`, and what to restrict the sweep to.
struct PlanModelOptions {
  ModelOptions model;
  std::optional<std::uint32_t> devices;
  std::optional<std::uint64_t> global_batch;
  std::string memory;
  DeviceOptions device;
  std::vector<std::uint32_t> pipeline, tensor, expert, micro_batch_sizes;
  std::vector<std::string> recompute;
  std::uint32_t threads = 0;

  void add_to(CLI::App& app);
};

/// What the two forms of the command share.
struct PlanCommon {
  std::vector<std::string> schedules;
  std::vector<std::uint32_t> chunks;  // empty: the sweep's own
  CommPlacement placement = CommPlacement::per_op;
  ExecutionOptions execution;
  std::string calibration;
  std::string out;
  bool json = false;
};

/// Exit code: 0, or 1 where no plan fits.
int plan_model(const PlanModelOptions& options, const PlanCommon& common, Console& console);

}  // namespace plumb::tools
