#include "tools/report_text.hpp"

#include "schedules/ir/timeline.hpp"
#include "sim/chrome_trace.hpp"
#include "tools/render/report_tables.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {

std::string report_text(const Report& report) {
  std::string out = fmt::format("{}: {} ranks, {} stages, {} microbatches\n\n", report.schedule,
                                report.ranks.size(), report.stages, report.microbatches);
  out += fmt::format("  step time  {:>12}\n", to_text(report.step_time));
  out +=
      fmt::format("  makespan   {:>12}   last compute end - first compute start\n", to_text(report.makespan));
  out += fmt::format("  span       {:>12}   the longest of one rank\n", to_text(report.span));
  out += fmt::format("  bubble     {:>10.2f} %   idle share of ranks x makespan\n", 100 * report.idle_share);
  if (report.tokens_per_s)
    out += fmt::format("  tokens/s   {:>12.0f}   of the whole job\n", *report.tokens_per_s);
  if (report.mfu)
    out += fmt::format("  MFU        {:>10.2f} %   model FLOPs of the peak; no recompute counted\n",
                       100 * *report.mfu);
  if (!report.sources.empty()) {
    out += "  sources   ";
    for (const auto& [figure, source] : report.sources) out += fmt::format(" {} {};", figure, source);
    out.back() = '\n';
  }
  out += '\n';
  out += "Where ranks x makespan goes, in percent:\n\n" + to_text(render::cause_table({{report}}));
  return out + "\n" + to_text(render::rank_table(report));
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
