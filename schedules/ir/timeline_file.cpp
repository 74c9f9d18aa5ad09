#include "schedules/ir/timeline_file.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/ir/schedule.hpp"

#include <iterator>
#include <ostream>
#include <string>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::string_view schema = "plumb.timeline/1";
constexpr std::int64_t largest = std::int64_t{1} << 53;

TimePoint time_at(const JsonView& view, std::string_view key) {
  return {view.required(key).integer(-largest, largest)};
}

Op op_at(const JsonView& view, std::string_view key) {
  const JsonView token = view.required(key);
  const auto op = parse_op(token.text());
  if (!op) token.fail("is no op token such as 0F3 or 2SEND_B1");
  return *op;
}

Rank rank_at(const JsonView& view, std::string_view key, std::size_t ranks) {
  return Rank{
      static_cast<std::uint32_t>(view.required(key).integer(0, static_cast<std::int64_t>(ranks) - 1))};
}

void check_order(const JsonView& view, TimePoint begin, TimePoint end) {
  if (end < begin) view.fail("ends before it begins");
}

RankTimeline read_rank(const JsonView& view) {
  view.allow_keys({"compute", "segments", "collectives", "update"});
  RankTimeline rank;
  for (const JsonView& entry : view.required("compute").elements()) {
    entry.allow_keys({"action", "begin_ns", "end_ns", "last_input", "last_input_sent_ns"});
    ComputeSpan span;
    const JsonView token = entry.required("action");
    const auto action = parse_action(token.text());
    if (!action) token.fail("is no compute action such as 0F3 or (0F5;3B2)OVERLAP_F_B");
    span.action = *action;
    span.begin = time_at(entry, "begin_ns");
    span.end = time_at(entry, "end_ns");
    check_order(entry, span.begin, span.end);
    span.last_input_sent = span.begin;
    if (entry.member("last_input")) {
      span.last_input = op_at(entry, "last_input");
      span.last_input_sent = time_at(entry, "last_input_sent_ns");
    }
    if (!rank.compute.empty() && span.begin < rank.compute.back().end)
      entry.fail("begins before the one before it ends");
    rank.compute.push_back(span);
  }
  if (const auto segments = view.member("segments")) {
    for (const JsonView& entry : segments->elements()) {
      entry.allow_keys({"op", "lane", "name", "begin_ns", "end_ns"});
      SegmentSpan span{op_at(entry, "op"), Lane::compute, entry.required("name").text(),
                       time_at(entry, "begin_ns"), time_at(entry, "end_ns")};
      const JsonView lane = entry.required("lane");
      if (lane.text() != "compute" && lane.text() != "communication")
        lane.fail("is neither \"compute\" nor \"communication\"");
      if (lane.text() == "communication") span.lane = Lane::communication;
      check_order(entry, span.begin, span.end);
      rank.segments.push_back(span);
    }
  }
  if (const auto collectives = view.member("collectives")) {
    for (const JsonView& entry : collectives->elements()) {
      entry.allow_keys({"op", "begin_ns", "end_ns"});
      const CollectiveSpan span{op_at(entry, "op"), time_at(entry, "begin_ns"), time_at(entry, "end_ns")};
      check_order(entry, span.begin, span.end);
      rank.collectives.push_back(span);
    }
  }
  if (const auto update = view.member("update")) {
    update->allow_keys({"begin_ns", "end_ns"});
    rank.update = UpdateSpan{time_at(*update, "begin_ns"), time_at(*update, "end_ns")};
    check_order(*update, rank.update->begin, rank.update->end);
  }
  return rank;
}

}  // namespace

