#include "tools/validation.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "tools/render/report_tables.hpp"
#include "tools/render/table.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace plumb::tools {
namespace {

constexpr std::array<std::string_view, 6> class_names{"forward",  "backward_input", "backward_weight",
                                                      "backward", "pair",           "hop"};
constexpr std::size_t pair_class = 4;
constexpr std::size_t hop_class = 5;

struct Sum {
  std::uint64_t count = 0;
  Duration total;
  Duration mean() const {
    return {count ? (2 * total.ns + static_cast<std::int64_t>(count)) / (2 * static_cast<std::int64_t>(count))
                  : 0};
  }
};

std::array<Sum, class_names.size()> sums_of(const Timeline& timeline) {
  std::array<Sum, class_names.size()> sums;
  const auto add = [&](std::size_t index, Duration duration) {
    ++sums[index].count;
    sums[index].total += duration;
  };
  for (const RankTimeline& rank : timeline.ranks) {
    TimePoint free{};
    for (const ComputeSpan& span : rank.compute) {
      add(span.action.is_pair() ? pair_class : static_cast<std::size_t>(span.action.first().kind),
          span.end - span.begin);
      // Only where the rank was free before the input left its maker did it wait for the whole hop.
      if (span.last_input && span.last_input_sent >= free) add(hop_class, span.begin - span.last_input_sent);
      free = span.end;
    }
  }
  return sums;
}

double relative(Duration a, Duration b) {
  return b.ns == 0 ? 0 : static_cast<double>(a.ns) / static_cast<double>(b.ns) - 1;
}

std::string signed_percent(double share) { return fmt::format("{:+.2f} %", 100 * share); }

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

render::Table table_of(const std::vector<ValidationRow>& rows) {
  render::Table table;
  table.head = {"schedule",
                "chunks",
                "model",
                "ranks",
                "microbatches",
                "step ms, predicted",
                "measured",
                "error",
                "bubble, predicted",
                "measured",
                "clock MHz, predicted",
                "measured",
                "activations GiB, predicted",
                "measured",
                "largest error",
                "predicted us",
                "measured us"};
  const auto megahertz = [](std::uint32_t mhz) { return mhz ? fmt::format("{}", mhz) : std::string("-"); };
  const auto percent = [](double share) { return fmt::format("{:.2f} %", 100 * share); };
  const auto microseconds = [](Duration d) { return fmt::format("{:.1f}", static_cast<double>(d.ns) / 1e3); };
  for (const ValidationRow& row : rows) {
    const ClassError* largest = row.classes.empty() ? nullptr : &row.classes.front();
    table.rows.push_back(
        {row.schedule, fmt::format("{}", row.chunks), row.model, fmt::format("{}", row.ranks),
         fmt::format("{}", row.microbatches), render::milliseconds(row.predicted.step_time),
         render::milliseconds(row.measured.step_time), signed_percent(row.step_error()),
         percent(row.predicted.idle_share), percent(row.measured.idle_share),
         megahertz(row.predicted.sm_clock_mhz), megahertz(row.measured.sm_clock_mhz),
         render::gibibytes(row.predicted.peak_activations), render::gibibytes(row.measured.peak_activations),
         largest ? largest->name : "-", largest ? microseconds(largest->predicted) : "-",
         largest ? microseconds(largest->measured) : "-"});
  }
  return table;
}

render::Table class_table(const std::vector<ValidationRow>& rows) {
  render::Table table;
  table.head = {"ops", "count", "us, predicted", "measured", "error", "of the steps"};
  std::int64_t steps_ns = 0;
  for (const ValidationRow& row : rows) steps_ns += row.measured.step_time.ns;
  for (const std::string_view name : class_names) {
    double count = 0;
    double predicted = 0;
    double measured = 0;
    std::int64_t weight_ns = 0;
    for (const ValidationRow& row : rows) {
      for (const ClassError& error : row.classes) {
        if (error.name != name) continue;
        const auto n = static_cast<double>(error.count);
        count += n;
        predicted += n * static_cast<double>(error.predicted.ns);
        measured += n * static_cast<double>(error.measured.ns);
        weight_ns += error.weight.ns;
      }
    }
    if (count == 0 || measured == 0) continue;
    table.rows.push_back(
        {std::string(name), fmt::format("{:.0f}", count), fmt::format("{:.1f}", predicted / count / 1e3),
         fmt::format("{:.1f}", measured / count / 1e3), signed_percent(predicted / measured - 1),
         signed_percent(static_cast<double>(weight_ns) / static_cast<double>(steps_ns))});
  }
  return table;
}

std::string figures_json(const StepFigures& figures) {
  return fmt::format(
      "{{\"step_time_ns\":{},\"idle_share\":{},\"peak_activation_bytes\":{},\"exposed_communication_ns\":{}{}"
      "}"
      "}",
      figures.step_time.ns, figures.idle_share, figures.peak_activations.count, figures.exposed_messages.ns,
      figures.sm_clock_mhz ? fmt::format(",\"sm_clock_mhz\":{}", figures.sm_clock_mhz) : "");
}

constexpr std::int64_t whole = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t most_count = std::numeric_limits<std::uint32_t>::max();

std::uint32_t count_in(const JsonView& view, std::string_view key) {
  return static_cast<std::uint32_t>(view.required(key).integer(0, most_count));
}

StepFigures figures_in(const JsonView& view) {
  StepFigures figures{view.required("step_time_ns").duration_ns(), view.required("idle_share").number(0, 1),
                      view.required("peak_activation_bytes").bytes(),
                      view.required("exposed_communication_ns").duration_ns()};
  if (view.member("sm_clock_mhz")) figures.sm_clock_mhz = count_in(view, "sm_clock_mhz");
  return figures;
}

Duration signed_in(const JsonView& view, std::string_view key) {
  return {view.required(key).integer(-whole, whole)};
}

}  // namespace

