#include "schedules/ir/costs_file.hpp"

#include "schedules/ir/cost_json.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <ostream>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::string_view schema = "plumb.costs/1";

std::string_view to_string(Lane lane) { return lane == Lane::compute ? "compute" : "communication"; }

// ----- writing

std::string link_members(const Link& link) {
  return fmt::format("\"latency_ns\":{},\"bytes_per_s\":{}", link.latency.ns,
                     link.bandwidth ? fmt::format("{}", link.bandwidth->value) : "null");
}

std::string op_document(const CostModel& cost, const OpCost& op) {
  std::string out = "{\"segments\":[";
  for (std::size_t i = 0; i < op.recipe.size(); ++i) {
    const Segment& segment = op.recipe[i];
    out += fmt::format("{}{{\"name\":{},\"lane\":\"{}\",\"class\":{},\"duration_ns\":{}{}{}}}", i ? "," : "",
                       json_quoted(segment.name), to_string(segment.lane),
                       json_quoted(cost.classes[segment.work_class.value]), segment.duration.ns,
                       segment.deferred ? ",\"deferred\":true" : "",
                       segment.tail_ppm ? fmt::format(",\"tail_ppm\":{}", *segment.tail_ppm) : "");
  }
  return out +
         fmt::format("],\"memory\":{{\"at_begin_bytes\":{},\"workspace_bytes\":{},\"at_end_bytes\":{}}}}}",
                     op.memory.at_begin.count, op.memory.workspace.count, op.memory.at_end.count);
}

// ----- reading

class CostsReader {
 public:
  explicit CostsReader(JsonView root) : root_(std::move(root)) {}

  CostModel read() {
    root_.allow_keys({"schema", "name", "classes", "slowdown_ppm", "message_class", "link", "links", "stages",
                      "pairs", "any_pair_ns", "reserve_bytes", "sources"});
    if (const auto name = root_.member("name")) cost_.name = name->text();
    read_classes();
    if (const auto link = root_.member("link")) cost_.link = read_link(*link);
    if (const auto links = root_.member("links")) {
      for (const JsonView& entry : links->elements()) {
        const Link link = read_link(entry, {"from", "to", "latency_ns", "bytes_per_s"});
        const auto rank = [&](const char* key) {
          return Rank{static_cast<std::uint32_t>(entry.required(key).integer(0, 1 << 24))};
        };
        if (!cost_.links.emplace(std::pair{rank("from"), rank("to")}, link).second)
          entry.fail("names a link that stands already");
      }
    }
    const JsonView stages = root_.required("stages");
    for (const JsonView& stage : stages.elements()) cost_.stages.push_back(read_stage(stage));
    if (cost_.stages.empty()) stages.fail("is empty; expected one entry a stage, or one for all");
    read_pairs();
    if (const auto reserve = root_.member("reserve_bytes")) cost_.reserve = reserve->bytes();
    if (const auto sources = root_.member("sources")) {
      for (const auto& [key, value] : sources->members()) cost_.sources[key] = value.text();
    }
    return std::move(cost_);
  }

 private:
  void read_classes() {
    if (const auto classes = root_.member("classes")) {
      for (const JsonView& name : classes->elements()) cost_.classes.push_back(name.text());
    }
    if (cost_.classes.empty()) cost_.classes = {"compute"};
    if (const auto rows = root_.member("slowdown_ppm"))
      cost_.slowdown_ppm = read_slowdown(*rows, cost_.classes);
    if (const auto name = root_.member("message_class"); name && !name->is_null())
      cost_.message_class = read_class(*name, cost_.classes);
  }

  OpCost read_op(const JsonView& view) const {
    view.allow_keys({"segments", "memory"});
    OpCost op;
    op.recipe = read_segments(view.required("segments"), cost_.classes);
    if (const auto memory = view.member("memory")) {
      memory->allow_keys({"at_begin_bytes", "workspace_bytes", "at_end_bytes"});
      const auto bytes = [&](const char* key) {
        const auto value = memory->member(key);
        return value ? value->bytes() : Bytes{};
      };
      op.memory = {bytes("at_begin_bytes"), bytes("workspace_bytes"), bytes("at_end_bytes")};
    }
    return op;
  }

