#include "calibrate/calibration.hpp"

#include "calibrate/lookup.hpp"
#include "calibrate/measurement_json.hpp"
#include "schedules/ir/cost_json.hpp"
#include "schedules/ir/json_document.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ostream.h>

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

std::string segments_json(const std::vector<Segment>& segments, const std::vector<std::string>& classes) {
  std::string out = "[";
  for (const Segment& s : segments) {
    out += fmt::format(
        R"({}{{"name":{},"lane":"{}","class":{},"duration_ns":{}{}{}}})", out.size() > 1 ? ", " : "",
        json_quoted(s.name), s.lane == Lane::compute ? "compute" : "communication",
        json_quoted(classes[s.work_class.value]), s.duration.ns, s.deferred ? R"(,"deferred":true)" : "",
        s.tail_ppm ? fmt::format(R"(,"tail_ppm":{})", *s.tail_ppm) : "");
  }
  return out + "]";
}

// Knowing the other members only: the same thing measured, on the same rank where ranks are told apart.
bool same_place(const TimedWork& a, const TimedWork& b) {
  return a.work == b.work && a.setting == b.setting && a.rank == b.rank;
}

template <class T, class Same>
void replace_or_add(std::vector<T>& all, const T& one, const Same& same) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const T& other) { return same(other, one); });
  if (found == all.end()) {
    all.push_back(one);
  } else {
    *found = one;
  }
}

void add_transfer(std::vector<TransferSeries>& all, const Transfer& transfer) {
  auto series =
      std::find_if(all.begin(), all.end(), [&](const TransferSeries& s) { return s.key == transfer.key; });
  if (series == all.end()) series = all.insert(all.end(), TransferSeries{transfer.key, {}, std::nullopt});
  replace_or_add(series->points, transfer.point,
                 [](const SizedSummary& a, const SizedSummary& b) { return a.size == b.size; });
  std::sort(series->points.begin(), series->points.end(),
            [](const SizedSummary& a, const SizedSummary& b) { return a.size < b.size; });
  std::vector<SizedDuration> medians;
  for (const SizedSummary& point : series->points) medians.push_back({point.size, point.time.median});
  series->fit = fit_link(medians);
}

// Which measured work is one layer, or some layers, of the model: the shape of most measurements in the main
// setting, layers before stages without embedding and head.
const WorkKey* layer_key(const Calibration& calibration, const Setting& setting) {
  std::map<std::pair<std::string, std::map<std::string, std::int64_t>>, std::set<WorkKind>> kinds;
  const WorkKey* best = nullptr;
  std::pair<bool, std::size_t> most{false, 0};
  for (const TimedWork& one : calibration.work) {
    const bool layer = one.work.name == "layer";
    const bool stage = one.work.name == "stage" && one.work.shape.count("layers") != 0 &&
                       one.work.shape.count("embedding") == 0 && one.work.shape.count("head") == 0;
    if (one.setting != setting || (!layer && !stage)) continue;
    auto& known = kinds[{one.work.name + one.work.model + one.work.data_type, one.work.shape}];
    known.insert(one.work.kind);
    const std::pair<bool, std::size_t> score{layer, known.size()};
    if (score <= most) continue;
    most = score;
    best = &one.work;
  }
  return best;
}

