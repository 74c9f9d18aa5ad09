#include "runtime/record_exchange.hpp"

#include "schedules/ir/error.hpp"

#include <cstring>
#include <type_traits>

namespace plumb {
namespace {

// Stands at the front: another version of the program has another.
constexpr std::uint32_t mark = 0x53545032;

class Writer {
 public:
  template <class Number>
  void number(Number value) {
    static_assert(std::is_arithmetic_v<Number> || std::is_enum_v<Number>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void time(TimePoint time) { number(time.ns); }
  void time(const std::optional<TimePoint>& at) {
    number(static_cast<std::uint8_t>(at.has_value()));
    if (at) time(*at);
  }
  void interval(const Interval& interval) {
    time(interval.begin);
    time(interval.end);
  }
  void op(const Op& op) {
    number(op.stage.value);
    number(op.microbatch.value);
    number(op.kind);
  }
  void text(std::string_view text) {
    number(static_cast<std::uint32_t>(text.size()));
    bytes_ += text;
  }
  template <class Items, class Each>
  void all(const Items& items, Each each) {
    number(static_cast<std::uint32_t>(items.size()));
    for (const auto& item : items) each(item);
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <class Number>
  Number number() {
    Number value{};
    std::memcpy(&value, piece(sizeof value).data(), sizeof value);
    return value;
  }
  TimePoint time() { return {number<std::int64_t>()}; }
  std::optional<TimePoint> maybe_time() {
    if (number<std::uint8_t>() == 0) return std::nullopt;
    return time();
  }
  Interval interval() {
    const TimePoint begin = time();
    return {begin, time()};
  }
  Op op() {
    const Stage stage{number<std::uint32_t>()};
    const Microbatch microbatch{number<std::uint32_t>()};
    return {stage, microbatch, number<OpKind>()};
  }
  std::string text() {
    const auto size = number<std::uint32_t>();
    return std::string(piece(size));
  }
  template <class Each>
  void all(Each each) {
    const auto count = number<std::uint32_t>();
    for (std::uint32_t i = 0; i < count; ++i) each();
  }
  void end() const {
    if (!bytes_.empty()) bad();
  }
  [[noreturn]] static void bad() {
    throw DeviceError(
        "a rank's record of the step is not what this program writes; do all ranks run the same one?");
  }

 private:
  std::string_view piece(std::size_t size) {
    if (bytes_.size() < size) bad();
    const std::string_view piece = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return piece;
  }
  std::string_view bytes_;
};

}  // namespace

std::string to_bytes(const StepTimes& times) {
  Writer out;
  out.number(mark);
  out.all(times.compute, [&](const Interval& interval) { out.interval(interval); });
  out.all(times.messages, [&](const MessageTimes& message) {
    out.time(message.posted);
    out.time(message.begin);
    out.time(message.end);
  });
  out.all(times.collectives, [&](const Interval& interval) { out.interval(interval); });
  out.all(times.segments, [&](const SegmentSpan& span) {
    out.op(span.op);
    out.number(span.lane);
    out.text(span.name);
    out.time(span.begin);
    out.time(span.end);
  });
  out.number(static_cast<std::uint8_t>(times.update.has_value()));
  if (times.update) out.interval(*times.update);
  return out.take();
}

StepTimes times_from_bytes(std::string_view bytes) {
  Reader in(bytes);
  if (in.number<std::uint32_t>() != mark) Reader::bad();
  StepTimes times;
  in.all([&] { times.compute.push_back(in.interval()); });
  in.all([&] {
    MessageTimes& message = times.messages.emplace_back();
    message.posted = in.time();
    message.begin = in.maybe_time();
    message.end = in.maybe_time();
  });
  in.all([&] { times.collectives.push_back(in.interval()); });
  in.all([&] {
    SegmentSpan& span = times.segments.emplace_back();
    span.op = in.op();
    span.lane = in.number<Lane>();
    span.name = in.text();
    span.begin = in.time();
    span.end = in.time();
  });
  if (in.number<std::uint8_t>() != 0) times.update = in.interval();
  in.end();
  return times;
}

std::vector<StepTimes> gather_times(Rendezvous& rendezvous, const StepTimes& own) {
  std::vector<StepTimes> all;
  for (const std::string& bytes : rendezvous.gather(to_bytes(own))) all.push_back(times_from_bytes(bytes));
  return all;
}

}  // namespace plumb
