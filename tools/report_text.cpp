#include "tools/report_text.hpp"

#include "schedules/ir/timeline.hpp"
#include "sim/chrome_trace.hpp"
#include "tools/table.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {

std::string percent(double share) { return fmt::format("{:.2f} %", 100 * share); }
std::string ms(Duration duration) { return fmt::format("{:.3f}", static_cast<double>(duration.ns) / 1e6); }

std::string report_text(const Report& report) {
  std::string out = fmt::format("{}: {} ranks, {} stages, {} microbatches\n\n", report.schedule,
                                report.ranks.size(), report.stages, report.microbatches);
  out += fmt::format("  step time   {}\n  makespan    {}   last compute end - first compute start\n",
                     to_text(report.step_time), to_text(report.makespan));
  out += fmt::format(
      "  span        {}   longest of one rank\n  bubble      {}   idle share of ranks x makespan\n\n",
      to_text(report.span), percent(report.idle_share));
  Table causes({"idle by cause", "ms", "share of makespan"});
  const double total = static_cast<double>(report.makespan.ns) * static_cast<double>(report.ranks.size());
  for (std::size_t c = 0; c < idle_causes; ++c) {
    Duration sum;
    for (const RankReport& rank : report.ranks) sum += rank.idle_by_cause[c];
    std::string name(to_string(static_cast<IdleCause>(c)));
    std::replace(name.begin(), name.end(), '_', ' ');
    causes.add({name, ms(sum), percent(total > 0 ? static_cast<double>(sum.ns) / total : 0)});
  }
  out += causes.text() + "\n";
  const bool bytes = !report.ranks.empty() && report.ranks.front().peak_bytes;
  std::vector<std::string> head{"rank", "busy ms", "idle ms", "span ms", "peak activations"};
  if (bytes) head.push_back("peak memory");
  head.push_back("peak at");
  Table ranks(head);
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    const RankReport& rank = report.ranks[r];
    std::vector<std::string> row{fmt::format("{}", r), ms(rank.compute_busy), ms(rank.idle), ms(rank.span),
                                 fmt::format("{}", rank.peak_live_activations)};
    if (bytes) row.push_back(rank.peak_bytes ? to_text(*rank.peak_bytes) : "");
    row.push_back(rank.peak_action);
    ranks.add(row);
  }
  return out + ranks.text();
}

void warn_of_large_trace(Console& console, const Timeline& timeline) {
  constexpr std::uint64_t comfortable = 1'000'000;
  const std::uint64_t events = count_trace_events({{timeline, nullptr, ""}});
  if (events <= comfortable) return;
  fmt::print(console.err,
             "plumb: the trace has {} events; viewers get slow beyond a million (`plumb trace --only-ranks` "
             "keeps some)\n",
             events);
}

}  // namespace plumb::tools
