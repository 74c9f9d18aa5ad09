#include "calibrate/kineto_trace.hpp"

#include "calibrate/gzip.hpp"
#include "calibrate/profile_text.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>
#include <map>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

constexpr int deepest = 64;
constexpr std::size_t longest_token = 32u << 20;
constexpr std::size_t most_events = 60'000'000;  // of those that are kept
constexpr Duration wait{20'000};                 // a gap that is no launch latency

struct Label {
  Op op;                       // of a single op
  std::optional<Action> pair;  // of an overlapped pair
  TimePoint begin;
  TimePoint end;
  std::uint32_t parent = 0;  // index + 1 of the label around it; 0: none
};

struct Launch {
  std::int64_t correlation = 0;
  TimePoint at;
  bool operator<(const Launch& other) const {
    return correlation != other.correlation ? correlation < other.correlation : at < other.at;
  }
};

struct Kernel {
  std::int64_t correlation = 0;
  TimePoint begin;
  TimePoint end;
  std::uint32_t communication = 0;  // index + 1 of its kind's name; 0: it computes
  std::uint32_t label = 0;          // index + 1
  Bytes bytes;
};

// The event that is being read, as much of it as matters.
struct Event {
  std::string phase, category, name, process;
  std::optional<TimePoint> begin;
  std::optional<Duration> duration;
  std::optional<std::int64_t> correlation;
  std::int64_t elements = 0;
  std::string element_type;
  std::string collective;
};

// Microseconds as decimal text to nanoseconds, exactly where there are no more than three decimals.
std::optional<std::int64_t> nanoseconds(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const auto dot = text.find('.');
  const std::string_view whole = text.substr(0, dot);
  std::string_view rest = dot == std::string_view::npos ? "" : text.substr(dot + 1);
  if (text.find_first_of("eE") != std::string_view::npos || whole.size() > 15) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || !(value < 9e15)) return std::nullopt;
    return std::llround(value * (negative ? -1e3 : 1e3));
  }
  std::int64_t ns = 0;
  for (const char c : whole) ns = ns * 10 + (c - '0');
  for (int k = 0; k < 3; ++k) {
    ns *= 10;
    if (rest.empty()) continue;
    ns += rest.front() - '0';
    rest.remove_prefix(1);
  }
  if (!rest.empty() && rest.front() >= '5') ++ns;
  return negative ? -ns : ns;
}

std::int64_t bytes_of(std::string_view type) {
  constexpr std::array<std::pair<std::string_view, std::int64_t>, 12> sizes{{{"BFloat16", 2},
                                                                             {"Half", 2},
                                                                             {"Float", 4},
                                                                             {"Double", 8},
                                                                             {"Long", 8},
                                                                             {"Int", 4},
                                                                             {"Short", 2},
                                                                             {"Char", 1},
                                                                             {"Byte", 1},
                                                                             {"Bool", 1},
                                                                             {"Float8_e4m3fn", 1},
                                                                             {"Float8_e5m2", 1}}};
  for (const auto& [name, size] : sizes) {
    if (name == type) return size;
  }
  return 0;
}

// NCCL's kernels by their names: `ncclDevKernel_SendRecv(…)`, `ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)`.
// An all-to-all is a kernel of sends and receives; the profile names it.
std::string communication_of(const Event& event) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kinds{
      {{"SendRecv", "send_recv"},
       {"AllReduce", "all_reduce"},
       {"ReduceScatter", "reduce_scatter"},
       {"AllGather", "all_gather"},
       {"Broadcast", "broadcast"},
       {"Reduce", "reduce"}}};
  if (!event.name.starts_with("nccl")) return "";
  if (event.collective.find("all_to_all") != std::string::npos ||
      event.collective.find("alltoall") != std::string::npos) {
    return "all_to_all";
  }
  for (const auto& [mark, kind] : kinds) {
    if (event.name.find(mark) != std::string::npos) return std::string(kind);
  }
  return "other_nccl";
}

