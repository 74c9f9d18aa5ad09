#include "calibrate/measurement_json.hpp"

#include <algorithm>
#include <array>
#include <functional>

#include <fmt/format.h>

namespace plumb {
namespace {

// The keys of a Provenance that are text, counts, and where they are kept: one table for reading and writing.
struct TextField {
  std::string_view key;
  std::string Provenance::*place;
};
constexpr std::array<TextField, 11> text_fields{{
    {"gpu", &Provenance::gpu},
    {"driver", &Provenance::driver},
    {"cuda", &Provenance::cuda},
    {"nccl_header", &Provenance::nccl_header},
    {"nccl_library", &Provenance::nccl_library},
    {"cudnn", &Provenance::cudnn},
    {"cublas", &Provenance::cublas},
    {"host", &Provenance::host},
    {"time", &Provenance::time},
    {"tool_version", &Provenance::tool_version},
    {"tool_commit", &Provenance::tool_commit},
}};
struct CountField {
  std::string_view key;
  std::uint32_t Provenance::*place;
};
constexpr std::array<CountField, 5> count_fields{{
    {"gpus", &Provenance::gpus},
    {"sms", &Provenance::sms},
    {"sm_clock_mhz", &Provenance::sm_clock_mhz},
    {"most_sm_clock_mhz", &Provenance::most_sm_clock_mhz},
    {"memory_clock_mhz", &Provenance::memory_clock_mhz},
}};

std::uint32_t count(const JsonView& view, std::uint32_t most = 4'000'000'000) {
  return static_cast<std::uint32_t>(view.integer(0, most));
}

std::string json_map(const std::map<std::string, std::int64_t>& map) {
  std::string out = "{";
  for (const auto& [key, value] : map)
    out += fmt::format("{}{}:{}", out.size() > 1 ? "," : "", json_quoted(key), value);
  return out + "}";
}

// Summary

Summary read_summary(const JsonView& view) {
  view.allow_keys({"samples", "set_aside", "min_ns", "lower_quartile_ns", "median_ns", "upper_quartile_ns",
                   "max_ns", "low95_ns", "high95_ns", "steadiness", "sm_clock_mhz", "clock_exponent_ppm",
                   "clock_exponent_error_ppm"});
  Summary summary;
  summary.samples = static_cast<std::uint32_t>(view.required("samples").integer(1, 4'000'000'000));
  if (const auto aside = view.member("set_aside")) summary.set_aside = count(*aside);
  summary.median = view.required("median_ns").duration_ns();
  const auto duration = [&](const char* key) {
    const auto value = view.member(key);
    return value ? value->duration_ns() : summary.median;
  };
  summary.minimum = duration("min_ns");
  summary.lower_quartile = duration("lower_quartile_ns");
  summary.upper_quartile = duration("upper_quartile_ns");
  summary.maximum = duration("max_ns");
  summary.low = duration("low95_ns");
  summary.high = duration("high95_ns");
  const std::array<Duration, 5> quantiles{summary.minimum, summary.lower_quartile, summary.median,
                                          summary.upper_quartile, summary.maximum};
  if (!std::is_sorted(quantiles.begin(), quantiles.end()) || summary.low > summary.median ||
      summary.high < summary.median) {
    view.fail("has quantiles that do not ascend");
  }
  if (const auto clock = view.member("sm_clock_mhz")) summary.sm_clock_mhz = count(*clock, 1'000'000);
  if (const auto exponent = view.member("clock_exponent_ppm")) {
    summary.clock_exponent_ppm = exponent->integer(-10'000'000, 10'000'000);
    // Files without an error hold only what was known to a tenth.
    const auto error = view.member("clock_exponent_error_ppm");
    summary.clock_exponent_error_ppm = error ? error->integer(0, 1'000'000) : 100'000;
  }
  if (const auto steadiness = view.member("steadiness")) {
    const std::string word = steadiness->text();
    constexpr std::array<Steadiness, 3> all{Steadiness::steady, Steadiness::drifting, Steadiness::bimodal};
    const auto found = std::find_if(all.begin(), all.end(), [&](Steadiness s) { return words(s) == word; });
    if (found == all.end()) steadiness->fail("is none of steady, drifting, bimodal");
    summary.steadiness = *found;
  }
  return summary;
}

std::string summary_json(const Summary& s) {
  std::string out = fmt::format(R"({{"samples":{})", s.samples);
  if (s.set_aside > 0) out += fmt::format(R"(,"set_aside":{})", s.set_aside);
  out += fmt::format(
      R"(,"min_ns":{},"lower_quartile_ns":{},"median_ns":{},"upper_quartile_ns":{},"max_ns":{},"low95_ns":{},"high95_ns":{})",
      s.minimum.ns, s.lower_quartile.ns, s.median.ns, s.upper_quartile.ns, s.maximum.ns, s.low.ns, s.high.ns);
  if (s.sm_clock_mhz != 0) out += fmt::format(R"(,"sm_clock_mhz":{})", s.sm_clock_mhz);
  if (s.clock_exponent_ppm) {
    out += fmt::format(R"(,"clock_exponent_ppm":{},"clock_exponent_error_ppm":{})", *s.clock_exponent_ppm,
                       s.clock_exponent_error_ppm);
  }
  if (s.steadiness != Steadiness::steady) out += fmt::format(R"(,"steadiness":"{}")", words(s.steadiness));
  return out + "}";
}

// Setting

constexpr std::array<std::string_view, 3> shares{"whole_gpu", "partition", "process"};

Setting read_setting(const JsonView& view) {
  view.allow_keys({"share", "sms", "of", "others_busy", "idle_others", "flushed", "others_compute"});
  Setting setting;
  const JsonView share = view.required("share");
  const auto found = std::find(shares.begin(), shares.end(), share.text());
  if (found == shares.end()) share.fail("is none of whole_gpu, partition, process");
  setting.share = static_cast<Share>(found - shares.begin());
  if (const auto sms = view.member("sms")) setting.sms = count(*sms, 100'000);
  if (const auto of = view.member("of")) setting.of = static_cast<std::uint32_t>(of->integer(1, 100'000));
  if (const auto busy = view.member("others_busy")) setting.others_busy = busy->boolean();
  if (const auto idle = view.member("idle_others"))
    setting.idle_others = static_cast<std::uint32_t>(idle->integer(0, setting.of - 1));
  if (const auto flushed = view.member("flushed")) setting.flushed = flushed->boolean();
  if (const auto compute = view.member("others_compute")) {
    constexpr std::array<OthersCompute, 3> all{OthersCompute::forwards, OthersCompute::backwards,
                                               OthersCompute::pairs};
    const std::string word = compute->text();
    const auto what = std::find_if(all.begin(), all.end(), [&](OthersCompute o) { return words(o) == word; });
    if (what == all.end()) compute->fail("is none of forwards, backwards, pairs");
    setting.others_compute = *what;
  }
  return setting;
}

std::string setting_json(const Setting& s) {
  std::string out = fmt::format(R"({{"share":"{}")", shares[static_cast<std::size_t>(s.share)]);
  if (s.sms != 0) out += fmt::format(R"(,"sms":{})", s.sms);
  if (s.of != 1) out += fmt::format(R"(,"of":{})", s.of);
  if (s.others_busy) out += R"(,"others_busy":true)";
  if (s.idle_others > 0) out += fmt::format(R"(,"idle_others":{})", s.idle_others);
  if (s.flushed) out += R"(,"flushed":true)";
  if (s.others_compute != OthersCompute::as_in_steps)
    out += fmt::format(R"(,"others_compute":"{}")", words(s.others_compute));
  return out + "}";
}

// WorkKey: its members stand in the measurement itself.

WorkKey read_work_key(const JsonView& view) {
  WorkKey work;
  work.name = view.required("name").text();
  if (const auto model = view.member("model")) work.model = model->text();
  const JsonView kind = view.required("kind");
  const auto parsed = parse_work_kind(kind.text());
  if (!parsed) {
    kind.fail(
        "is none of forward, backward_input, backward_weight, backward, forward_beside_backward, optimizer");
  }
  work.kind = *parsed;
  for (const auto& [dimension, size] : view.required("shape").members()) {
    work.shape[dimension] = size.integer(0, std::int64_t{1} << 53);
  }
  if (const auto type = view.member("data_type")) work.data_type = type->text();
  return work;
}

std::string work_key_json(const WorkKey& work) {
  std::string out = fmt::format(R"("name":{},"kind":"{}")", json_quoted(work.name), words(work.kind));
  if (!work.model.empty()) out += fmt::format(R"(,"model":{})", json_quoted(work.model));
  out += fmt::format(R"(,"shape":{})", json_map(work.shape));
  if (!work.data_type.empty()) out += fmt::format(R"(,"data_type":{})", json_quoted(work.data_type));
  return out;
}

// LinkFit

LinkFit read_fit(const JsonView& view) {
  view.allow_keys({"knots", "ragged_ns", "worst_residual_ppm", "median_residual_ppm", "worst_held_out_ppm",
                   "median_held_out_ppm"});
  LinkFit fit;
  const JsonView knots = view.required("knots");
  for (const JsonView& knot : knots.elements()) {
    knot.allow_keys({"bytes", "duration_ns"});
    const SizedDuration point{{knot.required("bytes").integer(0, std::int64_t{1} << 53)},
                              knot.required("duration_ns").duration_ns()};
    if (!fit.knots.empty() &&
        (point.size <= fit.knots.back().size || point.duration < fit.knots.back().duration)) {
      knot.fail("does not ascend from the knot before it");
    }
    fit.knots.push_back(point);
  }
  if (fit.knots.empty()) knots.fail("is empty");
  if (const auto ragged = view.member("ragged_ns")) fit.ragged = ragged->duration_ns();
  const auto ppm = [&](const char* key) {
    const auto value = view.member(key);
    return value ? count(*value) : 0;
  };
  fit.worst_residual_ppm = ppm("worst_residual_ppm");
  fit.median_residual_ppm = ppm("median_residual_ppm");
  fit.worst_held_out_ppm = ppm("worst_held_out_ppm");
  fit.median_held_out_ppm = ppm("median_held_out_ppm");
  return fit;
}

std::string fit_json(const LinkFit& fit) {
  std::string out = R"({"knots":[)";
  for (std::size_t k = 0; k < fit.knots.size(); ++k) {
    out += fmt::format(R"({}{{"bytes":{},"duration_ns":{}}})", k > 0 ? "," : "", fit.knots[k].size.count,
                       fit.knots[k].duration.ns);
  }
  out += "]";
  if (fit.ragged > Duration{}) out += fmt::format(R"(,"ragged_ns":{})", fit.ragged.ns);
  return out +
         fmt::format(
             R"(,"worst_residual_ppm":{},"median_residual_ppm":{},"worst_held_out_ppm":{},"median_held_out_ppm":{}}})",
             fit.worst_residual_ppm, fit.median_residual_ppm, fit.worst_held_out_ppm,
             fit.median_held_out_ppm);
}

}  // namespace

Provenance read_provenance(const JsonView& view) {
  Provenance provenance;
  for (const auto& [key, value] : view.members()) {
    const auto named = [&key = key](const auto& field) { return field.key == key; };
    if (const auto text = std::find_if(text_fields.begin(), text_fields.end(), named);
        text != text_fields.end()) {
      provenance.*(text->place) = value.text();
    } else if (const auto field = std::find_if(count_fields.begin(), count_fields.end(), named);
               field != count_fields.end()) {
      provenance.*(field->place) = count(value);
    } else if (key == "gpu_memory_bytes") {
      provenance.gpu_memory = {value.integer(0, std::int64_t{1} << 53)};
    } else if (key == "argv") {
      for (const JsonView& word : value.elements()) provenance.argv.push_back(word.text());
    } else if (key == "environment") {
      for (const auto& [name, setting] : value.members()) provenance.environment[name] = setting.text();
    } else {
      provenance.notes[key] = value.text();
    }
  }
  return provenance;
}

std::string to_json(const Provenance& provenance) {
  std::string out = "{";
  const auto member = [&](std::string_view key, const std::string& json) {
    out += fmt::format("{}\n  {}: {}", out.size() > 1 ? "," : "", json_quoted(key), json);
  };
  for (const TextField& field : text_fields) {
    if (!(provenance.*(field.place)).empty()) member(field.key, json_quoted(provenance.*(field.place)));
  }
  for (const CountField& field : count_fields) {
    if (provenance.*(field.place) != 0) member(field.key, fmt::format("{}", provenance.*(field.place)));
  }
  if (provenance.gpu_memory.count != 0)
    member("gpu_memory_bytes", fmt::format("{}", provenance.gpu_memory.count));
  if (!provenance.argv.empty()) {
    std::string words;
    for (const std::string& word : provenance.argv) words += (words.empty() ? "" : ", ") + json_quoted(word);
    member("argv", "[" + words + "]");
  }
  if (!provenance.environment.empty()) {
    std::string variables;
    for (const auto& [name, value] : provenance.environment) {
      variables +=
          fmt::format("{}{}: {}", variables.empty() ? "" : ", ", json_quoted(name), json_quoted(value));
    }
    member("environment", "{" + variables + "}");
  }
  for (const auto& [key, value] : provenance.notes) member(key, json_quoted(value));
  return out + (out.size() > 1 ? "\n }" : "}");
}

TimedWork read_timed_work(const JsonView& view) {
  view.allow_keys({"name", "kind", "model", "shape", "data_type", "setting", "rank", "class", "time",
                   "host_launch_ns", "tail_ppm"});
  TimedWork work;
  work.work = read_work_key(view);
  work.setting = read_setting(view.required("setting"));
  if (const auto rank = view.member("rank")) work.rank = count(*rank);
  if (const auto name = view.member("class")) work.work_class = name->text();
  work.time = read_summary(view.required("time"));
  if (const auto launch = view.member("host_launch_ns")) work.host_launch = launch->duration_ns();
  if (const auto tail = view.member("tail_ppm"))
    work.tail_ppm = static_cast<std::uint32_t>(tail->integer(0, 1'000'000));
  return work;
}

std::string to_json(const TimedWork& work) {
  std::string out = fmt::format(R"({{{},"setting":{})", work_key_json(work.work), setting_json(work.setting));
  if (work.rank) out += fmt::format(R"(,"rank":{})", *work.rank);
  if (!work.work_class.empty()) out += fmt::format(R"(,"class":{})", json_quoted(work.work_class));
  out += fmt::format(R"(,"time":{})", summary_json(work.time));
  if (work.host_launch) out += fmt::format(R"(,"host_launch_ns":{})", work.host_launch->ns);
  if (work.tail_ppm) out += fmt::format(R"(,"tail_ppm":{})", *work.tail_ppm);
  return out + "}";
}

TransferSeries read_transfer_series(const JsonView& view) {
  view.allow_keys({"kind", "transport", "link", "ranks", "at_once", "setting", "points", "fit"});
  TransferSeries series;
  const JsonView kind = view.required("kind");
  const auto parsed = parse_transfer_kind(kind.text());
  if (!parsed) {
    kind.fail(
        "is none of one_way, both_ways, at_once, hop, all_reduce, reduce_scatter, all_gather, all_to_all");
  }
  series.key.kind = *parsed;
  series.key.transport = view.required("transport").text();
  if (const auto link = view.member("link")) series.key.link = link->text();
  for (const JsonView& rank : view.required("ranks").elements()) series.key.ranks.push_back(count(rank));
  if (const auto number = view.member("at_once")) {
    series.key.at_once = static_cast<std::uint32_t>(number->integer(1, 100'000));
  }
  series.key.setting = read_setting(view.required("setting"));
  const JsonView points = view.required("points");
  for (const JsonView& point : points.elements()) {
    point.allow_keys({"bytes", "time"});
    const Bytes size{point.required("bytes").integer(0, std::int64_t{1} << 53)};
    if (!series.points.empty() && size <= series.points.back().size)
      point.fail("is no larger than the point before it");
    series.points.push_back({size, read_summary(point.required("time"))});
  }
  if (series.points.empty()) points.fail("is empty");
  if (const auto fit = view.member("fit")) series.fit = read_fit(*fit);
  return series;
}

std::string to_json(const TransferSeries& series) {
  std::string ranks;
  for (const std::uint32_t rank : series.key.ranks)
    ranks += fmt::format("{}{}", ranks.empty() ? "" : ",", rank);
  std::string out = fmt::format(R"({{"kind":"{}","transport":{})", words(series.key.kind),
                                json_quoted(series.key.transport));
  if (!series.key.link.empty()) out += fmt::format(R"(,"link":{})", json_quoted(series.key.link));
  out += fmt::format(R"(,"ranks":[{}])", ranks);
  if (series.key.at_once != 1) out += fmt::format(R"(,"at_once":{})", series.key.at_once);
  out += fmt::format(R"(,"setting":{},"points":[)", setting_json(series.key.setting));
  for (std::size_t k = 0; k < series.points.size(); ++k) {
    out += fmt::format("{}\n   {{\"bytes\":{},\"time\":{}}}", k > 0 ? "," : "", series.points[k].size.count,
                       summary_json(series.points[k].time));
  }
  out += "]";
  if (series.fit) out += fmt::format(",\n   \"fit\":{}", fit_json(*series.fit));
  return out + "}";
}

Slowdown read_slowdown_measured(const JsonView& view) {
  view.allow_keys(
      {"class", "beside", "communication_sms", "setting", "alone", "together", "in_turns", "factor_ppm"});
  Slowdown slowdown;
  slowdown.key.work_class = view.required("class").text();
  slowdown.key.beside = view.required("beside").text();
  if (const auto sms = view.member("communication_sms"))
    slowdown.key.communication_sms = count(*sms, 100'000);
  slowdown.key.setting = read_setting(view.required("setting"));
  slowdown.alone = read_summary(view.required("alone"));
  slowdown.together = read_summary(view.required("together"));
  if (const auto turns = view.member("in_turns")) {
    turns->allow_keys({"ratio_ppm", "low_ppm", "high_ppm"});
    const auto ppm = [&](const char* key) { return turns->required(key).integer(1, std::int64_t{1} << 53); };
    slowdown.ratio = Ratio{ppm("ratio_ppm"), ppm("low_ppm"), ppm("high_ppm")};
  }
  return slowdown;
}

std::string to_json(const Slowdown& slowdown) {
  std::string out = fmt::format(R"({{"class":{},"beside":{})", json_quoted(slowdown.key.work_class),
                                json_quoted(slowdown.key.beside));
  if (slowdown.key.communication_sms != 0)
    out += fmt::format(R"(,"communication_sms":{})", slowdown.key.communication_sms);
  // The factor is there for readers; it follows from the rest and is not read back.
  out += fmt::format(R"(,"setting":{},"factor_ppm":{})", setting_json(slowdown.key.setting),
                     slowdown_ppm(slowdown));
  if (slowdown.ratio) {
    out += fmt::format(R"(,"in_turns":{{"ratio_ppm":{},"low_ppm":{},"high_ppm":{}}})", slowdown.ratio->ppm,
                       slowdown.ratio->low_ppm, slowdown.ratio->high_ppm);
  }
  return out + fmt::format(R"(,"alone":{},"together":{}}})", summary_json(slowdown.alone),
                           summary_json(slowdown.together));
}

MeasuredMemory read_measured_memory(const JsonView& view) {
  view.allow_keys({"name", "kind", "model", "shape", "data_type", "weights_bytes", "gradients_bytes",
                   "kept_by_forward_bytes", "freed_by_backward_input_bytes", "added_by_backward_input_bytes",
                   "freed_by_backward_weight_bytes", "workspace_bytes"});
  MeasuredMemory memory;
  memory.work = read_work_key(view);
  const auto bytes = [&](const char* key) {
    const auto value = view.member(key);
    return value ? Bytes{value->integer(0, std::int64_t{1} << 53)} : Bytes{};
  };
  memory.weights = bytes("weights_bytes");
  memory.gradients = bytes("gradients_bytes");
  memory.kept_by_forward = bytes("kept_by_forward_bytes");
  memory.freed_by_backward_input = bytes("freed_by_backward_input_bytes");
  memory.added_by_backward_input = bytes("added_by_backward_input_bytes");
  memory.freed_by_backward_weight = bytes("freed_by_backward_weight_bytes");
  if (const auto workspace = view.member("workspace_bytes")) {
    for (const auto& [key, value] : workspace->members()) {
      const auto kind = parse_work_kind(key);
      if (!kind) value.fail("is of no kind of work");
      memory.workspace[*kind] = {value.integer(0, std::int64_t{1} << 53)};
    }
  }
  return memory;
}

std::string to_json(const MeasuredMemory& memory) {
  std::string out = fmt::format(
      R"({{{},"weights_bytes":{},"gradients_bytes":{},"kept_by_forward_bytes":{},"freed_by_backward_input_bytes":{},"added_by_backward_input_bytes":{},"freed_by_backward_weight_bytes":{})",
      work_key_json(memory.work), memory.weights.count, memory.gradients.count, memory.kept_by_forward.count,
      memory.freed_by_backward_input.count, memory.added_by_backward_input.count,
      memory.freed_by_backward_weight.count);
  if (!memory.workspace.empty()) {
    std::map<std::string, std::int64_t> workspace;
    for (const auto& [kind, bytes] : memory.workspace) workspace[std::string(words(kind))] = bytes.count;
    out += fmt::format(R"(,"workspace_bytes":{})", json_map(workspace));
  }
  return out + "}";
}

}  // namespace plumb
