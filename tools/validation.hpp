// A step as it was predicted beside the same step as it was measured, and where they part.
#pragma once
#include "schedules/ir/timeline.hpp"
#include "sim/report.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb::tools {

/// What is compared of a step.
struct StepFigures {
  Duration step_time;
  double idle_share = 0;
  Bytes peak_activations;          // of the fullest rank, without receive buffers and workspace
  Duration exposed_messages;       // idle time while a message was on its way, of all ranks
  std::uint32_t sm_clock_mhz = 0;  // of the GPU that ranks share; 0: not known
  bool operator==(const StepFigures&) const = default;
};
StepFigures figures_of(const Report& report, Bytes peak_activations);

/// How long the actions of one kind last, on average: `forward`, `backward_input`, `backward_weight`,
/// `backward`, `pair`, and `hop`, from the end of the op that made an input to the begin of the action that
/// waited for it.
struct ClassError {
  std::string name;
  std::uint64_t count = 0;
  Duration predicted;
  Duration measured;
  /// What the difference makes of a rank's busy time: count x (predicted - measured) / ranks. Of a hop, only
  /// where the rank stood idle for it.
  Duration weight;
};
/// Of two timelines of one schedule; classes that do not occur are left out. The largest weight first.
std::vector<ClassError> class_errors(const Timeline& predicted, const Timeline& measured);
/// The same where of the measured step only its classes were kept.
std::vector<ClassError> class_errors(const Timeline& predicted, std::vector<ClassError> measured);

struct ValidationRow {
  std::uint32_t run = 0;  // rows of several runs stand together; they are ranked within one
  std::string schedule;
  std::uint32_t chunks = 1;
  std::string model;
  std::uint32_t ranks = 0;
  std::uint32_t microbatches = 0;
  std::string transport;
  StepFigures predicted;
  StepFigures measured;  // of the median step
  Duration fastest;      // of the measured steps
  Duration slowest;
  Duration preparing;  // memory, kernels, the first step
  /// Of the median step, what runtime/executor_overhead says; nothing in rows of before there was such a
  /// word.
  std::optional<double> executor_overhead;
  std::vector<ClassError> classes;
  /// predicted / measured - 1.
  double step_error() const;
};

/// Over pairs of rows of one run and shape (ranks, microbatches, model): how many are predicted to differ by
/// more than `threshold`, and of how many of them the measurement puts the same one first.
struct Ranking {
  std::uint64_t pairs = 0;
  std::uint64_t right = 0;
};
Ranking ranking_of(const std::vector<ValidationRow>& rows, double threshold);

/// What rows come to. Points into them.
struct Accuracy {
  std::size_t rows = 0;
  double median = 0;  // of |step_error|
  const ValidationRow* worst = nullptr;
  double worst_bubble = 0;  // difference of idle shares
  Ranking ranking;          // beyond 2 %
  std::size_t exact_peaks = 0;
};
/// At least one row.
Accuracy accuracy_of(const std::vector<ValidationRow>& rows);

/// plumb.validation/1.
std::string to_json(const std::vector<ValidationRow>& rows);
/// The reverse. `where` is for messages; throws BadInput.
std::vector<ValidationRow> validation_rows(std::string_view json, std::string_view where);
/// A row a step, then every kind of op over all of them, then what is worst.
std::string to_text(const std::vector<ValidationRow>& rows);
/// Markdown tables with an empty line between them: what each set (one model on so many ranks) comes to,
/// every kind of op, and all rows.
std::string to_markdown(const std::vector<ValidationRow>& rows);

}  // namespace plumb::tools
