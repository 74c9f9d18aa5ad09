// What plumb plan --model was asked: the model, its device, what was measured, and the sweep.
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/device_description.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/model/model_shape.hpp"
#include "tools/console.hpp"
#include "tools/plan_model.hpp"
#include "tools/planner/search.hpp"

#include <optional>
#include <string>

namespace plumb::tools {

struct PlanJob {
  ModelShape model;
  DeviceDescription device;
  std::optional<Calibration> calibration;  // of a whole device
  SearchRequest request;
  std::string model_flags;  // that say the same model to any subcommand: ` --model llama-3-8b`
  std::string cost_flags;   // that say the same costs to `plumb simulate`: ` --gpu h100`

  /// As the calibration has them; from the data sheet where it holds nothing of such a layout. Throws
  /// BadInput for a layout that cannot be.
  CostModel costs(const Layout& layout) const;
  std::string title() const;    // `llama-3-8b on 16 h100`
  std::string setting() const;  // batch, sequence and memory, for people
  std::string where_costs_are_from() const;
};

/// Warnings about the model's file go to `console.err`. Throws BadInput.
PlanJob load_plan_job(const PlanModelOptions& options, const PlanCommon& common, Console& console);

/// Where the durations of a plan's ops are from: all `measured`, `interpolated` between measured shapes,
/// `layers measured` and the rest from the data sheet, or `estimated` from it.
std::string duration_source(const LayoutPlan& plan);

/// `interleaved-1f1b --group 6`: a plan's schedule, as it is typed.
std::string name_of(const LayoutPlan& plan);
/// The same on all stages.
Recompute recompute_of(const LayoutPlan& plan);

/// 1,024: with commas, for people.
std::string grouped(double value);

}  // namespace plumb::tools
