#include "tools/step_options.hpp"

#include "schedules/ir/costs_file.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "sim/estimate.hpp"
#include "tools/planner/common_clock.hpp"
#include "tools/planner/shared_sockets.hpp"

#include <fmt/format.h>

namespace plumb::tools {

void DeviceOptions::add_to(CLI::App& app) {
  std::string names;
  for (const DeviceDescription& known : bundled_devices())
    names += fmt::format("{}{}", names.empty() ? "" : " ", known.name);
  app.add_option("--gpu", gpu,
                 fmt::format("With a model: the device it runs on [the calibration's], one of {}", names))
      ->type_name("NAME");
  app.add_option("--software", software,
                 "What reaches the device's data sheet: eager (Megatron of 2021 to 2023; sizes alone are a "
                 "gpt) or fused "
                 "(a stack of 2024 and later) [a100: eager, others: fused]")
      ->check(CLI::IsMember({"eager", "fused"}));
}

DeviceDescription DeviceOptions::load() const {
  DeviceDescription device = device_description(gpu);
  if (!software.empty() && software != device.efficiencies.software)
    device.efficiencies = software == "eager" ? eager_efficiencies() : fused_efficiencies();
  return device;
}

CostModel ModelRun::costs() const {
  return calibration ? estimate(at_common_clock(*calibration), device, model, layout)
                     : estimate(device, model, layout);
}

Prediction StepToRun::predict(Detail detail) const {
  Prediction prediction = model && model->calibration
                              ? predict_as_measured(schedule, cost, execution, *model->calibration, detail)
                              : plumb::predict(schedule, cost, execution, detail);
  if (!model) return prediction;
  Report& report = prediction.report;
  const Throughput worth =
      throughput(report.step_time, report.microbatches, model->device, model->model, model->layout);
  report.tokens_per_s = worth.tokens_per_s;
  report.mfu = worth.mfu;
  return prediction;
}

void StepOptions::add_to(CLI::App& app) {
  schedule.add_to(app, true);
  costs.add_to(app);
  model.add_model_to(app);
  model.add_layout_to(app);
  device.add_to(app);
  execution.add_to(app);
}

StepToRun StepOptions::load(Console& console) const {
  StepToRun step;
  step.schedule = schedule.load();
  step.generator = find_generator(schedule.name);
  if (step.generator != nullptr) step.shape = schedule.shape();
  step.execution = execution.load();
  if (!model.given()) {
    if (!device.gpu.empty())
      throw BadInput("--gpu", "needs a model: --model, or --hidden, --layers and --heads");
    if (!costs.given()) throw BadInput("--costs", "is required, or --calibration, or --model with --gpu");
    step.cost = costs.load(step.schedule.stages);
    return step;
  }
  step.model = load_model(step.schedule, console);
  step.cost = step.model->costs();
  if (!costs.op_costs.empty())
    step.cost.overrides = parse_op_costs(read_input(costs.op_costs), costs.op_costs);
  return step;
}

ModelRun StepOptions::load_model(const LoweredSchedule& lowered, Console& console) const {
  if (!costs.costs.empty()) throw BadInput("--costs", "and a model both say what ops cost: give one of them");
  ModelOptions options = model;
  if (costs.layers) options.layers = costs.layers;
  options.default_mlp_layers(lowered.stages);
  options.data = schedule.data_parallel;
  ModelRun run;
  if (!costs.calibration.empty()) run.calibration = load_calibration(costs.calibration);
  if (!device.gpu.empty()) {
    run.device = device.load();
  } else if (!run.calibration) {
    throw BadInput("--gpu", "is required with a model, as in --gpu h100, or a --calibration");
  } else if (const DeviceDescription* known = measured_device(*run.calibration)) {
    run.device = *known;
  } else {
    throw BadInput("--gpu", fmt::format("is required: {} says of no known device what it was measured on",
                                        costs.calibration));
  }
  // What that software trained.
  const bool fits_gpt =
      !options.key_value_heads && (!options.ffn || *options.ffn == 4 * options.hidden.value_or(0));
  if (options.model.empty() && fits_gpt && run.device.efficiencies.software == "eager") options.model = "gpt";
  const ModelConfig config = options.load();
  print_warnings(console, config);
  run.model = config.shape;
  run.layout = options.layout(run.model, lowered.stages, lowered.ranks());
  apply_software(run.device, run.layout);
  return run;
}

}  // namespace plumb::tools
