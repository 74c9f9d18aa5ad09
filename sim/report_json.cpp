#include "sim/report_json.hpp"

#include "schedules/ir/json_document.hpp"
#include "schedules/ir/schedule.hpp"

#include <iterator>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::string_view schema = "plumb.report/1";

std::string causes_json(const std::array<Duration, idle_causes>& by_cause) {
  std::string out = "{";
  for (std::size_t c = 0; c < idle_causes; ++c) {
    out += fmt::format("{}\"{}_ns\":{}", c ? "," : "", to_string(static_cast<IdleCause>(c)), by_cause[c].ns);
  }
  return out + "}";
}

}  // namespace

std::string to_json(const Report& report) {
  std::string out = fmt::format(
      "{{\"schema\":\"{}\",\"schedule\":{},\"stages\":{},\"microbatches\":{},\"makespan_ns\":{},\"span_ns\":{"
      "},"
      "\"step_time_ns\":{},\"idle_share\":{}",
      schema, json_quoted(report.schedule), report.stages, report.microbatches, report.makespan.ns,
      report.span.ns, report.step_time.ns, report.idle_share);
  std::array<Duration, idle_causes> sums{};
  for (const RankReport& rank : report.ranks) {
    for (std::size_t c = 0; c < idle_causes; ++c) sums[c] += rank.idle_by_cause[c];
  }
  out += fmt::format(",\"idle_by_cause\":{}", causes_json(sums));
  if (report.tokens_per_s) out += fmt::format(",\"tokens_per_s\":{}", *report.tokens_per_s);
  if (report.mfu) out += fmt::format(",\"mfu\":{}", *report.mfu);
  if (!report.sources.empty()) {
    const char* comma = ",\"sources\":{";
    for (const auto& [figure, source] : report.sources) {
      out += fmt::format("{}{}:{}", comma, json_quoted(figure), json_quoted(source));
      comma = ",";
    }
    out += '}';
  }
  out += ",\"ranks\":[";
  const char* comma = "";
  for (const RankReport& rank : report.ranks) {
    fmt::format_to(std::back_inserter(out),
                   "{}{{\"compute_busy_ns\":{},\"idle_ns\":{},\"span_ns\":{},\"idle_by_cause\":{},\"peak_"
                   "live_activations\":{},"
                   "\"peak_action\":{}",
                   comma, rank.compute_busy.ns, rank.idle.ns, rank.span.ns, causes_json(rank.idle_by_cause),
                   rank.peak_live_activations, json_quoted(rank.peak_action));
    if (rank.peak_bytes) {
      fmt::format_to(std::back_inserter(out), ",\"peak_bytes\":{},\"memory_bytes\":{{",
                     rank.peak_bytes->count);
      for (std::size_t u = 0; u < memory_uses; ++u) {
        fmt::format_to(std::back_inserter(out), "{}\"{}\":{}", u ? "," : "",
                       to_string(static_cast<MemoryUse>(u)), rank.peak_memory.by_use[u].count);
      }
      out += '}';
    }
    out += '}';
    comma = ",";
  }
  return out + "]}";
}

Report parse_report(std::string_view content, std::string_view where) {
  const JsonDocument document(content, where, schema);
  const JsonView root = document.root();
  Report report;
  if (const auto name = root.member("schedule")) report.schedule = name->text();
  const auto count = [](const std::optional<JsonView>& view) {
    return view ? static_cast<std::uint32_t>(view->integer(0, 0xffffffff)) : 0u;
  };
  report.stages = count(root.member("stages"));
  report.microbatches = count(root.member("microbatches"));
  report.makespan = root.required("makespan_ns").duration_ns();
  report.span = root.required("span_ns").duration_ns();
  const auto step = root.member("step_time_ns");
  report.step_time = step ? step->duration_ns() : report.makespan;
  report.idle_share = root.required("idle_share").number(0, 1);
  if (const auto rate = root.member("tokens_per_s")) report.tokens_per_s = rate->number(0, 1e18);
  if (const auto mfu = root.member("mfu")) report.mfu = mfu->number(0, 10);
  if (const auto sources = root.member("sources")) {
    for (const auto& [figure, source] : sources->members()) report.sources[figure] = source.text();
  }
  for (const JsonView& entry : root.required("ranks").elements()) {
    RankReport rank;
    rank.compute_busy = entry.required("compute_busy_ns").duration_ns();
    rank.idle = entry.required("idle_ns").duration_ns();
    rank.span = entry.required("span_ns").duration_ns();
    rank.peak_live_activations = count(entry.required("peak_live_activations"));
    if (const auto causes = entry.member("idle_by_cause")) {
      for (std::size_t c = 0; c < idle_causes; ++c) {
        rank.idle_by_cause[c] =
            causes->required(fmt::format("{}_ns", to_string(static_cast<IdleCause>(c)))).duration_ns();
      }
    }
    if (const auto action = entry.member("peak_action")) rank.peak_action = action->text();
    if (const auto bytes = entry.member("peak_bytes")) rank.peak_bytes = bytes->bytes();
    if (const auto memory = entry.member("memory_bytes")) {
      for (std::size_t u = 0; u < memory_uses; ++u) {
        rank.peak_memory.by_use[u] = memory->required(to_string(static_cast<MemoryUse>(u))).bytes();
      }
    }
    report.ranks.push_back(rank);
  }
  return report;
}

}  // namespace plumb
