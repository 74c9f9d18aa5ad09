// What was measured: a Calibration holds measurements, costs of one layer and of a link, with their sources.
// It knows no schedule.
#pragma once
#include "calibrate/measurement.hpp"
#include "calibrate/provenance.hpp"
#include "schedules/ir/cost_model.hpp"

#include <cstdint>
#include <iosfwd>
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
  Provenance provenance;
  std::uint32_t chunk_layers = 1;  // of the chunk that was measured
  std::uint32_t model_layers = 1;  // of the whole model

  std::vector<std::string> classes;
  std::vector<std::vector<std::uint32_t>> slowdown_ppm;  // as in CostModel
  std::optional<WorkClass> message_class;

  // One layer of each kind of op. Empty where only `work` is known.
  std::vector<Segment> forward;
  std::vector<Segment> backward_input;
  std::vector<Segment> backward_weight;
  std::vector<Segment> backward;

  Link link;  // between neighbouring ranks
  Bytes activation_message;
  Bytes gradient_message;
  Bytes gradient_bytes_per_layer;  // summed between the owners of a stage

  std::map<std::string, std::string> sources;  // figure -> measured | interpolated | estimated | assumed

  /// How each shape of matrix product was computed, in the runtime's own words: what runs later by other
  /// choices was not measured here.
  std::map<std::string, std::string> algorithms;

  // The measurements themselves.
  std::vector<TimedWork> work;
  std::vector<TransferSeries> transfers;
  std::vector<Slowdown> slowdowns;
  std::vector<MeasuredMemory> memory;
  /// Of an interrupted calibration: the targets (to_string) that are still to be measured.
  std::vector<std::string> missing;
  bool operator==(const Calibration&) const = default;
};

/// Throws BadInput with the JSON pointer.
Calibration parse_calibration(std::string_view content, std::string_view where);

/// The document; what parse_calibration reads back to an equal value. One measurement a line.
void write_calibration(std::ostream& out, const Calibration& calibration);

/// Adds a measurement, replacing an earlier one of the same target and rank; a transfer joins its series, and
/// the series is fitted anew.
void add(Calibration& calibration, const Measurement& measurement);
/// Whether the target was measured.
bool holds(const Calibration& calibration, const Target& target);

/// Sets what every consumer of a calibration reads from what was measured, where it was: classes and slowdown
/// from the mutual slowdowns (of each pair of classes, that with the fewest communication multiprocessors),
/// the layer from measured layers (of the most common shape), the link from hops in situ, otherwise from
/// one-way messages. Sources say `measured`.
void derive_layer(Calibration& calibration);

/// The documents that are built into the program: name -> content.
const std::map<std::string_view, std::string_view>& bundled_calibrations();

}  // namespace plumb