StepFigures figures_of(const Report& report, Bytes peak_activations) {
  return {report.step_time, report.idle_share, peak_activations,
          render::idle_of(report, IdleCause::exposed_communication), 0};
}

std::vector<ClassError> class_errors(const Timeline& predicted, const Timeline& measured) {
  PLUMB_CHECK(predicted.ranks.size() == measured.ranks.size());
  const auto found = sums_of(measured);
  std::vector<ClassError> classes;
  for (std::size_t c = 0; c < class_names.size(); ++c) {
    if (found[c].count > 0)
      classes.push_back({std::string(class_names[c]), found[c].count, {}, found[c].mean(), {}});
  }
  return class_errors(predicted, std::move(classes));
}

std::vector<ClassError> class_errors(const Timeline& predicted, std::vector<ClassError> measured) {
  const auto expected = sums_of(predicted);
  for (ClassError& error : measured) {
    const auto name = std::find(class_names.begin(), class_names.end(), error.name);
    if (name != class_names.end())
      error.predicted = expected[static_cast<std::size_t>(name - class_names.begin())].mean();
    error.weight = {static_cast<std::int64_t>(error.count) * (error.predicted - error.measured).ns /
                    static_cast<std::int64_t>(predicted.ranks.size())};
  }
  std::stable_sort(measured.begin(), measured.end(), [](const ClassError& a, const ClassError& b) {
    return std::abs(a.weight.ns) > std::abs(b.weight.ns);
  });
  return measured;
}

double ValidationRow::step_error() const { return relative(predicted.step_time, measured.step_time); }

Ranking ranking_of(const std::vector<ValidationRow>& rows, double threshold) {
  Ranking ranking;
  for (std::size_t a = 0; a < rows.size(); ++a) {
    for (std::size_t b = a + 1; b < rows.size(); ++b) {
      const ValidationRow& one = rows[a];
      const ValidationRow& other = rows[b];
      if (one.run != other.run || one.ranks != other.ranks || one.microbatches != other.microbatches ||
          one.model != other.model)
        continue;
      if (std::abs(relative(one.predicted.step_time, other.predicted.step_time)) <= threshold) continue;
      ++ranking.pairs;
      ranking.right += (one.predicted.step_time < other.predicted.step_time) ==
                       (one.measured.step_time < other.measured.step_time);
    }
  }
  return ranking;
}

std::string to_json(const std::vector<ValidationRow>& rows) {
  std::string out = "{\"schema\":\"plumb.validation/1\",\"rows\":[";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const ValidationRow& row = rows[i];
    out += fmt::format(
        "{}{{\"schedule\":{},\"chunks\":{},\"model\":{},\"ranks\":{},\"microbatches\":{},\"transport\":{},"
        "\"predicted\":{},\"measured\":{},\"measured_fastest_ns\":{},\"measured_slowest_ns\":{},"
        "\"preparing_ns\":{}{},\"step_error\":{},\"classes\":[",
        i ? "," : "", json_quoted(row.schedule), row.chunks, json_quoted(row.model), row.ranks,
        row.microbatches, json_quoted(row.transport), figures_json(row.predicted), figures_json(row.measured),
        row.fastest.ns, row.slowest.ns, row.preparing.ns,
        row.executor_overhead ? fmt::format(",\"executor_overhead\":{}", *row.executor_overhead) : "",
        row.step_error());
    for (std::size_t c = 0; c < row.classes.size(); ++c) {
      const ClassError& error = row.classes[c];
      out += fmt::format(
          "{}{{\"name\":\"{}\",\"count\":{},\"predicted_ns\":{},\"measured_ns\":{},\"weight_ns\":{}}}",
          c ? "," : "", error.name, error.count, error.predicted.ns, error.measured.ns, error.weight.ns);
    }
    out += "]}";
  }
  return out + "]}\n";
}

