#include "sim/chrome_trace.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"
#include "sim/idle.hpp"
#include "sim/live_activations.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <ostream>
#include <queue>
#include <string_view>
#include <utility>

#include <fmt/compile.h>
#include <fmt/format.h>

namespace plumb {
namespace {

// The only colour names that both viewers know; chrome://tracing refuses the whole file over any other.
constexpr std::string_view communication_colour = "grey";
std::string_view colour_of(OpKind kind) {
  switch (kind) {
    case OpKind::forward:
      return "thread_state_running";
    case OpKind::backward_input:
      return "rail_response";
    case OpKind::backward_weight:
      return "thread_state_iowait";
    default:
      return "generic_work";
  }
}
std::string_view colour_of(const Action& action) {
  return action.is_pair() ? "generic_work" : colour_of(action.first().kind);
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      out += c;
    }
  }
  return out;
}

// A time in the format's microseconds, exact to the nanosecond: as doubles, adjacent slices would overlap.
struct Microseconds {
  std::int64_t ns = 0;
};

}  // namespace
}  // namespace plumb

template <>
struct fmt::formatter<plumb::Microseconds> {
  constexpr auto parse(format_parse_context& context) { return context.begin(); }
  template <class Context>
  auto format(plumb::Microseconds time, Context& context) const {
    return fmt::format_to(context.out(), FMT_COMPILE("{}.{:03}"), time.ns / 1000, time.ns % 1000);
  }
};

namespace plumb {
namespace {

// Where events go: into text, or into a count.
class Sink {
 public:
  explicit Sink(std::ostream* out) : out_(out) {}

  template <class Format, class... Args>
  void event(const Format& format, const Args&... args) {
    ++events_;
    if (out_ == nullptr) return;
    buffer_.append(events_ == 1 ? std::string_view("\n") : std::string_view(",\n"));
    fmt::format_to(std::back_inserter(buffer_), format, args...);
    if (buffer_.size() >= flush_at) flush();
  }
  void raw(std::string_view text) {
    if (out_ != nullptr) buffer_.append(text);
  }
  void flush() {
    if (out_ == nullptr) return;
    out_->write(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
    buffer_.clear();
  }
  std::uint64_t events() const { return events_; }

 private:
  static constexpr std::size_t flush_at = 1 << 20;
  std::ostream* out_;
  fmt::memory_buffer buffer_;
  std::uint64_t events_ = 0;
};

// Spreads intervals, given by begin, over as few lanes as they need, lowest first.
class Lanes {
 public:
  std::uint32_t place(TimePoint begin, TimePoint end) {
    while (!busy_.empty() && busy_.top().first <= begin) {
      free_.push(busy_.top().second);
      busy_.pop();
    }
    std::uint32_t lane = count_;
    if (free_.empty()) {
      ++count_;
    } else {
      lane = free_.top();
      free_.pop();
    }
    busy_.emplace(end, lane);
    return lane;
  }
  std::uint32_t count() const { return count_; }

 private:
  template <class T>
  using SmallestFirst = std::priority_queue<T, std::vector<T>, std::greater<>>;
  SmallestFirst<std::pair<TimePoint, std::uint32_t>> busy_;  // by end
  SmallestFirst<std::uint32_t> free_;
  std::uint32_t count_ = 0;
};

// One slice beside the compute thread, still without its name.
struct Placed {
  std::uint32_t index = 0;  // of the message, segment or collective
  std::uint32_t lane = 0;
};

enum class Track : std::uint8_t { send, recv, collective, compute_segments, communication_segments };
constexpr std::size_t tracks = 5;
constexpr std::array<std::string_view, tracks> track_names{"send", "recv", "collective", "compute segments",
                                                           "communication segments"};

// All of a process's slices beside compute and idle, spread over threads.
struct ProcessPlan {
  std::array<std::vector<Placed>, tracks> placed;
  std::array<std::uint32_t, tracks> lanes{};