  StageCost read_stage(const JsonView& view) const {
    view.allow_keys({"forward_ns", "backward_input_ns", "backward_weight_ns", "backward_ns", "overlapped_ns",
                     "forward", "backward_input", "backward_weight", "backward", "weights_bytes",
                     "gradients_bytes", "optimizer_bytes", "activation_message_bytes",
                     "gradient_message_bytes", "gradient_reduction_ns", "owner_exchange_ns",
                     "optimizer_step_ns"});
    StageCost stage;
    bool segments = false;
    const auto op = [&](const char* key, const char* total_key, OpCost& into) {
      if (const auto recipe = view.member(key)) {
        into = read_op(*recipe);
        segments = true;
      } else if (const auto total_ns = view.member(total_key); total_ns && !total_ns->is_null()) {
        into.recipe = {Segment{Lane::compute, total_ns->duration_ns(), WorkClass{0}, key, false}};
      }
    };
    op("forward", "forward_ns", stage.forward);
    op("backward_input", "backward_input_ns", stage.backward_input);
    op("backward_weight", "backward_weight_ns", stage.backward_weight);
    op("backward", "backward_ns", stage.backward);
    if (stage.forward.recipe.empty()) view.fail("has neither \"forward\" nor \"forward_ns\"");
    if (stage.backward.recipe.empty()) {
      if (stage.backward_input.recipe.empty() || stage.backward_weight.recipe.empty()) {
        view.fail(
            "needs \"backward_ns\", or both \"backward_input_ns\" and \"backward_weight_ns\" (or their "
            "segments)");
      }
      stage.backward.recipe = stage.backward_input.recipe;
      stage.backward.recipe.insert(stage.backward.recipe.end(), stage.backward_weight.recipe.begin(),
                                   stage.backward_weight.recipe.end());
    }
    const auto overlapped = view.member("overlapped_ns");
    if (overlapped && !overlapped->is_null() && !segments) stage.overlapped = overlapped->duration_ns();
    // Totals alone and no pair given: the halves run in turn, as for flat costs.
    if (!segments && !stage.overlapped) stage.overlapped = total(stage.forward) + total(stage.backward);
    const auto bytes = [&](const char* key, Bytes& into) {
      if (const auto value = view.member(key)) into = value->bytes();
    };
    bytes("weights_bytes", stage.weights);
    bytes("gradients_bytes", stage.gradients);
    bytes("optimizer_bytes", stage.optimizer_state);
    bytes("activation_message_bytes", stage.activation_message);
    bytes("gradient_message_bytes", stage.gradient_message);
    if (const auto reduction = view.member("gradient_reduction_ns"))
      stage.gradient_reduction = reduction->duration_ns();
    if (const auto exchange = view.member("owner_exchange_ns"))
      stage.owner_exchange = exchange->duration_ns();
    if (const auto step = view.member("optimizer_step_ns")) stage.optimizer_step = step->duration_ns();
    return stage;
  }

  void read_pairs() {
    if (const auto any = root_.member("any_pair_ns"); any && !any->is_null())
      cost_.any_pair = any->duration_ns();
    const auto pairs = root_.member("pairs");
    if (!pairs) return;
    for (const JsonView& entry : pairs->elements()) {
      entry.allow_keys({"forward_stage", "backward_stage", "overlapped_ns"});
      const auto stage = [&](const char* key) {
        return Stage{static_cast<std::uint32_t>(
            entry.required(key).integer(0, static_cast<std::int64_t>(cost_.stages.size()) - 1))};
      };
      const std::pair at{stage("forward_stage"), stage("backward_stage")};
      if (!cost_.measured_pairs.emplace(at, entry.required("overlapped_ns").duration_ns()).second) {
        entry.fail("names a pair that stands already");
      }
    }
  }

  JsonView root_;
  CostModel cost_;
};

}  // namespace

