// Options of commands that look at one step: which schedule, at what costs, of which model, run how.
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/device_description.hpp"
#include "schedules/generators/generator.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"
#include "sim/report.hpp"
#include "tools/console.hpp"
#include "tools/model_options.hpp"
#include "tools/options.hpp"
#include "tools/planner/predict.hpp"

#include <optional>
#include <string>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// `--gpu NAME [--software eager|fused]`.
struct DeviceOptions {
  std::string gpu;
  std::string software;

  void add_to(CLI::App& app);
  /// With the efficiencies of `software`, where it is given. Throws BadInput.
  DeviceDescription load() const;
};

/// A model as it lies on devices: what costs are estimated from.
struct ModelRun {
  DeviceDescription device;
  ModelShape model;
  Layout layout;
  std::optional<Calibration> calibration;  // what was measured of it

  CostModel costs() const;
};

/// One step of one schedule, ready to be simulated.
struct StepToRun {
  LoweredSchedule schedule;
  const Generator* generator = nullptr;  // of a schedule by name
  Shape shape;                           // of one by name
  CostModel cost;
  ExecutionOptions execution;
  std::optional<ModelRun> model;

  /// With what the report says of the whole job, where the model is known.
  Prediction predict(Detail detail) const;
};

/// `--costs`, `--calibration`, or a model on a device: costs of a schedule, whatever its shape.
struct StepOptions {
  ScheduleOptions schedule;
  CostOptions costs;
  ModelOptions model;
  DeviceOptions device;
  ExecutionFlags execution;

  void add_to(CLI::App& app);
  bool costs_given() const { return costs.given() || model.given(); }
  /// Warnings about the model's file go to `console.err`. Throws BadInput.
  StepToRun load(Console& console) const;

 private:
  ModelRun load_model(const LoweredSchedule& lowered, Console& console) const;
};

}  // namespace plumb::tools