  // Thread numbers: 0 compute, 1 send, 2 recv, 3 collective, 4 idle, 5 and 6 segments; further lanes from 7
  // on.
  std::uint32_t thread(Track track, std::uint32_t lane) const {
    constexpr std::array<std::uint32_t, tracks> first{1, 2, 3, 5, 6};
    const auto t = static_cast<std::size_t>(track);
    if (lane == 0) return first[t];
    std::uint32_t thread = 7;
    for (std::size_t before = 0; before < t; ++before) thread += lanes[before] > 1 ? lanes[before] - 1 : 0;
    return thread + lane - 1;
  }
  std::uint32_t threads() const {
    std::uint32_t threads = 7;
    for (const std::uint32_t count : lanes) threads += count > 1 ? count - 1 : 0;
    return threads;
  }
};

// The items that take time, by begin, spread over lanes. `span_of(index)` gives begin and end.
template <class SpanOf>
std::uint32_t spread(std::vector<Placed>& items, const SpanOf& span_of) {
  std::erase_if(items, [&](const Placed& p) { return span_of(p.index).first == span_of(p.index).second; });
  std::stable_sort(items.begin(), items.end(), [&](const Placed& a, const Placed& b) {
    return span_of(a.index).first < span_of(b.index).first;
  });
  Lanes lanes;
  for (Placed& item : items) {
    const auto [begin, end] = span_of(item.index);
    item.lane = lanes.place(begin, end);
  }
  return lanes.count();
}

// Where each op that sends or receives stands: its rank's compute span.
class SpanIndex {
 public:
  explicit SpanIndex(const Timeline& timeline)
      : microbatches_(timeline.microbatches),
        spans_(std::size_t{2} * timeline.stages * timeline.microbatches, nullptr) {
    for (const RankTimeline& rank : timeline.ranks) {
      for (const ComputeSpan& span : rank.compute) {
        for (const Op& op : span.action) {
          if (op.kind == OpKind::backward_weight) continue;
          PLUMB_CHECK(op.stage.value < timeline.stages && op.microbatch.value < timeline.microbatches);
          spans_[slot(op.kind == OpKind::forward, op.stage.value, op.microbatch.value)] = &span;
        }
      }
    }
  }
  // The op of this stage that gives or takes the message; nullptr where the timeline does not have it.
  const ComputeSpan* of_message(const Op& message) const {
    const bool forward = message.kind == OpKind::send_forward || message.kind == OpKind::recv_forward;
    const std::size_t at = slot(forward, message.stage.value, message.microbatch.value);
    return message.microbatch.value < microbatches_ && at < spans_.size() ? spans_[at] : nullptr;
  }

 private:
  std::size_t slot(bool forward, std::size_t stage, std::size_t microbatch) const {
    return 2 * (stage * microbatches_ + microbatch) + (forward ? 0 : 1);
  }
  std::size_t microbatches_;
  std::vector<const ComputeSpan*> spans_;
};

class TraceWriter {
 public:
  TraceWriter(Sink& sink, const std::vector<TraceInput>& inputs, const TraceOptions& options)
      : sink_(sink), inputs_(inputs) {
    std::size_t ranks = 0;
    for (const TraceInput& input : inputs) ranks = std::max(ranks, input.timeline.ranks.size());
    kept_.assign(ranks, options.ranks.empty());
    marks_ = options.marks;
    for (const Rank rank : options.ranks) {
      if (rank.value >= ranks) {
        throw BadInput("trace", fmt::format("there is no rank {}: the timeline has {}", rank.value, ranks));
      }
      kept_[rank.value] = true;
    }
    digits_ = std::max<std::size_t>(2, fmt::formatted_size("{}", ranks == 0 ? 0 : ranks - 1));
    for (const TraceInput& input : inputs) {
      begins_.push_back(step_bounds(input.timeline).begin);
      plans_.push_back(plan(input.timeline));
      for (const ProcessPlan& process : plans_.back()) {
        while (process.threads() > thread_stride_) thread_stride_ *= 10;
      }
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      lead_ = std::max(lead_, begins_[i] - earliest(inputs[i].timeline, begins_[i]));
    }
  }