// Walks through the document and keeps what is needed of each event.
class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  Reader(KinetoTrace& trace, std::size_t& since_token) : trace_(trace), since_token_(since_token) {}

  std::vector<Label> labels;
  std::vector<Launch> launches;
  std::vector<Kernel> kernels;
  std::vector<std::string> communications;
  std::string error;  // of the JSON itself
  std::size_t error_at = 0;

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t v) override { return integer(v); }
  bool number_unsigned(number_unsigned_t v) override {
    return integer(v > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(v));
  }
  bool number_float(number_float_t v, const string_t& text) override {
    if (in_event() && depth_ == event_depth_ && (key_ == "ts" || key_ == "dur")) {
      time(nanoseconds(text));
    } else if (in_event() && key_ == "correlation" && v >= 0 && v < 9e15) {
      event_.correlation = static_cast<std::int64_t>(v);
    }
    return value();
  }
  bool string(string_t& text) override {
    if (in_event()) {
      if (depth_ == event_depth_) {
        if (key_ == "ph") event_.phase = text;
        if (key_ == "cat") event_.category = text;
        if (key_ == "name") event_.name = text;
        if (key_ == "pid") event_.process = text;
        if (key_ == "ts" || key_ == "dur") fail(fmt::format("an event's \"{}\" is a text", key_));
      } else if (depth_ == event_depth_ + 1) {
        if (key_ == "dtype") event_.element_type = text;
        if (key_ == "Collective name") event_.collective = text;
      }
    } else if (section_ == "deviceProperties" && key_ == "name" && trace_.gpu.empty()) {
      trace_.gpu = text.substr(0, 200);
    } else if (section_ == "distributedInfo" && key_ == "nccl_version") {
      trace_.nccl = text.substr(0, 60);
    }
    return value();
  }
  bool binary(binary_t&) override { return value(); }

  bool start_object(std::size_t) override {
    open();
    if (depth_ == event_depth_) event_ = {};
    return true;
  }
  bool key(string_t& name) override {
    since_token_ = 0;
    key_ = name;
    if (depth_ == 1) section_ = name;
    return true;
  }
  bool end_object() override {
    since_token_ = 0;
    if (in_event() && depth_ == event_depth_) keep();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    open();
    // The events: of the key "traceEvents", or the whole document is the list.
    if (event_depth_ == 0 && (depth_ == 1 || (depth_ == 2 && section_ == "traceEvents")))
      event_depth_ = depth_ + 1;
    return true;
  }
  bool end_array() override {
    since_token_ = 0;
    if (event_depth_ == depth_ + 1) event_depth_ = 0;
    --depth_;
    return true;
  }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception& e) override {
    error = e.what();
    if (const auto end = error.find("] "); end != std::string::npos) error.erase(0, end + 2);
    error_at = at;
    return false;
  }

 private:
  bool in_event() const { return event_depth_ != 0 && depth_ >= event_depth_; }

  bool value() {
    since_token_ = 0;
    return true;
  }
  void open() {
    since_token_ = 0;
    if (++depth_ > deepest) fail(fmt::format("is nested deeper than {} levels", deepest));
  }
  [[noreturn]] void fail(const std::string& what) const { throw BadInput(trace_.where, what); }

  bool integer(std::int64_t v) {
    if (in_event()) {
      if (depth_ == event_depth_ && (key_ == "ts" || key_ == "dur")) {
        constexpr std::int64_t most = INT64_MAX / 2000;
        time(v > most || v < -most ? std::nullopt : std::optional(v * 1000));
      } else if (depth_ == event_depth_ && key_ == "pid") {
        event_.process = std::to_string(v);
      } else if (depth_ == event_depth_ + 1) {
        if (key_ == "correlation") event_.correlation = v;
        if (key_ == "In msg nelems" || key_ == "Out msg nelems")
          event_.elements = std::max(event_.elements, v);
      }
    } else if (section_ == "distributedInfo" && depth_ == 2) {
      const bool sane = v >= 0 && v < 1'000'000;
      if (key_ == "rank" && sane) trace_.rank = static_cast<std::uint32_t>(v);
      if (key_ == "world_size" && sane) trace_.ranks = static_cast<std::uint32_t>(v);
    } else if (section_ == "deviceProperties") {
      if (key_ == "numSms" && trace_.sms == 0 && v > 0 && v < 100'000)
        trace_.sms = static_cast<std::uint32_t>(v);
      if (key_ == "totalGlobalMem" && trace_.gpu_memory.count == 0 && v > 0 && v < std::int64_t{1} << 53) {
        trace_.gpu_memory = {v};
      }
    } else if (depth_ == 1 && v > 0 && v < 1'000'000) {
      // 13000 is 13.0
      if (key_ == "cuda_runtime_version") trace_.cuda = fmt::format("{}.{}", v / 1000, v % 1000 / 10);
      if (key_ == "cuda_driver_version") trace_.driver = fmt::format("CUDA {}.{}", v / 1000, v % 1000 / 10);
    }
    return value();
  }

  void time(std::optional<std::int64_t> ns) {
    if (!ns) fail(fmt::format("an event's \"{}\" is out of range", key_));
    if (key_ == "ts") {
      event_.begin = TimePoint{*ns};
    } else {
      if (*ns < 0) fail("an event's \"dur\" is negative");
      event_.duration = Duration{*ns};
    }
  }

  void keep() {
    if (event_.phase != "X" || !event_.begin || !event_.duration) return;
    if (labels.size() + launches.size() + kernels.size() > most_events) {
      fail(fmt::format("holds more than {} events; record fewer steps", most_events));
    }
    const TimePoint end = *event_.begin + *event_.duration;
    const std::string& category = event_.category;
    if (category == "user_annotation" || category == "cpu_op") {
      if (event_.name.starts_with("PP:")) keep_label(std::string_view(event_.name).substr(3), end);
    } else if (category == "cuda_runtime" || category == "cuda_driver") {
      if (event_.correlation) launches.push_back({*event_.correlation, *event_.begin});
    } else if (category == "kernel" || category == "gpu_memcpy" || category == "gpu_memset") {
      keep_kernel(end);
    }
  }

  void keep_label(std::string_view token, TimePoint end) {
    Label label;
    label.begin = *event_.begin;
    label.end = end;
    if (const auto action = parse_action(token); action && action->is_pair()) {
      label.pair = *action;
    } else if (const auto op = parse_op(token)) {
      label.op = *op;
    } else {
      return;  // PyTorch labels other things of its pipelines, too
    }
    // Two ranks' labels stand across each other, and their launches' ids are the same numbers.
    if (labels.empty()) labelled_by_ = event_.process;
    if (event_.process != labelled_by_) {
      fail(fmt::format("holds actions of two processes, {} and {}: give each rank's own profile",
                       labelled_by_, event_.process));
    }
    labels.push_back(label);
  }

  void keep_kernel(TimePoint end) {
    Kernel kernel;
    kernel.correlation = event_.correlation.value_or(-1);
    kernel.begin = *event_.begin;
    kernel.end = end;
    if (const std::string kind = communication_of(event_); !kind.empty()) {
      auto found = std::find(communications.begin(), communications.end(), kind);
      if (found == communications.end()) found = communications.insert(communications.end(), kind);
      kernel.communication = static_cast<std::uint32_t>(found - communications.begin()) + 1;
      const std::int64_t size = bytes_of(event_.element_type);
      if (event_.elements > 0 && event_.elements < std::int64_t{1} << 50)
        kernel.bytes = {event_.elements * size};
    }
    kernels.push_back(kernel);
  }

  KinetoTrace& trace_;
  std::size_t& since_token_;
  int depth_ = 0;
  int event_depth_ = 0;  // where an event's own members are; 0: not among the events
  std::string section_;  // key of the root
  std::string key_;
  Event event_;
  std::string labelled_by_;  // the process whose actions these are
};

