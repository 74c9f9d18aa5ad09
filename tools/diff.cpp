// plumb diff: subtracts two reports, or two timelines span by span.
#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/timeline_file.hpp"
#include "sim/idle.hpp"
#include "sim/live_activations.hpp"
#include "sim/report_json.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"
#include "tools/render/report_tables.hpp"
#include "tools/render/table.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  std::string a, b;
  std::size_t spans = 20;
  bool json = false;
};

struct Figure {
  std::string name;  // with its unit, as in the report
  std::int64_t a = 0, b = 0;
};

// ----- reports

std::vector<Figure> figures(const Report& a, const Report& b) {
  std::vector<Figure> out{{"makespan_ns", a.makespan.ns, b.makespan.ns},
                          {"span_ns", a.span.ns, b.span.ns},
                          {"step_time_ns", a.step_time.ns, b.step_time.ns}};
  const auto sum = [](const Report& report, auto pick) {
    std::int64_t total = 0;
    for (const RankReport& rank : report.ranks) total += pick(rank);
    return total;
  };
  const auto add = [&](std::string name, auto pick) {
    out.push_back({std::move(name), sum(a, pick), sum(b, pick)});
  };
  add("compute_busy_ns", [](const RankReport& rank) { return rank.compute_busy.ns; });
  add("idle_ns", [](const RankReport& rank) { return rank.idle.ns; });
  for (std::size_t c = 0; c < idle_causes; ++c) {
    add(fmt::format("{}_ns", to_string(static_cast<IdleCause>(c))),
        [c](const RankReport& rank) { return rank.idle_by_cause[c].ns; });
  }
  const auto most = [](const Report& report, auto pick) {
    std::int64_t largest = 0;
    for (const RankReport& rank : report.ranks) largest = std::max(largest, pick(rank));
    return largest;
  };
  const auto activations = [](const RankReport& rank) { return std::int64_t{rank.peak_live_activations}; };
  out.push_back({"peak_live_activations", most(a, activations), most(b, activations)});
  const auto bytes = [](const RankReport& rank) { return rank.peak_bytes.value_or(Bytes{}).count; };
  if (most(a, bytes) != 0 || most(b, bytes) != 0)
    out.push_back({"peak_bytes", most(a, bytes), most(b, bytes)});
  return out;
}

// ----- timelines

// A timeline knows no bytes, but which activations are live.
MemoryProfile activations_of(const Timeline& timeline) {
  MemoryProfile memory;
  for (const RankTimeline& rank : timeline.ranks) {
    RankMemory& held = memory.ranks.emplace_back();
    for (const LivePoint& point : live_activations(rank, timeline.microbatches)) {
      held.peak_live_activations = std::max(held.peak_live_activations, point.chunks);
    }
  }
  return memory;
}

struct SpanChange {
  Rank rank;
  Action action;
  Duration begin;     // b - a, since the first compute start of each
  Duration duration;  // b - a
};

struct TimelineDiff {
  std::vector<SpanChange> changes;  // largest change of duration first, then of begin
  std::size_t same = 0;
  std::vector<std::string> only_in_a, only_in_b;
};

TimelineDiff subtract(const Timeline& a, const Timeline& b) {
  TimelineDiff diff;
  const TimePoint start_a = step_bounds(a).begin;
  const TimePoint start_b = step_bounds(b).begin;
  std::map<std::pair<Rank, Action>, const ComputeSpan*> spans;
  for (std::uint32_t r = 0; r < a.ranks.size(); ++r) {
    for (const ComputeSpan& span : a.ranks[r].compute) spans.emplace(std::pair{Rank{r}, span.action}, &span);
  }
  for (std::uint32_t r = 0; r < b.ranks.size(); ++r) {
    for (const ComputeSpan& span : b.ranks[r].compute) {
      const auto found = spans.find({Rank{r}, span.action});
      if (found == spans.end()) {
        diff.only_in_b.push_back(fmt::format("rank {} {}", r, to_string(span.action)));
        continue;
      }
      const ComputeSpan& before = *found->second;
      const SpanChange change{Rank{r}, span.action, (span.begin - start_b) - (before.begin - start_a),
                              (span.end - span.begin) - (before.end - before.begin)};
      spans.erase(found);
      if (change.begin.ns == 0 && change.duration.ns == 0) {
        ++diff.same;
      } else {
        diff.changes.push_back(change);
      }
    }
  }
  for (const auto& [at, span] : spans)
    diff.only_in_a.push_back(fmt::format("rank {} {}", at.first.value, to_string(at.second)));
  std::stable_sort(diff.changes.begin(), diff.changes.end(), [](const SpanChange& x, const SpanChange& y) {
    const auto size = [](const SpanChange& c) {
      return std::pair{std::abs(c.duration.ns), std::abs(c.begin.ns)};
    };
    return size(x) > size(y);
  });
  return diff;
}

std::string strings_json(const std::vector<std::string>& items) {
  std::string out = "[";
  for (std::size_t i = 0; i < items.size(); ++i) out += (i ? "," : "") + json_quoted(items[i]);
  return out + "]";
}

