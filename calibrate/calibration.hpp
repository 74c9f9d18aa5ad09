// What was measured: a Calibration holds costs of one layer, with their sources. It knows no schedule.
#pragma once
#include "schedules/ir/cost_model.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// plumb.calibration/1. Durations are of work alone on its rank; what runs beside it comes in by
/// slowdown_ppm.
struct Calibration {
  std::string name;
  std::string about;
  std::map<std::string, std::string> provenance;
  std::uint32_t chunk_layers = 1;  // of the chunk that was measured
  std::uint32_t model_layers = 1;  // of the whole model

  std::vector<std::string> classes;
  std::vector<std::vector<std::uint32_t>> slowdown_ppm;  // as in CostModel
  std::optional<WorkClass> message_class;

  // One layer of each kind of op.
  std::vector<Segment> forward;
  std::vector<Segment> backward_input;
  std::vector<Segment> backward_weight;
  std::vector<Segment> backward;

  Link link;  // between neighbouring ranks
  Bytes activation_message;
  Bytes gradient_message;
  Bytes gradient_bytes_per_layer;  // summed between the owners of a stage

  std::map<std::string, std::string> sources;  // figure -> measured | interpolated | estimated | assumed
  bool operator==(const Calibration&) const = default;
};

/// Throws BadInput with the JSON pointer.
Calibration parse_calibration(std::string_view content, std::string_view where);

/// The documents that are built into the program: name -> content.
const std::map<std::string_view, std::string_view>& bundled_calibrations();

}  // namespace plumb
