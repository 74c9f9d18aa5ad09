// What the executor asks of whatever runs a rank: threads on a CPU, streams of a GPU, or a virtual clock.
//
// Every call launches and may return before the work is done, or even begun: what has to wait for what is in
// the steps themselves. Work launched on one lane (the rank's actions; its sends; its receives) runs in the
// order of the calls. A backend may block inside a call while that is what its order of launching needs (an
// event that another thread has yet to record, a rendezvous), but only in ways in which every message waiting
// for its peer cannot hang: lowered schedules are checked for exactly that.
#pragma once
#include "runtime/rank_program.hpp"
#include "schedules/ir/timeline.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

struct Interval {
  TimePoint begin;
  TimePoint end;
  bool operator==(const Interval&) const = default;
};

/// One message as one of its two ranks saw it.
struct MessageTimes {
  TimePoint posted;  // a send: its data was ready and it was launched; a receive: launched
  /// When the data was moved and when it was there, where this side knows. Of a transfer that both sides time
  /// the receiver's counts; of one whose begin nobody times it is the later of the two `posted`.
  std::optional<TimePoint> begin;
  std::optional<TimePoint> end;
  bool operator==(const MessageTimes&) const = default;
};

/// When everything of one rank's last step ran, since the step began, on one clock for all ranks.
struct StepTimes {
  std::vector<Interval> compute;       // [ComputeStep::position]
  std::vector<MessageTimes> messages;  // [MessageStep::index]
  std::vector<Interval> collectives;   // [ReduceStep::index] begin: every participant had arrived
  std::vector<SegmentSpan>
      segments;  // finer spans, by begin, where the backend has some: a pair's two halves, layers
  std::optional<Interval> update;  // the optimizer's step, where one followed
  bool operator==(const StepTimes&) const = default;
};

/// One rank. Made for one RankProgram (and, where it computes, for the stages that it holds), run again and
/// again.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// Before the first call of a step. All ranks enter it together.
  virtual void begin_step() = 0;
  virtual void compute(const ComputeStep& step) = 0;
  virtual void communicate(const CommStep& step) = 0;
  virtual void reduce(const ReduceStep& step) = 0;
  /// Returns when everything that was launched is done, and where the model's head is tied to its embedding,
  /// the gradients of the matrix that the first and the last stage share are one sum. Throws DeviceError that
  /// names rank and step where the deadline passes first or another rank has failed.
  virtual void finish_step() = 0;
  /// Of the last finished step.
  virtual StepTimes times() = 0;

  /// From any thread: the step is lost, every call that waits or will wait throws DeviceError. It does not
  /// come back.
  virtual void abort() noexcept = 0;
};

}  // namespace plumb