  void write() {
    sink_.raw("{\"displayTimeUnit\":\"ns\",\"otherData\":{");
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const TraceInput& input = inputs_[i];
      sink_.raw(fmt::format("{}\"{}\":\"{}\"", i == 0 ? "" : ",",
                            inputs_.size() == 1 ? "schedule" : fmt::format("schedule {}", i + 1),
                            escaped(input.timeline.name)));
    }
    sink_.raw("},\"traceEvents\":[");
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const auto idle = idle_gaps(inputs_[i].timeline);
      for (std::uint32_t rank = 0; rank < plans_[i].size(); ++rank) {
        if (!kept_[rank]) continue;
        write_names(i, rank);
        write_slices(i, rank, idle[rank]);
        write_counters(i, rank);
      }
    }
    // Behind all slices: a viewer ties a flow's end to the slice that is open at its time.
    for (std::size_t i = 0; i < inputs_.size(); ++i) write_flows(i);
    sink_.raw("\n]}\n");
    sink_.flush();
  }

 private:
  std::vector<ProcessPlan> plan(const Timeline& timeline) const {
    PLUMB_CHECK(timeline.messages.size() < std::numeric_limits<std::uint32_t>::max());
    std::vector<ProcessPlan> plans(timeline.ranks.size());
    const auto list = [&](Rank rank, Track track, std::size_t index) {
      PLUMB_CHECK(rank.value < plans.size());
      if (!kept_[rank.value]) return;
      plans[rank.value].placed[static_cast<std::size_t>(track)].push_back(
          {static_cast<std::uint32_t>(index), 0});
    };
    for (std::size_t m = 0; m < timeline.messages.size(); ++m) {
      list(timeline.messages[m].from, Track::send, m);
      list(timeline.messages[m].to, Track::recv, m);
    }
    for (std::uint32_t r = 0; r < plans.size(); ++r) {
      const RankTimeline& rank = timeline.ranks[r];
      for (std::size_t c = 0; c < rank.collectives.size(); ++c) list(Rank{r}, Track::collective, c);
      for (std::size_t s = 0; s < rank.segments.size(); ++s) {
        list(Rank{r},
             rank.segments[s].lane == Lane::compute ? Track::compute_segments : Track::communication_segments,
             s);
      }
      const auto in = [](const auto& spans) {
        return [&spans](std::uint32_t index) { return std::pair(spans[index].begin, spans[index].end); };
      };
      auto& placed = plans[r].placed;
      plans[r].lanes = {spread(placed[0], in(timeline.messages)), spread(placed[1], in(timeline.messages)),
                        spread(placed[2], in(rank.collectives)), spread(placed[3], in(rank.segments)),
                        spread(placed[4], in(rank.segments))};
    }
    return plans;
  }

  static TimePoint earliest(const Timeline& timeline, TimePoint begin) {
    for (const MessageSpan& message : timeline.messages) begin = std::min(begin, message.send_ready);
    for (const RankTimeline& rank : timeline.ranks) {
      for (const CollectiveSpan& span : rank.collectives) begin = std::min(begin, span.begin);
      for (const SegmentSpan& span : rank.segments) begin = std::min(begin, span.begin);
    }
    return begin;
  }

  std::uint64_t pid(std::size_t input, std::uint32_t rank) const { return inputs_.size() * rank + input; }
  std::uint64_t tid(std::size_t input, std::uint32_t rank, std::uint32_t thread) const {
    return (pid(input, rank) + 1) * thread_stride_ + thread;
  }
  // The timelines stand on one axis: the first compute op of each at the same time, nothing before 0.
  Microseconds at(std::size_t input, TimePoint time) const { return {(time - begins_[input] + lead_).ns}; }