// Characters of the stream; refuses a token that would fill the memory.
class Characters {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  Characters() = default;
  Characters(std::streambuf& buffer, const std::string& where, std::size_t& since_token)
      : buffer_(&buffer), where_(&where), since_token_(&since_token) {}

  char operator*() const { return static_cast<char>(buffer_->sgetc()); }
  Characters& operator++() {
    if (++*since_token_ > longest_token) {
      throw BadInput(*where_, fmt::format("has {} MiB without a value in them", longest_token >> 20));
    }
    buffer_->sbumpc();
    return *this;
  }
  Characters operator++(int) {
    Characters before = *this;
    ++*this;
    return before;
  }
  bool operator==(const Characters& other) const { return at_end() == other.at_end(); }
  bool operator!=(const Characters& other) const { return !(*this == other); }

 private:
  bool at_end() const { return buffer_ == nullptr || buffer_->sgetc() == std::streambuf::traits_type::eof(); }
  std::streambuf* buffer_ = nullptr;
  const std::string* where_ = nullptr;
  std::size_t* since_token_ = nullptr;
};

// Labels in order, each with the one around it: PyTorch labels an overlapped pair and, inside it, its two
// ops.
void nest(std::vector<Label>& labels) {
  std::stable_sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  std::vector<std::uint32_t> open;
  for (std::uint32_t k = 0; k < labels.size(); ++k) {
    while (!open.empty() && labels[open.back() - 1].end < labels[k].end) open.pop_back();
    labels[k].parent = open.empty() ? 0 : open.back();
    open.push_back(k + 1);
  }
}