void derive_classes(Calibration& calibration) {
  if (calibration.slowdowns.empty()) return;
  const auto class_of = [&](const std::string& name) {
    const auto found = std::find(calibration.classes.begin(), calibration.classes.end(), name);
    if (found != calibration.classes.end())
      return static_cast<std::size_t>(found - calibration.classes.begin());
    calibration.classes.push_back(name);
    return calibration.classes.size() - 1;
  };
  // Only what communicates has multiprocessors of its own, so each pair of classes has its fewest.
  std::map<std::pair<std::size_t, std::size_t>, std::uint32_t> fewest;
  for (const Slowdown& one : calibration.slowdowns) {
    const std::uint32_t sms = one.key.communication_sms;
    const auto [known, added] =
        fewest.try_emplace({class_of(one.key.work_class), class_of(one.key.beside)}, sms);
    if (!added) known->second = std::min(known->second, sms);
  }
  constexpr std::uint32_t million = 1'000'000;
  const std::size_t n = calibration.classes.size();
  calibration.slowdown_ppm.assign(n, std::vector<std::uint32_t>(n, million));
  for (const Slowdown& one : calibration.slowdowns) {
    const std::pair cell{class_of(one.key.work_class), class_of(one.key.beside)};
    if (one.key.communication_sms == fewest.at(cell))
      calibration.slowdown_ppm[cell.first][cell.second] = slowdown_ppm(one);
  }
  calibration.sources["slowdown"] = "measured";
  const auto messages = std::find(calibration.classes.begin(), calibration.classes.end(), "send_recv");
  if (messages != calibration.classes.end()) {
    calibration.message_class = WorkClass{static_cast<std::uint32_t>(messages - calibration.classes.begin())};
  }
}

}  // namespace

Calibration parse_calibration(std::string_view content, std::string_view where) {
  const JsonDocument document(content, where, "plumb.calibration/1");
  const JsonView root = document.root();
  root.allow_keys({"schema",
                   "name",
                   "about",
                   "provenance",
                   "chunk_layers",
                   "model_layers",
                   "classes",
                   "slowdown_ppm",
                   "message_class",
                   "layer",
                   "link",
                   "activation_message_bytes",
                   "gradient_message_bytes",
                   "gradient_bytes_per_layer",
                   "sources",
                   "work",
                   "transfers",
                   "slowdowns",
                   "memory",
                   "missing",
                   "algorithms"});
  Calibration calibration;
  calibration.name = root.required("name").text();
  if (const auto about = root.member("about")) calibration.about = about->text();
  if (const auto provenance = root.member("provenance"))
    calibration.provenance = read_provenance(*provenance);
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

  // A document of measurements may have no layer yet: of an interrupted calibration, or one of links alone.
  const bool measured = root.member("work") || root.member("transfers") || root.member("missing");
  if (const auto layer = measured ? root.member("layer") : root.required("layer")) {
    layer->allow_keys({"forward", "backward_input", "backward_weight", "backward"});
    const auto kind = [&](const char* name) {
      return measured && !layer->member(name) ? std::vector<Segment>{}
                                              : read_layer(*layer, name, calibration.classes);
    };
    calibration.forward = kind("forward");
    calibration.backward_input = kind("backward_input");
    calibration.backward_weight = kind("backward_weight");
    calibration.backward = kind("backward");
  }
  if (const auto link = measured ? root.member("link") : root.required("link"))
    calibration.link = read_link(*link);
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
  if (const auto algorithms = root.member("algorithms")) {
    for (const auto& [shape, code] : algorithms->members()) calibration.algorithms[shape] = code.text();
  }
  const auto each = [&](const char* key, const auto& read, auto& into) {
    if (const auto list = root.member(key)) {
      for (const JsonView& entry : list->elements()) into.push_back(read(entry));
    }
  };
  each("work", read_timed_work, calibration.work);
  each("transfers", read_transfer_series, calibration.transfers);
  each("slowdowns", read_slowdown_measured, calibration.slowdowns);
  each("memory", read_measured_memory, calibration.memory);
  each(
      "missing", [](const JsonView& view) { return view.text(); }, calibration.missing);
  return calibration;
}