  void write_names(std::size_t i, std::uint32_t rank) {
    const TraceInput& input = inputs_[i];
    const std::uint64_t process = pid(i, rank);
    sink_.event(
        FMT_COMPILE(
            R"({{"ph":"M","pid":{0},"tid":{1},"name":"process_name","args":{{"name":"rank {2:0{3}}{4}"}}}})"),
        process, tid(i, rank, compute_thread), rank, digits_,
        input.label.empty() ? std::string() : fmt::format(" {}", escaped(input.label)));
    sink_.event(
        FMT_COMPILE(
            R"({{"ph":"M","pid":{0},"tid":{1},"name":"process_sort_index","args":{{"sort_index":{0}}}}})"),
        process, tid(i, rank, compute_thread));
    int order = 0;
    const auto name_thread = [&](std::uint32_t thread, std::string_view name, std::uint32_t lane) {
      sink_.event(
          FMT_COMPILE(R"({{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":"{}{}"}}}})"),
          process, tid(i, rank, thread), name, lane == 0 ? std::string() : fmt::format(" {}", lane + 1));
      sink_.event(
          FMT_COMPILE(
              R"({{"ph":"M","pid":{},"tid":{},"name":"thread_sort_index","args":{{"sort_index":{}}}}})"),
          process, tid(i, rank, thread), order++);
    };
    const ProcessPlan& plan = plans_[i][rank];
    const auto name_track = [&](Track track) {
      const auto t = static_cast<std::size_t>(track);
      for (std::uint32_t lane = 0; lane < plan.lanes[t]; ++lane) {
        name_thread(plan.thread(track, lane), track_names[t], lane);
      }
    };
    name_thread(compute_thread, "compute", 0);
    name_track(Track::compute_segments);
    name_track(Track::communication_segments);
    name_thread(idle_thread, "idle", 0);
    name_track(Track::send);
    name_track(Track::recv);
    name_track(Track::collective);
  }

  void write_slices(std::size_t i, std::uint32_t rank, const std::vector<IdleSlice>& idle) {
    const Timeline& timeline = inputs_[i].timeline;
    const RankTimeline& own = timeline.ranks[rank];
    const ProcessPlan& plan = plans_[i][rank];
    const std::uint64_t process = pid(i, rank);
    const auto slice = [&](std::uint32_t thread, std::string_view name, std::string_view category,
                           TimePoint begin, TimePoint end, std::string_view colour, std::string_view args) {
      sink_.event(
          FMT_COMPILE(
              R"({{"ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"name":"{}","cat":"{}"{}{}{},"args":{{{}}}}})"),
          process, tid(i, rank, thread), at(i, begin), Microseconds{(end - begin).ns}, name, category,
          colour.empty() ? "" : R"(,"cname":")", colour, colour.empty() ? "" : "\"", args);
    };

    fmt::memory_buffer args;
    const auto arguments = [&](const auto& format, const auto&... values) {
      args.clear();
      fmt::format_to(std::back_inserter(args), format, values...);
      return std::string_view(args.data(), args.size());
    };
    std::string name;
    for (const ComputeSpan& span : own.compute) {
      if (span.begin == span.end) continue;
      name.clear();
      append(name, span.action);
      const Op& op = span.action.first();
      if (span.action.is_pair()) {
        const Op& other = span.action.second();
        slice(compute_thread, name, "compute", span.begin, span.end, colour_of(span.action),
              arguments(
                  FMT_COMPILE(R"("stage":{},"microbatch":{},"backward stage":{},"backward microbatch":{})"),
                  op.stage.value, op.microbatch.value, other.stage.value, other.microbatch.value));
      } else {
        slice(compute_thread, name, "compute", span.begin, span.end, colour_of(span.action),
              arguments(FMT_COMPILE(R"("stage":{},"microbatch":{})"), op.stage.value, op.microbatch.value));
      }
    }
    if (own.update && own.update->begin < own.update->end) {
      slice(compute_thread, "optimizer", "optimizer", own.update->begin, own.update->end, {}, {});
    }
    for (const TraceMark& mark : marks_) {
      if (i != 0 || mark.rank.value != rank) continue;
      sink_.event(FMT_COMPILE(R"({{"ph":"i","s":"t","pid":{},"tid":{},"ts":{},"name":"{}","cat":"mark"}})"),
                  process, tid(i, rank, compute_thread), at(i, mark.time), escaped(mark.name));
    }
    for (const IdleSlice& gap : idle) {
      slice(idle_thread, to_string(gap.cause), "idle", gap.begin, gap.end, {}, {});
    }
    const auto each = [&](Track track, const auto& use) {
      for (const Placed& placed : plan.placed[static_cast<std::size_t>(track)]) {
        use(placed.index, plan.thread(track, placed.lane));
      }
    };
    const auto write_segment = [&](std::uint32_t index, std::uint32_t thread) {
      const SegmentSpan& span = own.segments[index];
      name.clear();
      append(name, span.op);
      name += ' ';
      name += escaped(span.name);
      slice(thread, name, "segment", span.begin, span.end,
            span.lane == Lane::compute ? colour_of(span.op.kind) : communication_colour,
            arguments(FMT_COMPILE(R"("stage":{},"microbatch":{})"), span.op.stage.value,
                      span.op.microbatch.value));
    };
    each(Track::compute_segments, write_segment);
    each(Track::communication_segments, write_segment);
    each(Track::send, [&](std::uint32_t index, std::uint32_t thread) {
      const MessageSpan& span = timeline.messages[index];
      name.clear();
      append(name, span.send);
      slice(thread, name, "message", span.begin, span.end, communication_colour,
            arguments(FMT_COMPILE(R"("to rank":{},"bytes":{},"ready at us":{})"), span.to.value,
                      span.bytes.count, at(i, span.send_ready)));
    });
    each(Track::recv, [&](std::uint32_t index, std::uint32_t thread) {
      const MessageSpan& span = timeline.messages[index];
      name.clear();
      append(name, recv_of(carried_by(span.send)));
      slice(thread, name, "message", span.begin, span.end, communication_colour,
            arguments(FMT_COMPILE(R"("from rank":{},"bytes":{})"), span.from.value, span.bytes.count));
    });
    each(Track::collective, [&](std::uint32_t index, std::uint32_t thread) {
      const CollectiveSpan& span = own.collectives[index];
      name.clear();
      append(name, span.op);
      slice(thread, name, "collective", span.begin, span.end, communication_colour,
            arguments(FMT_COMPILE(R"("stage":{})"), span.op.stage.value));
    });
  }

  void write_counter(std::size_t i, std::uint32_t rank, TimePoint time, std::string_view name,
                     std::string_view unit, double value) {
    // The compute thread's id: a counter without one would be taken for thread 0 of its process.
    sink_.event(FMT_COMPILE(R"({{"ph":"C","pid":{},"tid":{},"ts":{},"name":"{}","args":{{"{}":{}}}}})"),
                pid(i, rank), tid(i, rank, compute_thread), at(i, time), name, unit, value);
  }

  void write_counters(std::size_t i, std::uint32_t rank) {
    const TraceInput& input = inputs_[i];
    const RankMemory* memory = nullptr;
    if (input.memory != nullptr && rank < input.memory->ranks.size() &&
        input.memory->ranks[rank].peak.total() != Bytes{}) {
      memory = &input.memory->ranks[rank];
    }
    for (const LivePoint& point : live_activations(input.timeline.ranks[rank], input.timeline.microbatches)) {
      if (memory == nullptr) write_counter(i, rank, point.time, "activations", "chunks", point.chunks);
      write_counter(i, rank, point.time, "in-flight", "microbatches", point.microbatches);
    }
    if (memory == nullptr) return;

    const MemoryBreakdown& peak = memory->peak;
    const Bytes always = peak[MemoryUse::weights] + peak[MemoryUse::gradients] + peak[MemoryUse::optimizer] +
                         peak[MemoryUse::reserve];
    for (const MemoryPoint& point : memory->curve) {
      const TimePoint time = std::max(point.time, begins_[i] - lead_);
      const auto gib = [](Bytes bytes) { return static_cast<double>(bytes.count) / (1 << 30); };
      write_counter(i, rank, time, "activations", "GiB", gib(point.bytes - always));
      if (always != Bytes{}) write_counter(i, rank, time, "memory", "GiB", gib(point.bytes));
    }
  }

  // At a slice's very begin chrome://tracing would tie a flow to the slice that ends there.
  static TimePoint just_inside(TimePoint begin, TimePoint end) {
    return std::min(begin + Duration{1}, std::max(begin, end - Duration{1}));
  }

  void write_flows(std::size_t i) {
    const Timeline& timeline = inputs_[i].timeline;
    const SpanIndex spans(timeline);
    // A message's thread on both sides, by its index.
    constexpr std::uint32_t none = 0xffffffff;
    std::vector<std::array<std::uint32_t, 2>> threads(timeline.messages.size(), {none, none});
    for (const ProcessPlan& plan : plans_[i]) {
      for (const Placed& sent : plan.placed[static_cast<std::size_t>(Track::send)]) {
        threads[sent.index][0] = plan.thread(Track::send, sent.lane);
      }
      for (const Placed& received : plan.placed[static_cast<std::size_t>(Track::recv)]) {
        threads[received.index][1] = plan.thread(Track::recv, received.lane);
      }
    }
    for (std::size_t m = 0; m < timeline.messages.size(); ++m) {
      const MessageSpan& message = timeline.messages[m];
      if (!kept_[message.from.value] || !kept_[message.to.value]) continue;
      TimePoint leaves = just_inside(message.begin, message.end);
      TimePoint arrives = leaves;
      auto [send_thread, recv_thread] = threads[m];
      if (message.begin == message.end) {
        const ComputeSpan* producer = spans.of_message(message.send);
        const ComputeSpan* consumer = spans.of_message(recv_of(carried_by(message.send)));
        if (producer == nullptr || consumer == nullptr) continue;
        // Nothing can lie inside a slice that takes no time.
        if (producer->begin == producer->end || consumer->begin == consumer->end) continue;
        leaves = std::clamp(message.begin, producer->begin, producer->end - Duration{1});
        arrives = just_inside(consumer->begin, consumer->end);
        send_thread = recv_thread = compute_thread;
      }
      const std::string_view name = carried_by(message.send).product == Product::activation ? "act" : "grad";
      const std::uint64_t id = ++flows_;
      sink_.event(
          FMT_COMPILE(R"({{"ph":"s","pid":{},"tid":{},"ts":{},"id":{},"name":"{}","cat":"message"}})"),
          pid(i, message.from.value), tid(i, message.from.value, send_thread), at(i, leaves), id, name);
      sink_.event(
          FMT_COMPILE(
              R"({{"ph":"f","bp":"e","pid":{},"tid":{},"ts":{},"id":{},"name":"{}","cat":"message"}})"),
          pid(i, message.to.value), tid(i, message.to.value, recv_thread), at(i, arrives), id, name);
    }
  }

  static constexpr std::uint32_t compute_thread = 0;
  static constexpr std::uint32_t idle_thread = 4;

  Sink& sink_;
  const std::vector<TraceInput>& inputs_;
  std::vector<TraceMark> marks_;
  std::vector<bool> kept_;                       // [rank]
  std::vector<TimePoint> begins_;                // [input]
  std::vector<std::vector<ProcessPlan>> plans_;  // [input][rank]
  Duration lead_;                                // what was drawn before the first compute op, at most
  std::uint64_t thread_stride_ = 100;
  std::uint64_t flows_ = 0;
  std::size_t digits_ = 2;
};

}  // namespace

void write_chrome_trace(std::ostream& out, const std::vector<TraceInput>& inputs,
                        const TraceOptions& options) {
  Sink sink(&out);
  TraceWriter(sink, inputs, options).write();
}

std::uint64_t count_trace_events(const std::vector<TraceInput>& inputs, const TraceOptions& options) {
  Sink sink(nullptr);
  TraceWriter(sink, inputs, options).write();
  return sink.events();
}

}  // namespace plumb