std::vector<ValidationRow> validation_rows(std::string_view json, std::string_view where) {
  const JsonDocument document(json, where, "plumb.validation/1");
  std::vector<ValidationRow> rows;
  for (const JsonView& view : document.root().required("rows").elements()) {
    ValidationRow row;
    row.schedule = view.required("schedule").text();
    row.chunks = count_in(view, "chunks");
    row.model = view.required("model").text();
    row.ranks = count_in(view, "ranks");
    row.microbatches = count_in(view, "microbatches");
    row.transport = view.required("transport").text();
    row.predicted = figures_in(view.required("predicted"));
    row.measured = figures_in(view.required("measured"));
    if (row.measured.step_time.ns == 0) view.required("measured").fail("a step that took no time");
    row.fastest = view.required("measured_fastest_ns").duration_ns();
    row.slowest = view.required("measured_slowest_ns").duration_ns();
    if (const auto preparing = view.member("preparing_ns")) row.preparing = preparing->duration_ns();
    if (const auto overhead = view.member("executor_overhead"))
      row.executor_overhead = overhead->number(0, 1);
    for (const JsonView& error : view.required("classes").elements()) {
      row.classes.push_back({error.required("name").text(),
                             static_cast<std::uint64_t>(error.required("count").integer(0, whole)),
                             signed_in(error, "predicted_ns"), signed_in(error, "measured_ns"),
                             signed_in(error, "weight_ns")});
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

Accuracy accuracy_of(const std::vector<ValidationRow>& rows) {
  PLUMB_CHECK(!rows.empty());
  Accuracy accuracy;
  std::vector<double> errors;
  for (const ValidationRow& row : rows) {
    errors.push_back(std::abs(row.step_error()));
    if (!accuracy.worst || errors.back() > std::abs(accuracy.worst->step_error())) accuracy.worst = &row;
    accuracy.worst_bubble =
        std::max(accuracy.worst_bubble, std::abs(row.predicted.idle_share - row.measured.idle_share));
    accuracy.exact_peaks += row.predicted.peak_activations == row.measured.peak_activations;
  }
  accuracy.rows = rows.size();
  accuracy.median = median(errors);
  accuracy.ranking = ranking_of(rows, 0.02);
  return accuracy;
}

std::string to_text(const std::vector<ValidationRow>& rows) {
  std::string out = render::to_text(table_of(rows));
  if (rows.empty()) return out;
  // "of the steps": by how much a rank's busy time differs for it.
  out += "\n" + render::to_text(class_table(rows));
  const Accuracy accuracy = accuracy_of(rows);
  const ValidationRow& worst = *accuracy.worst;
  out += fmt::format(
      "\nstep time: {:.2f} % off in the median, {} at worst ({}, {} ranks, {} microbatches)\n"
      "bubble: {:.2f} points off at worst\n"
      "peak activations: exact to the byte in {} of {}\n"
      "ranking: right in {} of {} pairs of schedules that are predicted to differ by more than 2 %\n",
      100 * accuracy.median, signed_percent(worst.step_error()), worst.schedule, worst.ranks,
      worst.microbatches, 100 * accuracy.worst_bubble, accuracy.exact_peaks, accuracy.rows,
      accuracy.ranking.right, accuracy.ranking.pairs);
  return out;
}

std::string to_markdown(const std::vector<ValidationRow>& rows) {
  // In the order in which they come: a set is one model on so many ranks.
  std::vector<std::pair<std::string, std::vector<ValidationRow>>> sets;
  for (const ValidationRow& row : rows) {
    const std::string name = fmt::format("{}, {} ranks, {}", row.model, row.ranks, row.transport);
    const auto found =
        std::find_if(sets.begin(), sets.end(), [&](const auto& set) { return set.first == name; });
    (found == sets.end() ? sets.emplace_back(name, std::vector<ValidationRow>{}) : *found)
        .second.push_back(row);
  }
  render::Table table;
  table.head = {
      "steps",           "step time off, median", "at worst", "bubble off, at worst", "faster of two named",
      "peak bytes equal"};
  const auto add = [&](const std::string& name, const std::vector<ValidationRow>& set) {
    const Accuracy accuracy = accuracy_of(set);
    table.rows.push_back({name, fmt::format("{:.2f} %", 100 * accuracy.median),
                          signed_percent(accuracy.worst->step_error()),
                          fmt::format("{:.2f} points", 100 * accuracy.worst_bubble),
                          fmt::format("{} of {}", accuracy.ranking.right, accuracy.ranking.pairs),
                          fmt::format("{} of {}", accuracy.exact_peaks, accuracy.rows)});
  };
  for (const auto& [name, set] : sets) add(name, set);
  if (sets.size() > 1) add(fmt::format("all {}", rows.size()), rows);
  return render::to_markdown(table) + "\n" + render::to_markdown(class_table(rows)) + "\n" +
         render::to_markdown(table_of(rows));
}

}  // namespace plumb::tools