void write_calibration(std::ostream& out, const Calibration& calibration) {
  const auto member = [&](std::string_view key, const std::string& json) {
    fmt::print(out, ",\n {}: {}", json_quoted(key), json);
  };
  fmt::print(out, "{{\n \"schema\": \"plumb.calibration/1\"");
  member("name", json_quoted(calibration.name));
  if (!calibration.about.empty()) member("about", json_quoted(calibration.about));
  if (calibration.provenance != Provenance{}) member("provenance", to_json(calibration.provenance));
  member("chunk_layers", fmt::format("{}", calibration.chunk_layers));
  member("model_layers", fmt::format("{}", calibration.model_layers));
  std::string classes;
  for (const std::string& name : calibration.classes)
    classes += (classes.empty() ? "" : ", ") + json_quoted(name);
  member("classes", "[" + classes + "]");
  if (!calibration.slowdown_ppm.empty()) {
    std::string rows;
    for (const auto& row : calibration.slowdown_ppm) {
      rows += fmt::format("{}[{}]", rows.empty() ? "" : ", ", fmt::join(row, ", "));
    }
    member("slowdown_ppm", "[" + rows + "]");
  }
  if (calibration.message_class) {
    member("message_class", json_quoted(calibration.classes[calibration.message_class->value]));
  }
  std::string layer;
  const auto kind = [&](std::string_view key, const std::vector<Segment>& segments) {
    if (segments.empty()) return;
    layer += fmt::format("{}\n  \"{}\": {}", layer.empty() ? "" : ",", key,
                         segments_json(segments, calibration.classes));
  };
  kind("forward", calibration.forward);
  kind("backward_input", calibration.backward_input);
  kind("backward_weight", calibration.backward_weight);
  kind("backward", calibration.backward);
  if (!layer.empty()) member("layer", "{" + layer + "\n }");
  if (calibration.link != Link{}) {
    std::string link = fmt::format(R"({{"latency_ns": {})", calibration.link.latency.ns);
    // Shortest text that reads back as the same double.
    if (calibration.link.bandwidth)
      link += fmt::format(R"(, "bytes_per_s": {})", calibration.link.bandwidth->value);
    member("link", link + "}");
  } else if (calibration.work.empty() && calibration.transfers.empty()) {
    member("link", "{}");
  }
  const auto bytes = [&](std::string_view key, Bytes value) {
    if (value.count != 0) member(key, fmt::format("{}", value.count));
  };
  bytes("activation_message_bytes", calibration.activation_message);
  bytes("gradient_message_bytes", calibration.gradient_message);
  bytes("gradient_bytes_per_layer", calibration.gradient_bytes_per_layer);
  if (!calibration.sources.empty()) {
    std::string sources;
    for (const auto& [figure, source] : calibration.sources) {
      sources +=
          fmt::format("{}{}: {}", sources.empty() ? "" : ", ", json_quoted(figure), json_quoted(source));
    }
    member("sources", "{" + sources + "}");
  }
  if (!calibration.algorithms.empty()) {
    std::string lines;
    for (const auto& [shape, code] : calibration.algorithms) {
      lines += fmt::format("{}\n  {}: {}", lines.empty() ? "" : ",", json_quoted(shape), json_quoted(code));
    }
    member("algorithms", "{" + lines + "\n }");
  }
  const auto list = [&](std::string_view key, const auto& entries, const auto& json) {
    if (entries.empty()) return;
    std::string lines;
    for (const auto& entry : entries) lines += fmt::format("{}\n  {}", lines.empty() ? "" : ",", json(entry));
    member(key, "[" + lines + "]");
  };
  const auto as_json = [](const auto& entry) { return to_json(entry); };
  list("work", calibration.work, as_json);
  list("transfers", calibration.transfers, as_json);
  list("slowdowns", calibration.slowdowns, as_json);
  list("memory", calibration.memory, as_json);
  list("missing", calibration.missing, [](const std::string& target) { return json_quoted(target); });
  fmt::print(out, "\n}}\n");
}

void add(Calibration& calibration, const Measurement& measurement) {
  struct Visitor {
    Calibration& to;
    void operator()(const TimedWork& m) const { replace_or_add(to.work, m, same_place); }
    void operator()(const Transfer& m) const { add_transfer(to.transfers, m); }
    void operator()(const Slowdown& m) const {
      replace_or_add(to.slowdowns, m, [](const Slowdown& a, const Slowdown& b) { return a.key == b.key; });
    }
    void operator()(const MeasuredMemory& m) const {
      replace_or_add(to.memory, m,
                     [](const MeasuredMemory& a, const MeasuredMemory& b) { return a.work == b.work; });
    }
  };
  std::visit(Visitor{calibration}, measurement.figures);
}

