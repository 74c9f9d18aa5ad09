#include "tools/options.hpp"

#include "schedules/ir/check.hpp"
#include "schedules/ir/costs_file.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "schedules/ir/schedule_file.hpp"
#include "sim/estimate.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include <fmt/format.h>

namespace plumb::tools {
namespace {

// `1.1` -> 1,100,000: decimal, exact to a millionth.
std::uint32_t parse_factor(std::string_view text, std::string_view where) {
  const auto refuse = [&] {
    throw BadInput(where, fmt::format("'{}' is not a factor from 0.001 to 1000, as in 1.1", text));
  };
  std::uint64_t value = 0;
  std::uint64_t scale = 0;  // 0: still ahead of the point
  if (text.empty() || text.size() > 12) refuse();
  for (const char c : text) {
    if (c == '.' && scale == 0) {
      scale = 1'000'000;
    } else if (c >= '0' && c <= '9' && scale == 0) {
      value = value * 10 + static_cast<std::uint64_t>(c - '0') * 1'000'000;
    } else if (c >= '0' && c <= '9' && scale > 1) {
      scale /= 10;
      value += static_cast<std::uint64_t>(c - '0') * scale;
    } else {
      refuse();
    }
  }
  if (value < 1'000 || value > 1'000'000'000) refuse();
  return static_cast<std::uint32_t>(value);
}

Rank parse_rank(std::string_view text, std::string_view where) {
  std::uint32_t rank = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rank);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw BadInput(where, fmt::format("'{}' is not a rank", text));
  }
  return Rank{rank};
}

// Reads 10 violations at most: a person mends one and tries again.
[[noreturn]] void refuse_invalid(const std::string& path, const CheckResult& result) {
  std::string text = fmt::format("is no valid schedule ({} violation{}; `plumb check` shows them all)",
                                 result.violations.size(), result.violations.size() == 1 ? "" : "s");
  for (std::size_t i = 0; i < std::min<std::size_t>(result.violations.size(), 10); ++i) {
    text += fmt::format("\n  {}: {}", to_string(result.violations[i].kind), result.violations[i].message);
  }
  throw BadInput(path, text);
}

LoweredSchedule load_file(const ScheduleOptions& options) {
  const ScheduleFile file =
      parse_schedule(read_input(options.name), options.name == "-" ? "standard input" : options.name);
  if (options.chunks || options.group)
    throw BadInput(options.name, "is a file; --chunks and --group are for named schedules");
  const auto agree = [&](std::optional<std::uint32_t> flag, std::uint32_t held, const char* what) {
    if (flag && *flag != held)
      throw BadInput(options.name, fmt::format("holds {} {}, not the {} of --{}", held, what, *flag, what));
  };
  agree(options.ranks, file.lowered.ranks(), "ranks");
  agree(options.microbatches, file.lowered.microbatches, "microbatches");
  const CheckResult result = check(file);
  if (!result.valid()) refuse_invalid(options.name, result);
  LoweredSchedule lowered = file.lowered;
  if (!file.has_messages) {
    lowered = lower(without_messages(lowered), {options.placement(), options.data_parallel});
  } else {
    if (!options.comms.empty() && options.placement() != lowered.placement) {
      lowered = lower(without_messages(lowered), {options.placement(), options.data_parallel});
    } else {
      // The file's messages stand; gradient reductions are ours to place.
      for (LoweredRank& rank : lowered.per_rank) {
        std::erase_if(rank.steps, [](const Step& step) { return std::holds_alternative<Collective>(step); });
      }
      lowered.data_parallel = options.data_parallel;
      place_reductions(lowered);
    }
  }
  if (lowered.name.empty()) lowered.name = std::filesystem::path(options.name).stem().string();
  return lowered;
}

bool looks_like_file(const std::string& name) {
  std::error_code ignored;
  return name == "-" || name.find_first_of("./") != std::string::npos ||
         std::filesystem::exists(name, ignored);
}

}  // namespace

void ScheduleOptions::add_shape_to(CLI::App& app) {
  app.add_option("--ranks", ranks, "Devices of the pipeline")->type_name("P");
  app.add_option("--microbatches", microbatches, "Microbatches of one step, both directions together")
      ->type_name("M");
  app.add_option("--chunks", chunks,
                 "Stages of one model copy on each rank, where the schedule has a choice [2]")
      ->type_name("V");
  app.add_option("--group", group,
                 "Microbatches a group: interleaved-* [m / max(1, m/p)], group-interleaved [p]")
      ->type_name("G");
}

void ScheduleOptions::add_comms_to(CLI::App& app) {
  app.add_option("--comms", comms, "Place messages one by one, or in groups that are waited for together")
      ->check(CLI::IsMember({"per-op", "batched"}));
}

void ScheduleOptions::add_to(CLI::App& app, bool file_too) {
  app.add_option("schedule", name,
                 file_too ? "A schedule's name (see `plumb schedules`), or a file; - reads standard input"
                          : "A schedule's name (see `plumb schedules`)")
      ->required()
      ->type_name(file_too ? "NAME|FILE" : "NAME");
  add_shape_to(app);
  add_comms_to(app);
  app.add_option("--dp", data_parallel, "Data-parallel copies of the pipeline, which sum their gradients")
      ->type_name("D")
      ->check(CLI::Range(1u, 1u << 20))
      ->capture_default_str();
}

Shape ScheduleOptions::shape() const {
  if (!ranks) throw BadInput("--ranks", "is required for a named schedule");
  if (!microbatches) throw BadInput("--microbatches", "is required for a named schedule");
  return {*ranks, *microbatches, chunks, group};
}

