// A Timeline says when. The simulator predicts one, the executor records one; everything downstream takes
// both.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/op.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

/// One action on its rank. The rank is busy from begin to end (a pair is busy once).
struct ComputeSpan {
  Action action;
  TimePoint begin;
  TimePoint end;
  /// When the input that arrived last left its producer; begin where no input came from another rank. The
  /// wait before begin splits here: until then somebody was still computing it, after it the message was on
  /// its way.
  TimePoint last_input_sent;
  /// The op that made that input; nothing where no input came from another rank.
  std::optional<Op> last_input;
  bool operator==(const ComputeSpan&) const = default;
};

/// A piece of an action on one lane, where its recipe has more than one segment or it is a derived pair.
struct SegmentSpan {
  Op op;
  Lane lane = Lane::compute;
  std::string name;
  TimePoint begin;
  TimePoint end;
  bool operator==(const SegmentSpan&) const = default;
};

/// One message. send_ready <= begin <= end. A receive that is waited for together with its group is posted
/// before its transfer begins; one that is waited for at use may be posted later than the data arrives.
struct MessageSpan {
  Op send;  // SEND_F or SEND_B; the stage is the sender's
  Rank from;
  Rank to;
  TimePoint send_ready;      // its producer released it and the sender launched it
  TimePoint receive_posted;  // the receiver launched the receive
  TimePoint begin;           // the transfer occupies the link from here
  TimePoint end;             // the data is there
  Bytes bytes;
  bool operator==(const MessageSpan&) const = default;
};

struct CollectiveSpan {
  Op op;
  TimePoint begin;  // every participant has arrived
  TimePoint end;
  bool operator==(const CollectiveSpan&) const = default;
};

/// The optimizer's step. It begins when the gradients of every rank are complete: their common norm clips
/// them.
struct UpdateSpan {
  TimePoint begin;
  TimePoint end;
  bool operator==(const UpdateSpan&) const = default;
};

struct RankTimeline {
  std::vector<ComputeSpan> compute;         // in program order, which is time order
  std::vector<SegmentSpan> segments;        // by begin
  std::vector<CollectiveSpan> collectives;  // by begin
  std::optional<UpdateSpan> update;
  bool operator==(const RankTimeline&) const = default;
};

struct Timeline {
  std::string name;
  std::uint32_t stages = 0;
  std::uint32_t microbatches = 0;
  std::vector<RankTimeline> ranks;
  std::vector<MessageSpan> messages;  // by sending rank, then in the order in which it sends
  bool operator==(const Timeline&) const = default;
};

}  // namespace plumb
