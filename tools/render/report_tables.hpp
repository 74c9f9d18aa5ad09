// What a Report says, as tables: the same for the terminal, Markdown and HTML.
#pragma once
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"
#include "sim/report.hpp"
#include "tools/render/table.hpp"

#include <string>
#include <vector>

namespace plumb::render {

/// One step to report on. Without its timeline no picture is drawn.
struct ReportInput {
  const Report& report;
  const Timeline* timeline = nullptr;
  const MemoryProfile* memory = nullptr;
  std::string title = {};  // default: the schedule's name
};
std::string title_of(const ReportInput& input);

/// Sums of the ranks' figures.
Duration compute_of(const Report& report);
Duration idle_of(const Report& report, IdleCause cause);
/// The rank that needs most: by bytes where the report has them, otherwise by chunks.
const RankReport* fullest_rank(const Report& report);
/// The most live activations of a rank, in thousandths of what one microbatch leaves of model / ranks: chunks
/// x ranks / stages, so that schedules with chunks of different sizes can be compared.
std::int64_t activation_share_milli(const Report& report);
/// Whether every report says its peaks in bytes.
bool in_bytes(const std::vector<ReportInput>& inputs);

/// A row a step: step time, bubble, peak activations and memory of the fullest rank.
Table step_table(const std::vector<ReportInput>& inputs);
/// A row a step: where ranks x makespan goes, in percent; the row adds up to 100.
Table cause_table(const std::vector<ReportInput>& inputs);
/// A row a rank: busy and idle time by cause, peaks and the action that makes them.
Table rank_table(const Report& report);

/// `12.345`: milliseconds to the microsecond, rounded half away from zero.
std::string milliseconds(Duration duration);
/// `9.15`: GiB to two decimals.
std::string gibibytes(Bytes bytes);
/// `12.34`: of a whole, in percent to `digits` decimals; zero of nothing.
std::string percent(Duration part, Duration whole, int digits = 2);

}  // namespace plumb::render
