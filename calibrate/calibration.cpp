#include "calibrate/calibration.hpp"

#include "schedules/ir/cost_json.hpp"
#include "schedules/ir/json_document.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace plumb {
namespace {

// What a layer of a kind of op consists of: at least something, and named.
std::vector<Segment> read_layer(const JsonView& layer, const char* kind,
                                const std::vector<std::string>& classes) {
  const JsonView list = layer.required(kind);
  std::vector<Segment> segments = read_segments(list, classes);
  if (segments.empty()) list.fail("is empty");
  return segments;
}

}  // namespace

Calibration parse_calibration(std::string_view content, std::string_view where) {
  const JsonDocument document(content, where, "plumb.calibration/1");
  const JsonView root = document.root();
  root.allow_keys({"schema", "name", "about", "provenance", "chunk_layers", "model_layers", "classes",
                   "slowdown_ppm", "message_class", "layer", "link", "activation_message_bytes",
                   "gradient_message_bytes", "gradient_bytes_per_layer", "sources"});
  Calibration calibration;
  calibration.name = root.required("name").text();
  if (const auto about = root.member("about")) calibration.about = about->text();
  if (const auto provenance = root.member("provenance")) {
    for (const auto& [key, value] : provenance->members()) calibration.provenance[key] = value.text();
  }
  const auto layers = [&](const char* key) {
    return static_cast<std::uint32_t>(root.required(key).integer(1, 100'000));
  };
  calibration.chunk_layers = layers("chunk_layers");
  calibration.model_layers = layers("model_layers");

  const JsonView classes = root.required("classes");
  for (const JsonView& name : classes.elements()) calibration.classes.push_back(name.text());
  if (calibration.classes.empty()) classes.fail("is empty");
  if (const auto rows = root.member("slowdown_ppm")) {
    calibration.slowdown_ppm = read_slowdown(*rows, calibration.classes);
  }
  if (const auto name = root.member("message_class"); name && !name->is_null()) {
    calibration.message_class = read_class(*name, calibration.classes);
  }

  const JsonView layer = root.required("layer");
  layer.allow_keys({"forward", "backward_input", "backward_weight", "backward"});
  calibration.forward = read_layer(layer, "forward", calibration.classes);
  calibration.backward_input = read_layer(layer, "backward_input", calibration.classes);
  calibration.backward_weight = read_layer(layer, "backward_weight", calibration.classes);
  calibration.backward = read_layer(layer, "backward", calibration.classes);

  calibration.link = read_link(root.required("link"));
  const auto bytes = [&](const char* key) {
    const auto value = root.member(key);
    return value ? Bytes{value->integer(0, std::int64_t{1} << 53)} : Bytes{};
  };
  calibration.activation_message = bytes("activation_message_bytes");
  calibration.gradient_message = bytes("gradient_message_bytes");
  calibration.gradient_bytes_per_layer = bytes("gradient_bytes_per_layer");
  if (const auto sources = root.member("sources")) {
    constexpr std::array<std::string_view, 4> kinds{"measured", "interpolated", "estimated", "assumed"};
    for (const auto& [key, value] : sources->members()) {
      const std::string kind = value.text();
      if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
        value.fail("is none of measured, interpolated, estimated, assumed");
      }
      calibration.sources[key] = kind;
    }
  }
  return calibration;
}

}  // namespace plumb