LoweredSchedule ScheduleOptions::load() const {
  if (const Generator* found = find_generator(name))
    return make_lowered(*found, shape(), {placement(), data_parallel});
  if (looks_like_file(name)) return load_file(*this);
  return make_lowered(generator(name), shape(), {placement(), data_parallel});  // says which names there are
}

void LoweringFlags::add_to(CLI::App& app) {
  app.add_option("--comms", comms, "Messages one by one, or in groups that are waited for together")
      ->check(CLI::IsMember({"per-op", "batched"}))
      ->capture_default_str();
  app.add_option("--dp", data_parallel, "Data-parallel copies of the pipeline")
      ->type_name("D")
      ->check(CLI::Range(1u, 1u << 20));
}

LowerOptions LoweringFlags::load() const {
  return {comms == "batched" ? CommPlacement::batched : CommPlacement::per_op, data_parallel};
}

void CostOptions::add_to(CLI::App& app) {
  auto* list =
      app.add_option(
             "--costs", costs,
             "forward=1ms,backward_input=1ms,backward_weight=1ms[,backward=…][,overlapped=…][,p2p=…] of one "
             "chunk, or a plumb.costs/1 file")
          ->type_name("LIST|FILE");
  app.add_option("--calibration", calibration,
                 "Measured costs: a bundled calibration's name, or a plumb.calibration/1 file")
      ->type_name("NAME|FILE")
      ->excludes(list);
  app.add_option("--layers", layers, "Layers of the model [the calibration's, or the model file's]")
      ->type_name("L")
      ->check(CLI::Range(1u, 100'000u));
  app.add_option("--op-costs", op_costs, "CSV rank,action,duration_ns that overrides single ops")
      ->type_name("FILE");
}

CostModel CostOptions::load(std::uint32_t stages) const {
  if (layers && calibration.empty()) throw BadInput("--layers", "is of a --calibration or a --model");
  CostModel cost;
  if (!calibration.empty()) {
    const Calibration measured = load_calibration(calibration);
    cost = estimate(measured, stages, layers.value_or(measured.model_layers));
  } else if (costs.empty()) {
    throw BadInput("--costs", "is required, or --calibration");
  } else if (costs.find('=') != std::string::npos) {
    cost = parse_cost_list(costs, "--costs");
  } else {
    cost = parse_costs(read_input(costs), costs);
  }
  if (!op_costs.empty()) {
    cost.overrides = parse_op_costs(read_input(op_costs), op_costs);
  }
  return cost;
}

void ExecutionFlags::add_to(CLI::App& app) {
  app.add_option("--pair-release", pair_release,
                 "When an overlapped pair's outputs leave: both at its end, or the forward's first")
      ->check(CLI::IsMember({"atomic", "forward-first"}))
      ->capture_default_str();
  app.add_option("--duplex", duplex, "Whether a link carries both directions at once")
      ->check(CLI::IsMember({"full", "half"}))
      ->capture_default_str();
  app.add_flag("--shared-links", shared_links, "Messages on one link wait for each other");
  app.add_flag("--transfers-occupy-compute", transfers_occupy_compute,
               "A transfer keeps both of its ranks from computing");
  app.add_flag("--messages-slow-compute", messages_slow_compute,
               "Messages and computation slow each other as calibrated");
  app.add_option("--slow", slow,
                 "What if: rank 3 takes 1.1 times as long (3=1.1), or the link from 0 to 1 does (0>1=2)")
      ->type_name("RANK=F|FROM>TO=F");
}

ExecutionOptions ExecutionFlags::load() const {
  ExecutionOptions options;
  options.pair_release = pair_release == "atomic" ? PairRelease::atomic : PairRelease::forward_first;
  options.duplex = duplex == "half" ? Duplex::half : Duplex::full;
  options.links_are_shared = shared_links || options.duplex == Duplex::half;
  options.transfers_occupy_compute = transfers_occupy_compute;
  options.messages_slow_compute = messages_slow_compute;
  for (const std::string& text : slow) {
    const auto equals = text.find('=');
    if (equals == std::string::npos)
      throw BadInput("--slow", fmt::format("'{}' is neither RANK=FACTOR nor FROM>TO=FACTOR", text));
    const std::string_view who = std::string_view(text).substr(0, equals);
    const std::uint32_t factor = parse_factor(std::string_view(text).substr(equals + 1), "--slow");
    const auto arrow = who.find('>');
    const bool is_new = arrow == std::string_view::npos
                            ? options.slow_ranks_ppm.emplace(parse_rank(who, "--slow"), factor).second
                            : options.slow_links_ppm
                                  .emplace(std::pair{parse_rank(who.substr(0, arrow), "--slow"),
                                                     parse_rank(who.substr(arrow + 1), "--slow")},
                                           factor)
                                  .second;
    if (!is_new) throw BadInput("--slow", fmt::format("{} is given twice", who));
  }
  return options;
}

Calibration load_calibration(const std::string& name, const char* option) {
  const auto& bundled = bundled_calibrations();
  if (const auto found = bundled.find(name); found != bundled.end())
    return parse_calibration(found->second, name);
  if (looks_like_file(name)) return parse_calibration(read_input(name), name);
  std::string names;
  for (const auto& [key, content] : bundled) names += fmt::format(" {}", key);
  throw BadInput(option, fmt::format("'{}' is neither a file nor bundled; bundled are:{}", name, names));
}

void add_json(CLI::App& app, bool& json) { app.add_flag("--json", json, "Print JSON for scripts"); }
void add_out(CLI::App& app, std::string& out, const std::string& what) {
  app.add_option("--out", out, what)->type_name("FILE")->capture_default_str();
}

}  // namespace plumb::tools
