// Options that several commands share: which schedule, at what costs, run how.
#pragma once
#include "calibrate/calibration.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/ir/lower.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// `NAME|FILE --ranks P --microbatches M [--chunks V] [--group G] [--comms …] [--dp D]`.
struct ScheduleOptions {
  std::string name;
  std::optional<std::uint32_t> ranks;
  std::optional<std::uint32_t> microbatches;
  std::optional<std::uint32_t> chunks;
  std::optional<std::uint32_t> group;
  std::string comms;  // per-op, batched, or empty
  std::uint32_t data_parallel = 1;

  /// `file_too`: a FILE may stand for NAME, and then ranks and microbatches may be left out.
  void add_to(CLI::App& app, bool file_too);
  void add_shape_to(CLI::App& app);
  void add_comms_to(CLI::App& app);

  CommPlacement placement() const {
    return comms == "batched" ? CommPlacement::batched : CommPlacement::per_op;
  }
  Shape shape() const;
  /// The named generator's schedule, or what the file holds: checked, its shape held against the flags, and
  /// with messages placed. Throws BadInput.
  LoweredSchedule load() const;
};

/// `--comms --dp` of commands that lower many schedules alike.
struct LoweringFlags {
  std::string comms = "per-op";
  std::uint32_t data_parallel = 1;

  void add_to(CLI::App& app);
  LowerOptions load() const;
};

/// `--costs LIST|FILE` or `--calibration NAME|FILE [--layers L]`, `--op-costs FILE`.
struct CostOptions {
  std::string costs;
  std::string calibration;
  std::optional<std::uint32_t> layers;
  std::string op_costs;

  void add_to(CLI::App& app);
  bool given() const { return !costs.empty() || !calibration.empty(); }
  /// For a schedule of this many stages, as given: --costs are of one of its chunks.
  CostModel load(std::uint32_t stages) const;
};

/// `--pair-release --duplex --shared-links --transfers-occupy-compute --messages-slow-compute --slow`.
struct ExecutionFlags {
  std::string pair_release = "atomic";
  std::string duplex = "full";
  bool shared_links = false;
  bool transfers_occupy_compute = false;
  bool messages_slow_compute = false;
  std::vector<std::string> slow;

  void add_to(CLI::App& app);
  ExecutionOptions load() const;
};

/// A bundled calibration by name, or a file. Throws BadInput that lists the bundled ones.
Calibration load_calibration(const std::string& name, const char* option = "--calibration");

/// `--json` and `--out FILE`.
void add_json(CLI::App& app, bool& json);
void add_out(CLI::App& app, std::string& out, const std::string& what);

}  // namespace plumb::tools