void write_timeline(std::ostream& out, const Timeline& timeline) {
  std::string text =
      fmt::format("{{\"schema\":\"{}\",\"name\":{},\"stages\":{},\"microbatches\":{},\"ranks\":[", schema,
                  json_quoted(timeline.name), timeline.stages, timeline.microbatches);
  const auto drain = [&](std::size_t keep) {
    if (text.size() < keep) return;
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    text.clear();
  };
  const auto add = [&]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
  };
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    const RankTimeline& rank = timeline.ranks[r];
    text += r ? ",\n{\"compute\":[" : "\n{\"compute\":[";
    const char* comma = "";
    for (const ComputeSpan& span : rank.compute) {
      add("{}{{\"action\":\"{}\",\"begin_ns\":{},\"end_ns\":{}", comma, to_string(span.action), span.begin.ns,
          span.end.ns);
      if (span.last_input)
        add(",\"last_input\":\"{}\",\"last_input_sent_ns\":{}", to_string(*span.last_input),
            span.last_input_sent.ns);
      text += '}';
      comma = ",";
      drain(1 << 16);
    }
    text += "],\"segments\":[";
    comma = "";
    for (const SegmentSpan& span : rank.segments) {
      add("{}{{\"op\":\"{}\",\"lane\":\"{}\",\"name\":{},\"begin_ns\":{},\"end_ns\":{}}}", comma,
          to_string(span.op), span.lane == Lane::compute ? "compute" : "communication",
          json_quoted(span.name), span.begin.ns, span.end.ns);
      comma = ",";
      drain(1 << 16);
    }
    text += "],\"collectives\":[";
    comma = "";
    for (const CollectiveSpan& span : rank.collectives) {
      add("{}{{\"op\":\"{}\",\"begin_ns\":{},\"end_ns\":{}}}", comma, to_string(span.op), span.begin.ns,
          span.end.ns);
      comma = ",";
    }
    text += ']';
    if (rank.update)
      add(",\"update\":{{\"begin_ns\":{},\"end_ns\":{}}}", rank.update->begin.ns, rank.update->end.ns);
    text += '}';
  }
  text += "],\n\"messages\":[";
  const char* comma = "";
  for (const MessageSpan& span : timeline.messages) {
    add("{}{{\"send\":\"{}\",\"from\":{},\"to\":{},\"send_ready_ns\":{},\"receive_posted_ns\":{},\"begin_"
        "ns\":{},\"end_ns\":{},"
        "\"bytes\":{}}}",
        comma, to_string(span.send), span.from.value, span.to.value, span.send_ready.ns,
        span.receive_posted.ns, span.begin.ns, span.end.ns, span.bytes.count);
    comma = ",";
    drain(1 << 16);
  }
  text += "]}\n";
  drain(0);
}

Timeline parse_timeline(std::string_view content, std::string_view where) {
  const JsonDocument document(content, where, schema);
  const JsonView root = document.root();
  root.allow_keys({"schema", "name", "stages", "microbatches", "ranks", "messages"});
  Timeline timeline;
  if (const auto name = root.member("name")) timeline.name = name->text();
  const auto count = [&](const char* key) {
    return static_cast<std::uint32_t>(root.required(key).integer(1, max_ops));
  };
  timeline.stages = count("stages");
  timeline.microbatches = count("microbatches");
  for (const JsonView& rank : root.required("ranks").elements()) timeline.ranks.push_back(read_rank(rank));
  if (timeline.ranks.empty()) root.required("ranks").fail("is empty");
  if (const auto messages = root.member("messages")) {
    for (const JsonView& entry : messages->elements()) {
      entry.allow_keys(
          {"send", "from", "to", "send_ready_ns", "receive_posted_ns", "begin_ns", "end_ns", "bytes"});
      MessageSpan span;
      span.send = op_at(entry, "send");
      if (!is_send(span.send.kind)) entry.required("send").fail("is no SEND_F or SEND_B");
      span.from = rank_at(entry, "from", timeline.ranks.size());
      span.to = rank_at(entry, "to", timeline.ranks.size());
      span.begin = time_at(entry, "begin_ns");
      span.end = time_at(entry, "end_ns");
      check_order(entry, span.begin, span.end);
      span.send_ready = entry.member("send_ready_ns") ? time_at(entry, "send_ready_ns") : span.begin;
      span.receive_posted =
          entry.member("receive_posted_ns") ? time_at(entry, "receive_posted_ns") : span.begin;
      if (const auto bytes = entry.member("bytes")) span.bytes = bytes->bytes();
      timeline.messages.push_back(span);
    }
  }
  return timeline;
}

}  // namespace plumb
