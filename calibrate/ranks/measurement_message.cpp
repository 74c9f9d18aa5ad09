#include "calibrate/ranks/measurement_message.hpp"

#include "calibrate/measurement_json.hpp"
#include "schedules/ir/json_document.hpp"

#include <utility>

#include <fmt/format.h>

namespace plumb::ranks {
namespace {

constexpr std::string_view where = "the message of a rank";
constexpr std::string_view order_schema = "plumb.calibrate_order/1";
constexpr std::string_view measured_schema = "plumb.calibrate_measured/1";

// `"transfer": {…}`: a calibration's own words, so that nothing has to be written twice.
std::string figures_json(const Measurement& measurement) {
  struct Visitor {
    std::string operator()(const TimedWork& one) const { return "\"work\":" + to_json(one); }
    std::string operator()(const Transfer& one) const {
      return "\"transfer\":" + to_json(TransferSeries{one.key, {one.point}, {}});
    }
    std::string operator()(const Slowdown& one) const { return "\"slowdown\":" + to_json(one); }
    std::string operator()(const MeasuredMemory& one) const { return "\"memory\":" + to_json(one); }
  };
  return std::visit(Visitor{}, measurement.figures);
}

Measurement read_figures(const JsonView& view) {
  if (const auto work = view.member("work")) return {read_timed_work(*work), {}};
  if (const auto transfer = view.member("transfer")) {
    const TransferSeries series = read_transfer_series(*transfer);
    return {Transfer{series.key, series.points.front()}, {}};
  }
  if (const auto slowdown = view.member("slowdown")) return {read_slowdown_measured(*slowdown), {}};
  return {read_measured_memory(view.required("memory")), {}};
}

// A target travels as a measurement of which nothing is known yet.
Measurement unmeasured(const Target& target) {
  Summary nothing;
  nothing.samples = 1;
  struct Visitor {
    const Summary& nothing;
    Measurement operator()(const WorkTarget& t) const {
      return {TimedWork{t.work, t.setting, {}, {}, nothing, {}}, {}};
    }
    Measurement operator()(const TransferTarget& t) const { return {Transfer{t.key, {t.size, nothing}}, {}}; }
    Measurement operator()(const SlowdownTarget& t) const { return {Slowdown{t.key, nothing, nothing}, {}}; }
    Measurement operator()(const MemoryTarget& t) const {
      MeasuredMemory memory;
      memory.work = t.work;
      return {memory, {}};
    }
  };
  return std::visit(Visitor{nothing}, target);
}

constexpr std::int64_t most = std::int64_t{1} << 53;

}  // namespace

std::string to_message(const Order& order) {
  const StoppingRule& rule = order.rule;
  std::string targets;
  for (const Target& target : order.targets)
    targets += fmt::format("{}{{{}}}", targets.empty() ? "" : ",", figures_json(unmeasured(target)));
  return fmt::format(
      R"({{"schema":"{}","relative_width":{},"least":{},"most":{},"budget_ns":{},"targets":[{}]}})",
      order_schema, rule.relative_width, rule.least, rule.most, rule.budget.ns, targets);
}

Order read_order(std::string_view message) {
  const JsonDocument document(message, where, order_schema);
  const JsonView root = document.root();
  StoppingRule rule;
  rule.relative_width = root.required("relative_width").number(0, 1e9);
  rule.least = static_cast<std::uint32_t>(root.required("least").integer(0, 4'000'000'000));
  rule.most = static_cast<std::uint32_t>(root.required("most").integer(0, 4'000'000'000));
  rule.budget = root.required("budget_ns").duration_ns();
  std::vector<Target> targets;
  for (const JsonView& target : root.required("targets").elements())
    targets.push_back(target_of(read_figures(target)));
  return {std::move(targets), rule};
}

std::string to_message(const std::vector<Measurement>& measured) {
  std::string out = fmt::format(R"({{"schema":"{}","measured":[)", measured_schema);
  for (const Measurement& one : measured) {
    if (out.back() == '}') out += ",";
    out += "{" + figures_json(one) + ",\"samples\":[";
    for (const Sample& sample : one.samples) {
      if (out.back() == ']') out += ",";
      out += fmt::format("[{},{}]", sample.duration.ns, sample.sm_clock_mhz);
    }
    out += "]}";
  }
  return out + "]}";
}

std::vector<Measurement> read_measured(std::string_view message) {
  const JsonDocument document(message, where, measured_schema);
  std::vector<Measurement> measured;
  for (const JsonView& one : document.root().required("measured").elements()) {
    Measurement& measurement = measured.emplace_back(read_figures(one));
    for (const JsonView& sample : one.required("samples").elements()) {
      const std::vector<JsonView> numbers = sample.elements();
      if (numbers.size() != 2) sample.fail("is not a duration and a clock");
      measurement.samples.push_back(
          {{numbers[0].integer(0, most)}, static_cast<std::uint32_t>(numbers[1].integer(0, 1'000'000))});
    }
  }
  return measured;
}

}  // namespace plumb::ranks