// The innermost label that holds the moment, as index + 1; 0: none.
std::uint32_t label_at(const std::vector<Label>& labels, TimePoint at) {
  const auto after = std::upper_bound(labels.begin(), labels.end(), at,
                                      [](TimePoint t, const Label& l) { return t < l.begin; });
  auto k = static_cast<std::uint32_t>(after - labels.begin());
  while (k != 0 && labels[k - 1].end < at) k = labels[k - 1].parent;
  return k;
}

// Time from the first begin to the last end, without gaps of `longest_gap` or more.
Duration active(std::vector<std::pair<TimePoint, TimePoint>>& intervals, Duration longest_gap) {
  std::sort(intervals.begin(), intervals.end());
  Duration sum;
  TimePoint reached;
  for (std::size_t k = 0; k < intervals.size(); ++k) {
    const auto& [begin, end] = intervals[k];
    if (k == 0 || begin - reached >= longest_gap) {
      sum += end - begin;
    } else if (end > reached) {
      sum += end - reached;
    }
    reached = k == 0 ? end : std::max(reached, end);
  }
  return sum;
}

void join(Reader& reader, KinetoTrace& trace) {
  std::sort(reader.launches.begin(), reader.launches.end());
  for (Kernel& kernel : reader.kernels) {
    const auto launch = std::lower_bound(reader.launches.begin(), reader.launches.end(),
                                         Launch{kernel.correlation, {INT64_MIN}});
    if (kernel.correlation < 0 || launch == reader.launches.end() ||
        launch->correlation != kernel.correlation) {
      ++trace.unjoined;
      continue;
    }
    kernel.label = label_at(reader.labels, launch->at);
    // Inside a pair both ops run at once: their kernels are the pair's.
    while (kernel.label != 0 && reader.labels[kernel.label - 1].parent != 0) {
      kernel.label = reader.labels[kernel.label - 1].parent;
    }
    if (kernel.label == 0) ++trace.outside;
  }
  std::stable_sort(reader.kernels.begin(), reader.kernels.end(),
                   [](const Kernel& a, const Kernel& b) { return a.label < b.label; });
}

using Kernels = std::vector<Kernel>::const_iterator;