void write_costs(std::ostream& out, const CostModel& cost, const std::vector<StageTotals>& totals) {
  out << fmt::format("{{\"schema\":\"{}\",\"name\":{},\"classes\":[", schema, json_quoted(cost.name));
  for (std::size_t i = 0; i < cost.classes.size(); ++i) out << (i ? "," : "") << json_quoted(cost.classes[i]);
  out << "],\"slowdown_ppm\":[";
  for (std::size_t i = 0; i < cost.slowdown_ppm.size(); ++i)
    out << fmt::format("{}[{}]", i ? "," : "", fmt::join(cost.slowdown_ppm[i], ","));
  out << "],\"message_class\":"
      << (cost.message_class ? json_quoted(cost.classes[cost.message_class->value]) : "null");
  out << ",\"link\":{" << link_members(cost.link) << "},\"links\":[";
  bool first = true;
  for (const auto& [ends, link] : cost.links) {
    out << fmt::format("{}{{\"from\":{},\"to\":{},{}}}", first ? "" : ",", ends.first.value,
                       ends.second.value, link_members(link));
    first = false;
  }
  out << "],\"any_pair_ns\":" << (cost.any_pair ? fmt::format("{}", cost.any_pair->ns) : "null")
      << ",\"pairs\":[";
  first = true;
  for (const auto& [stages, duration] : cost.measured_pairs) {
    out << fmt::format("{}{{\"forward_stage\":{},\"backward_stage\":{},\"overlapped_ns\":{}}}",
                       first ? "" : ",", stages.first.value, stages.second.value, duration.ns);
    first = false;
  }
  out << "],\"stages\":[";
  for (std::size_t s = 0; s < cost.stages.size(); ++s) {
    const StageCost& stage = cost.stages[s];
    const StageTotals& sum = totals[s];
    const auto ns = [](Duration duration, bool known) {
      return known ? fmt::format("{}", duration.ns) : "null";
    };
    const bool input = !stage.backward_input.recipe.empty();
    const bool weight = !stage.backward_weight.recipe.empty();
    out << fmt::format(
        "{}{{\"forward_ns\":{},\"backward_input_ns\":{},\"backward_weight_ns\":{},\"backward_ns\":{},"
        "\"overlapped_ns\":{}",
        s ? "," : "", sum.forward.ns, ns(sum.backward_input, input), ns(sum.backward_weight, weight),
        sum.backward.ns, sum.overlapped.ns);
    // Totals alone say everything of an op without lanes, classes and bytes; and a measured pair of totals
    // would be lost beside segments.
    if (!stage.overlapped) {
      out << ",\"forward\":" << op_document(cost, stage.forward);
      if (input) out << ",\"backward_input\":" << op_document(cost, stage.backward_input);
      if (weight) out << ",\"backward_weight\":" << op_document(cost, stage.backward_weight);
      out << ",\"backward\":" << op_document(cost, stage.backward);
    }
    out << fmt::format(
        ",\"weights_bytes\":{},\"gradients_bytes\":{},\"optimizer_bytes\":{},\"activation_message_bytes\":{},"
        "\"gradient_message_bytes\":{},\"gradient_reduction_ns\":{},\"owner_exchange_ns\":{},\"optimizer_"
        "step_ns\":{}}}",
        stage.weights.count, stage.gradients.count, stage.optimizer_state.count,
        stage.activation_message.count, stage.gradient_message.count, stage.gradient_reduction.ns,
        stage.owner_exchange.ns, stage.optimizer_step.ns);
  }
  out << "],\"reserve_bytes\":" << cost.reserve.count << ",\"sources\":{";
  first = true;
  for (const auto& [key, source] : cost.sources) {
    out << fmt::format("{}{}:{}", first ? "" : ",", json_quoted(key), json_quoted(source));
    first = false;
  }
  out << "}}\n";
}

CostModel parse_costs(std::string_view content, std::string_view where) {
  const JsonDocument document(content, where, schema);
  return CostsReader(document.root()).read();
}