void print(Console& console, const Options& options, const std::vector<Figure>& values, double share_a,
           double share_b, const TimelineDiff* spans) {
  if (options.json) {
    console.out << "{\"schema\":\"plumb.diff/1\",\"figures\":[";
    for (std::size_t i = 0; i < values.size(); ++i) {
      fmt::print(console.out, "{}{{\"name\":\"{}\",\"a\":{},\"b\":{},\"difference\":{}}}", i ? "," : "",
                 values[i].name, values[i].a, values[i].b, values[i].b - values[i].a);
    }
    fmt::print(console.out, "],\"idle_share\":{{\"a\":{},\"b\":{},\"difference\":{}}}", share_a, share_b,
               share_b - share_a);
    if (spans) {
      fmt::print(console.out, ",\"same_spans\":{},\"only_in_a\":{},\"only_in_b\":{},\"spans\":[", spans->same,
                 strings_json(spans->only_in_a), strings_json(spans->only_in_b));
      for (std::size_t i = 0; i < spans->changes.size(); ++i) {
        const SpanChange& change = spans->changes[i];
        fmt::print(
            console.out,
            "{}{{\"rank\":{},\"action\":\"{}\",\"begin_difference_ns\":{},\"duration_difference_ns\":{}}}",
            i ? "," : "", change.rank.value, to_string(change.action), change.begin.ns, change.duration.ns);
      }
      console.out << "]";
    }
    console.out << "}\n";
    return;
  }
  const auto share = [](double value) { return fmt::format("{:.2f} %", 100 * value); };
  render::Table table{{"figure", "A", "B", "B - A", "relative"}, {}};
  for (const Figure& figure : values) {
    const bool is_time = figure.name.ends_with("_ns");
    const auto text = [&](std::int64_t value) {
      return is_time ? render::milliseconds(Duration{value}) : fmt::format("{}", value);
    };
    std::string name = is_time ? figure.name.substr(0, figure.name.size() - 3) + " ms" : figure.name;
    table.rows.push_back({name, text(figure.a), text(figure.b), text(figure.b - figure.a),
                          figure.a == 0
                              ? ""
                              : fmt::format("{:+.2f} %", 100.0 * static_cast<double>(figure.b - figure.a) /
                                                             static_cast<double>(figure.a))});
  }
  table.rows.push_back({"bubble", share(share_a), share(share_b),
                        fmt::format("{:+.2f} points", 100 * (share_b - share_a)), ""});
  console.out << to_text(table);
  if (!spans) return;
  fmt::print(console.out, "\n{} spans differ, {} are the same, {} only in A, {} only in B\n",
             spans->changes.size(), spans->same, spans->only_in_a.size(), spans->only_in_b.size());
  if (spans->changes.empty()) return;
  render::Table rows{{"action", "rank", "longer by ms", "later by ms"}, {}};
  for (std::size_t i = 0; i < std::min(options.spans, spans->changes.size()); ++i) {
    const SpanChange& change = spans->changes[i];
    rows.rows.push_back({to_string(change.action), fmt::format("{}", change.rank.value),
                         render::milliseconds(change.duration), render::milliseconds(change.begin)});
  }
  console.out << "\n" << to_text(rows);
}

int run(const Options& options, Console& console) {
  const std::string a = read_input(options.a);
  const std::string b = read_input(options.b);
  const auto schema_a = json_schema_of(a);
  const auto schema_b = json_schema_of(b);
  for (const auto& [file, schema] : {std::pair{options.a, schema_a}, std::pair{options.b, schema_b}}) {
    if (schema != "plumb.report/1" && schema != "plumb.timeline/1") {
      throw BadInput(file, "is neither a plumb.report/1 nor a plumb.timeline/1");
    }
  }
  if (schema_a != schema_b)
    throw BadInput(options.b, fmt::format("is a {}, but {} is a {}", *schema_b, options.a, *schema_a));
  if (schema_a == "plumb.report/1") {
    const Report report_a = parse_report(a, options.a);
    const Report report_b = parse_report(b, options.b);
    print(console, options, figures(report_a, report_b), report_a.idle_share, report_b.idle_share, nullptr);
    return 0;
  }
  const Timeline timeline_a = parse_timeline(a, options.a);
  const Timeline timeline_b = parse_timeline(b, options.b);
  const Report report_a = summarize(timeline_a, activations_of(timeline_a));
  const Report report_b = summarize(timeline_b, activations_of(timeline_b));
  const TimelineDiff diff = subtract(timeline_a, timeline_b);
  print(console, options, figures(report_a, report_b), report_a.idle_share, report_b.idle_share, &diff);
  return 0;
}

}  // namespace

Command diff_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("diff", "Subtract two plumb.report/1, or two plumb.timeline/1 span by span");
  command->add_option("a", options->a, "The first; - reads standard input")->required()->type_name("A");
  command->add_option("b", options->b, "The second")->required()->type_name("B");
  command->add_option("--spans", options->spans, "Spans to list, the largest changes first")
      ->capture_default_str();
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