void add_action(const Label& label, Kernels from, Kernels to, const Reader& reader, KinetoTrace& trace) {
  KinetoAction action;
  action.action = label.pair ? *label.pair : Action(label.op);
  action.begin = label.begin;
  std::vector<std::pair<TimePoint, TimePoint>> compute;
  std::map<std::uint32_t, std::vector<std::pair<TimePoint, TimePoint>>> communication;
  for (Kernels kernel = from; kernel != to; ++kernel) {
    auto& into = kernel->communication == 0 ? compute : communication[kernel->communication];
    into.emplace_back(kernel->begin, kernel->end);
  }
  action.compute = trace.on_gpu ? active(compute, wait) : label.end - label.begin;
  for (auto& [kind, intervals] : communication) {
    action.communication.emplace_back(reader.communications[kind - 1], active(intervals, {1}));
  }
  if (trace.on_gpu && compute.empty()) return;  // launched nothing: a stage of no layers
  trace.actions.push_back(std::move(action));
}

void add_message(const Label& label, Kernels from, Kernels to, KinetoTrace& trace) {
  for (Kernels kernel = from; kernel != to; ++kernel) {
    if (kernel->communication == 0) continue;
    trace.messages.push_back({label.op, kernel->end - kernel->begin, kernel->bytes});
    return;  // a batch of messages is one kernel
  }
}

}  // namespace

KinetoTrace read_kineto_trace(std::istream& in, const std::string& where) {
  KinetoTrace trace;
  trace.where = where;
  GzipStream stream(in, where);
  ProfileText text(*stream.rdbuf());
  if (text.sgetc() == std::streambuf::traits_type::eof()) throw BadInput(where, "is empty");
  std::size_t since_token = 0;
  Reader reader(trace, since_token);
  const bool good = nlohmann::json::sax_parse(Characters(text, where, since_token), Characters(), &reader);
  if (!good) {
    // Where the text ends too early the message is about its last characters: say what that means.
    // (A byte of zero ends a text for the parser, but not the file.)
    const bool at_end = text.sgetc() == std::streambuf::traits_type::eof();
    const bool cut = at_end && (reader.error.find("unexpected end of input") != std::string::npos ||
                                reader.error.find("missing closing quote") != std::string::npos);
    throw BadInput(
        where, cut ? fmt::format("is cut off: it ends at byte {} in the middle of a value", reader.error_at)
                   : fmt::format("is not JSON: {}", reader.error.substr(0, 200)));
  }
  if (reader.labels.empty()) {
    throw BadInput(
        where,
        "holds no action labelled PP:<stage><kind><microbatch>, as PyTorch's pipeline runtime (torch 2.9 and "
        "later) labels them on the CPU; record ProfilerActivity.CPU too");
  }
  if (trace.rank && trace.ranks > 0 && *trace.rank >= trace.ranks)
    throw BadInput(where, fmt::format("says that it is of rank {} of {}", *trace.rank, trace.ranks));
  trace.on_gpu = !reader.kernels.empty();
  trace.kernels = reader.kernels.size();
  nest(reader.labels);
  join(reader, trace);
  // Some kernels were launched before the recording began; if most were, the launches are not in it.
  if (trace.unjoined * 2 > trace.kernels) {
    throw BadInput(where, fmt::format("{} of its {} kernels have no launch with their correlation id; record "
                                      "ProfilerActivity.CPU and ProfilerActivity.CUDA together",
                                      trace.unjoined, trace.kernels));
  }
  Kernels from = std::find_if(reader.kernels.cbegin(), reader.kernels.cend(),
                              [](const Kernel& k) { return k.label != 0; });
  for (std::uint32_t k = 0; k < reader.labels.size(); ++k) {
    const Kernels to = std::find_if(from, reader.kernels.cend(),
                                    [&](const Kernel& kernel) { return kernel.label != k + 1; });
    const Label& label = reader.labels[k];
    if (label.parent == 0) {
      if (label.pair || is_compute(label.op.kind)) {
        add_action(label, from, to, reader, trace);
      } else if (is_message(label.op.kind)) {
        add_message(label, from, to, trace);
      }
    }
    from = to;
  }
  if (trace.actions.empty()) throw BadInput(where, "labels actions, but no kernel was launched inside one");
  return trace;
}

}  // namespace plumb