CostModel parse_cost_list(std::string_view text, std::string_view where) {
  std::map<std::string, Duration, std::less<>> given;
  constexpr std::array<std::string_view, 6> known{"forward",  "backward_input", "backward_weight",
                                                  "backward", "overlapped",     "p2p"};
  constexpr std::string_view example =
      "forward=1ms,backward_input=1ms,backward_weight=1ms,overlapped=3ms,p2p=0ms";
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    begin = end + 1;
    const auto equals = part.find('=');
    if (equals == std::string_view::npos)
      throw BadInput(where, fmt::format("'{}' is not name=duration, as in {}", part.substr(0, 60), example));
    const std::string_view name = part.substr(0, equals);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw BadInput(where, fmt::format("'{}' is not one of {}", name.substr(0, 60), fmt::join(known, ", ")));
    }
    if (!given.emplace(name, parse_duration(part.substr(equals + 1), fmt::format("{}: {}", where, name)))
             .second) {
      throw BadInput(where, fmt::format("{} is given twice", name));
    }
  }
  const auto find = [&](std::string_view name) {
    const auto found = given.find(name);
    return found == given.end() ? std::nullopt : std::optional(found->second);
  };
  UnitCosts costs;
  if (!find("forward")) throw BadInput(where, fmt::format("forward is missing, as in {}", example));
  costs.forward = *find("forward");
  costs.backward_input = find("backward_input");
  costs.backward_weight = find("backward_weight");
  costs.backward = find("backward");
  costs.overlapped = find("overlapped");
  costs.p2p = find("p2p").value_or(Duration{});
  if (!costs.backward && !(costs.backward_input && costs.backward_weight)) {
    throw BadInput(where, "needs backward, or both backward_input and backward_weight");
  }
  return unit_costs(costs);
}

std::vector<OpOverride> parse_op_costs(std::string_view content, std::string_view where) {
  std::vector<OpOverride> out;
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < content.size();) {
    const auto end = std::min(content.find('\n', begin), content.size());
    std::string_view row = content.substr(begin, end - begin);
    begin = end + 1;
    ++line;
    while (!row.empty() && (row.back() == '\r' || row.back() == ' ')) row.remove_suffix(1);
    if (row.empty() || row == "rank,action,duration_ns") continue;
    const auto fail = [&](const char* what) {
      throw BadInput(
          where, fmt::format("line {}: '{}' {}; expected rank,action,duration_ns, as in 0,0F3,1500000", line,
                             row.substr(0, 60), what));
    };
    const auto first = row.find(',');
    const auto last = row.rfind(',');
    if (first == std::string_view::npos || first == last) fail("has not three columns");
    const auto number = [&](std::string_view text, std::int64_t most, const char* what) {
      std::int64_t value = -1;
      const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc{} || stop != text.data() + text.size() || value < 0 || value > most) fail(what);
      return value;
    };
    OpOverride entry;
    entry.rank = Rank{static_cast<std::uint32_t>(number(row.substr(0, first), 1 << 24, "names no rank"))};
    entry.duration = {
        number(row.substr(last + 1), std::int64_t{1} << 53, "has no duration in whole nanoseconds")};
    const auto action = parse_action(row.substr(first + 1, last - first - 1));
    if (!action) fail("names no compute action");
    entry.action = *action;
    out.push_back(entry);
  }
  std::vector<const OpOverride*> sorted;
  for (const OpOverride& entry : out) sorted.push_back(&entry);
  const auto key = [](const OpOverride* entry) { return std::pair{entry->rank, entry->action}; };
  std::sort(sorted.begin(), sorted.end(), [&](auto a, auto b) { return key(a) < key(b); });
  const auto twice =
      std::adjacent_find(sorted.begin(), sorted.end(), [&](auto a, auto b) { return key(a) == key(b); });
  if (twice != sorted.end()) {
    throw BadInput(where, fmt::format("{} of rank {} is given twice", to_string((*twice)->action),
                                      (*twice)->rank.value));
  }
  return out;
}

}  // namespace plumb
