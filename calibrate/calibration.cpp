#include "calibrate/calibration.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::int64_t million = 1'000'000;

WorkClass class_of(const Calibration& calibration, const JsonView& name) {
  const auto found = std::find(calibration.classes.begin(), calibration.classes.end(), name.text());
  if (found == calibration.classes.end()) {
    name.fail(fmt::format("is \"{}\", which is none of the classes", name.text().substr(0, 60)));
  }
  return WorkClass{static_cast<std::uint32_t>(found - calibration.classes.begin())};
}

std::vector<Segment> read_segments(const Calibration& calibration, const JsonView& list) {
  std::vector<Segment> segments;
  for (const JsonView& entry : list.elements()) {
    entry.allow_keys({"name", "lane", "class", "duration_ns", "deferred"});
    Segment segment;
    segment.name = entry.required("name").text();
    const JsonView lane = entry.required("lane");
    if (lane.text() != "compute" && lane.text() != "communication") {
      lane.fail("is neither \"compute\" nor \"communication\"");
    }
    segment.lane = lane.text() == "compute" ? Lane::compute : Lane::communication;
    segment.work_class = class_of(calibration, entry.required("class"));
    segment.duration = entry.required("duration_ns").duration_ns();
    if (const auto deferred = entry.member("deferred")) segment.deferred = deferred->boolean();
    segments.push_back(segment);
  }
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
    for (const JsonView& row : rows->elements()) {
      auto& factors = calibration.slowdown_ppm.emplace_back();
      for (const JsonView& factor : row.elements()) {
        factors.push_back(static_cast<std::uint32_t>(factor.integer(million, 1000 * million)));
      }
      if (factors.size() != calibration.classes.size()) row.fail("has not one factor a class");
    }
    if (calibration.slowdown_ppm.size() != calibration.classes.size()) rows->fail("has not one row a class");
  }
  if (const auto name = root.member("message_class"); name && !name->is_null()) {
    calibration.message_class = class_of(calibration, *name);
  }

  const JsonView layer = root.required("layer");
  layer.allow_keys({"forward", "backward_input", "backward_weight", "backward"});
  calibration.forward = read_segments(calibration, layer.required("forward"));
  calibration.backward_input = read_segments(calibration, layer.required("backward_input"));
  calibration.backward_weight = read_segments(calibration, layer.required("backward_weight"));
  calibration.backward = read_segments(calibration, layer.required("backward"));

  const JsonView link = root.required("link");
  link.allow_keys({"latency_ns", "bytes_per_s"});
  calibration.link.latency = link.required("latency_ns").duration_ns();
  if (const auto bandwidth = link.member("bytes_per_s"); bandwidth && !bandwidth->is_null()) {
    calibration.link.bandwidth = BytesPerSecond{bandwidth->number(1, 1e18)};
  }
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