bool holds(const Calibration& calibration, const Target& target) {
  struct Visitor {
    const Calibration& in;
    bool operator()(const WorkTarget& t) const {
      return std::any_of(in.work.begin(), in.work.end(),
                         [&](const TimedWork& m) { return m.work == t.work && m.setting == t.setting; });
    }
    bool operator()(const TransferTarget& t) const {
      return std::any_of(in.transfers.begin(), in.transfers.end(), [&](const TransferSeries& series) {
        return series.key == t.key && std::any_of(series.points.begin(), series.points.end(),
                                                  [&](const SizedSummary& p) { return p.size == t.size; });
      });
    }
    bool operator()(const SlowdownTarget& t) const {
      return std::any_of(in.slowdowns.begin(), in.slowdowns.end(),
                         [&](const Slowdown& m) { return m.key == t.key; });
    }
    bool operator()(const MemoryTarget& t) const {
      return std::any_of(in.memory.begin(), in.memory.end(),
                         [&](const MeasuredMemory& m) { return m.work == t.work; });
    }
  };
  return std::visit(Visitor{calibration}, target);
}

void derive_layer(Calibration& calibration) {
  derive_classes(calibration);
  const Setting setting = main_setting(calibration);
  const WorkKey* const layer = layer_key(calibration, setting);
  if (calibration.classes.empty()) calibration.classes.push_back("gemm");
  if (layer != nullptr) {
    const WorkKey key = *layer;  // what follows may move the measurements
    const auto layers = key.shape.find("layers");
    const std::int64_t share = key.name == "stage" ? layers->second : 1;
    const auto class_of_layer = [&] {
      const auto measured = std::find_if(calibration.work.begin(), calibration.work.end(),
                                         [&](const TimedWork& one) { return one.work == key; });
      const std::string name = measured->work_class.empty() ? "gemm" : measured->work_class;
      auto& classes = calibration.classes;
      const auto place = std::find(classes.begin(), classes.end(), name) - classes.begin();
      if (place == std::ssize(classes)) {
        classes.push_back(name);
        // A class that no slowdown was measured of slows nobody.
        for (auto& row : calibration.slowdown_ppm) row.push_back(1'000'000);
        if (!calibration.slowdown_ppm.empty())
          calibration.slowdown_ppm.emplace_back(classes.size(), 1'000'000);
      }
      return WorkClass{static_cast<std::uint32_t>(place)};
    };
    const WorkClass work_class = class_of_layer();
    const auto segment = [&](WorkKind kind) -> std::vector<Segment> {
      WorkKey of = key;
      of.kind = kind;
      const auto found = find_duration(calibration, of, setting);
      if (!found) return {};
      calibration.sources[std::string(words(kind))] = share == 1 ? "measured" : "interpolated";
      return {{Lane::compute, {(found->duration.ns + share / 2) / share}, work_class, "layer", false}};
    };
    calibration.forward = segment(WorkKind::forward);
    calibration.backward_input = segment(WorkKind::backward_input);
    calibration.backward_weight = segment(WorkKind::backward_weight);
    calibration.backward = segment(WorkKind::backward);
    if (calibration.backward.empty() && !calibration.backward_input.empty() &&
        !calibration.backward_weight.empty()) {
      calibration.backward = calibration.backward_input;
      calibration.backward.front().duration += calibration.backward_weight.front().duration;
      calibration.sources["backward"] = "estimated";
    }
  }
  if (const TransferSeries* const messages = find_messages(calibration)) {
    const FittedDuration at = duration_at(*messages->fit, calibration.activation_message);
    const bool exact =
        std::any_of(messages->points.begin(), messages->points.end(),
                    [&](const SizedSummary& p) { return p.size == calibration.activation_message; });
    calibration.link = link_at(*messages->fit, calibration.activation_message);
    calibration.sources["link"] = at.extrapolated ? "estimated" : exact ? "measured" : "interpolated";
  }
}

}  // namespace plumb
