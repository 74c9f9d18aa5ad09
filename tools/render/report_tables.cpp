#include "tools/render/report_tables.hpp"

#include "tools/render/palette.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include <fmt/format.h>

namespace plumb::render {
namespace {

constexpr std::array<IdleCause, idle_causes> causes{IdleCause::warm_up, IdleCause::waiting_for_message,
                                                    IdleCause::imbalance, IdleCause::exposed_communication,
                                                    IdleCause::drain};

// value / divisor x 10^power, rounded half away from zero, printed with `digits` behind the point.
std::string decimals(std::int64_t value, std::int64_t divisor, int power, int digits) {
  __extension__ using Wide = __int128;
  const bool negative = value < 0;
  Wide size = negative ? -Wide{value} : Wide{value};
  std::int64_t split = 1;
  for (int k = 0; k < power + digits; ++k) size *= 10;
  for (int k = 0; k < digits; ++k) split *= 10;
  const auto rounded = static_cast<std::int64_t>((size * 2 + divisor) / (Wide{divisor} * 2));
  return fmt::format("{}{}.{:0{}}", negative && rounded > 0 ? "-" : "", rounded / split, rounded % split,
                     digits);
}

}  // namespace

std::string milliseconds(Duration duration) { return decimals(duration.ns, 1'000'000, 0, 3); }
std::string gibibytes(Bytes bytes) { return decimals(bytes.count, std::int64_t{1} << 30, 0, 2); }
std::string percent(Duration part, Duration whole, int digits) {
  if (whole.ns <= 0) return decimals(0, 1, 0, digits);
  return decimals(part.ns, whole.ns, 2, digits);
}

std::string title_of(const ReportInput& input) {
  return input.title.empty() ? input.report.schedule : input.title;
}

Duration compute_of(const Report& report) {
  Duration sum;
  for (const RankReport& rank : report.ranks) sum += rank.compute_busy;
  return sum;
}

Duration idle_of(const Report& report, IdleCause cause) {
  Duration sum;
  for (const RankReport& rank : report.ranks) sum += rank.idle_by_cause[static_cast<std::size_t>(cause)];
  return sum;
}

const RankReport* fullest_rank(const Report& report) {
  const auto fuller = [](const RankReport& a, const RankReport& b) {
    return std::pair(a.peak_bytes.value_or(Bytes{}), a.peak_live_activations) <
           std::pair(b.peak_bytes.value_or(Bytes{}), b.peak_live_activations);
  };
  const auto top = std::max_element(report.ranks.begin(), report.ranks.end(), fuller);
  return top == report.ranks.end() ? nullptr : &*top;
}

std::int64_t activation_share_milli(const Report& report) {
  std::int64_t chunks = 0;
  for (const RankReport& rank : report.ranks) {
    chunks = std::max(chunks, std::int64_t{rank.peak_live_activations});
  }
  if (report.stages == 0) return 0;
  return chunks * 1'000 * static_cast<std::int64_t>(report.ranks.size()) / report.stages;
}

bool in_bytes(const std::vector<ReportInput>& inputs) {
  return !inputs.empty() && std::all_of(inputs.begin(), inputs.end(), [](const ReportInput& input) {
    const RankReport* top = fullest_rank(input.report);
    return top != nullptr && top->peak_bytes.has_value();
  });
}

Table step_table(const std::vector<ReportInput>& inputs) {
  const bool bytes = in_bytes(inputs);
  Table table{{"schedule", "ranks", "stages", "microbatches", "step ms", "span ms", "bubble %", "peak chunks",
               "peak activations of model/ranks"},
              {}};
  if (bytes) table.head.push_back("peak memory GiB");
  for (const ReportInput& input : inputs) {
    const Report& report = input.report;
    Duration idle;
    for (const RankReport& rank : report.ranks) idle += rank.idle;
    std::uint32_t chunks = 0;
    for (const RankReport& rank : report.ranks) chunks = std::max(chunks, rank.peak_live_activations);
    std::vector<std::string> row{title_of(input),
                                 std::to_string(report.ranks.size()),
                                 std::to_string(report.stages),
                                 std::to_string(report.microbatches),
                                 milliseconds(report.step_time),
                                 milliseconds(report.span),
                                 percent(idle, compute_of(report) + idle),
                                 std::to_string(chunks),
                                 decimals(activation_share_milli(report), 1'000, 0, 2)};
    if (bytes) row.push_back(gibibytes(*fullest_rank(report)->peak_bytes));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table cause_table(const std::vector<ReportInput>& inputs) {
  Table table{{"schedule", "ranks x makespan ms", "compute %"}, {}};
  for (const IdleCause cause : causes) table.head.push_back(words(cause) + " %");
  for (const ReportInput& input : inputs) {
    const Report& report = input.report;
    const Duration all = report.makespan * static_cast<std::int64_t>(report.ranks.size());
    std::vector<std::string> row{title_of(input), milliseconds(all), percent(compute_of(report), all)};
    for (const IdleCause cause : causes) row.push_back(percent(idle_of(report, cause), all));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table rank_table(const Report& report) {
  const bool bytes = std::any_of(report.ranks.begin(), report.ranks.end(),
                                 [](const RankReport& rank) { return rank.peak_bytes.has_value(); });
  Table table{{"rank", "busy ms", "idle ms"}, {}};
  for (const IdleCause cause : causes) table.head.push_back(words(cause) + " ms");
  table.head.push_back("peak chunks");
  if (bytes) table.head.push_back("peak memory GiB");
  table.head.push_back("peak at");
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    const RankReport& rank = report.ranks[r];
    std::vector<std::string> row{std::to_string(r), milliseconds(rank.compute_busy), milliseconds(rank.idle)};
    for (const Duration duration : rank.idle_by_cause) row.push_back(milliseconds(duration));
    row.push_back(std::to_string(rank.peak_live_activations));
    if (bytes) row.push_back(rank.peak_bytes ? gibibytes(*rank.peak_bytes) : "");
    row.push_back(rank.peak_action);
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace plumb::render
