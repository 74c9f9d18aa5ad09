#include "tools/render/calibration_tables.hpp"

#include "tools/render/slowdown_matrix.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>

namespace plumb::render {
namespace {

constexpr std::array<WorkKind, 6> kinds{
    WorkKind::forward,  WorkKind::backward_input,          WorkKind::backward_weight,
    WorkKind::backward, WorkKind::forward_beside_backward, WorkKind::optimizer};

std::string microseconds(Duration duration) {
  return fmt::format("{:.2f}", static_cast<double>(duration.ns) / 1e3);
}
std::string ppm_percent(std::uint32_t ppm) { return fmt::format("{:.1f}", ppm / 1e4); }

// `±0.4 %`: half the width of the median's interval.
std::string spread(const Summary& summary) {
  const double width = relative_width(summary);
  return std::isfinite(width) ? fmt::format("{:.2f}", width * 50) : "-";
}

std::int64_t median_of(std::vector<std::int64_t> values) {
  std::sort(values.begin(), values.end());
  return values[(values.size() - 1) / 2];
}

// What most rows of a table have in common is said once above it, and a row's name is what it has besides.
class Naming {
 public:
  Naming(const std::vector<WorkKey>& all, const std::vector<Setting>& settings) {
    std::map<std::string, std::size_t> types, models;
    std::map<std::string, std::set<std::int64_t>> sizes;
    std::map<std::string, std::size_t> have;
    std::size_t of_a_model = 0;
    for (const WorkKey& key : all) {
      ++types[key.data_type];
      for (const auto& [dimension, size] : key.shape) sizes[dimension].insert(size);
      if (key.model.empty()) continue;
      ++models[key.model];
      ++of_a_model;
      for (const auto& [dimension, size] : key.shape) ++have[dimension];
    }
    type_ = most(types);
    model_ = most(models);
    for (const auto& [dimension, values] : sizes) {
      if (values.size() == 1 && 2 * have[dimension] > of_a_model) shape_[dimension] = *values.begin();
    }
    std::map<Setting, std::size_t> counts;
    for (const Setting& setting : settings) ++counts[setting];
    if (!counts.empty()) setting_ = most(counts);
  }

  /// Without its kind.
  std::string of(const WorkKey& key) const {
    std::string name = key.name;
    if (key.data_type != type_) name += " " + key.data_type;
    if (!key.model.empty() && key.model != model_) name += " [" + key.model + "]";
    for (const auto& [dimension, size] : key.shape) {
      if (dimension != "recompute" && !shape_.contains(dimension))
        name += fmt::format(" {}={}", dimension, size);
    }
    return name;
  }
  std::string of(const WorkKey& key, const Setting& setting) const {
    return of(key) + (setting == setting_ ? "" : ", " + to_string(setting));
  }
  std::string common() const {
    std::string words = type_;
    if (!model_.empty()) words += (words.empty() ? "[" : " [") + model_ + "]";
    for (const auto& [dimension, size] : shape_) words += fmt::format(" {}={}", dimension, size);
    if (setting_) words += (words.empty() ? "" : ", ") + to_string(*setting_);
    return words;
  }

 private:
  template <class Key>
  static Key most(const std::map<Key, std::size_t>& counts) {
    const auto by_count = [](const auto& a, const auto& b) { return a.second < b.second; };
    const auto found = std::max_element(counts.begin(), counts.end(), by_count);
    return found == counts.end() ? Key{} : found->first;
  }
  std::string type_, model_;
  std::map<std::string, std::int64_t> shape_;
  std::optional<Setting> setting_;
};

Naming naming_of_work(const Calibration& calibration) {
  std::vector<WorkKey> keys;
  std::vector<Setting> settings;
  for (const TimedWork& work : calibration.work) {
    keys.push_back(work.work);
    settings.push_back(work.setting);
  }
  return {keys, settings};
}

Naming naming_of_memory(const Calibration& calibration) {
  std::vector<WorkKey> keys;
  for (const MeasuredMemory& memory : calibration.memory) keys.push_back(memory.work);
  return {keys, {}};
}

Table work_table(const Calibration& calibration, const Naming& naming) {
  Table table;
  std::set<WorkKind> used;
  for (const TimedWork& work : calibration.work) used.insert(work.work.kind);
  table.head = {"work"};
  for (const WorkKind kind : kinds) {
    if (used.count(kind) == 0) continue;
    table.head.push_back(kind == WorkKind::forward_beside_backward ? "pair us"
                                                                   : fmt::format("{} us", words(kind)));
  }
  table.head.insert(table.head.end(), {"+- %", "samples", "set aside", "unsteady"});

  std::vector<std::string> order;
  std::map<std::string, std::vector<const TimedWork*>> rows;
  for (const TimedWork& work : calibration.work) {
    const std::string name = naming.of(work.work, work.setting);
    auto& row = rows[name];
    if (row.empty()) order.push_back(name);
    row.push_back(&work);
  }
  for (const std::string& name : order) {
    std::vector<std::string> row{name};
    for (const WorkKind kind : kinds) {
      if (used.count(kind) == 0) continue;
      std::vector<std::int64_t> medians;
      for (const TimedWork* work : rows[name]) {
        if (work->work.kind == kind) medians.push_back(work->time.median.ns);
      }
      row.push_back(medians.empty() ? "" : microseconds({median_of(medians)}));
    }
    const TimedWork* widest = rows[name].front();
    std::uint64_t samples = 0;
    std::uint64_t aside = 0;
    std::size_t unsteady = 0;
    for (const TimedWork* work : rows[name]) {
      if (relative_width(work->time) > relative_width(widest->time)) widest = work;
      samples += work->time.samples;
      aside += work->time.set_aside;
      unsteady += work->time.steadiness != Steadiness::steady;
    }
    row.insert(row.end(), {spread(widest->time), fmt::format("{}", samples), fmt::format("{}", aside),
                           unsteady == 0 ? "" : fmt::format("{} of {}", unsteady, rows[name].size())});
    table.rows.push_back(std::move(row));
  }
  return table;
}

// How much of their time parts leave to whoever waits for the rank behind them.
Table tail_table(const Calibration& calibration, const Naming& naming) {
  constexpr std::array<WorkKind, 3> of_parts{WorkKind::forward, WorkKind::backward_input,
                                             WorkKind::backward_weight};
  Table table;
  table.head = {"tail, % of the time"};
  for (const WorkKind kind : of_parts) table.head.emplace_back(words(kind));
  std::vector<std::pair<std::string, std::map<WorkKind, std::string>>> rows;
  for (const TimedWork& work : calibration.work) {
    if (!work.tail_ppm) continue;
    const std::string name = naming.of(work.work, work.setting);
    auto row = std::find_if(rows.begin(), rows.end(), [&](const auto& one) { return one.first == name; });
    if (row == rows.end()) row = rows.insert(rows.end(), {name, {}});
    row->second[work.work.kind] = ppm_percent(*work.tail_ppm);
  }
  for (auto& [name, tails] : rows) {
    table.rows.push_back({name});
    for (const WorkKind kind : of_parts) table.rows.back().push_back(tails[kind]);
  }
  return table;
}

// Ranks that were measured apart: each one's time over the ranks' median, the median over its work, and its
// worst.
Table rank_table(const Calibration& calibration) {
  std::map<std::string, std::vector<const TimedWork*>> same;
  for (const TimedWork& work : calibration.work) {
    if (work.rank) same[to_string(Target{WorkTarget{work.work, work.setting}})].push_back(&work);
  }
  std::map<std::uint32_t, std::vector<std::pair<double, std::string>>> ratios;
  for (const auto& [name, ranks] : same) {
    std::vector<std::int64_t> medians;
    for (const TimedWork* work : ranks) medians.push_back(work->time.median.ns);
    const auto middle = static_cast<double>(std::max<std::int64_t>(1, median_of(medians)));
    for (const TimedWork* work : ranks) {
      ratios[*work->rank].emplace_back(static_cast<double>(work->time.median.ns) / middle, name);
    }
  }
  Table table;
  table.head = {"rank", "of the ranks' median", "slowest", "at"};
  if (ratios.size() < 2) return table;
  for (auto& [rank, all] : ratios) {
    std::sort(all.begin(), all.end());
    table.rows.push_back({fmt::format("{}", rank), fmt::format("{:.4f}", all[(all.size() - 1) / 2].first),
                          fmt::format("{:.4f}", all.back().first), all.back().second});
  }
  return table;
}

Table transfer_table(const Calibration& calibration) {
  Table table;
  table.head = {"messages",     "sizes",  "smallest us",      "largest us",
                "largest GB/s", "pieces", "worst residual %", "held out, median %",
                "worst %"};
  for (const TransferSeries& series : calibration.transfers) {
    if (series.points.empty()) continue;
    const SizedSummary& least = series.points.front();
    const SizedSummary& most = series.points.back();
    const double rate = most.time.median.ns > 0
                            ? static_cast<double>(most.size.count) / static_cast<double>(most.time.median.ns)
                            : 0;
    std::vector<std::string> row{to_string(series.key), fmt::format("{}", series.points.size()),
                                 microseconds(least.time.median), microseconds(most.time.median),
                                 fmt::format("{:.2f}", rate)};
    // Of two sizes none can be held out.
    const bool held_out = series.fit && series.points.size() >= 3;
    const LinkFit fit = series.fit.value_or(LinkFit{});
    row.insert(row.end(),
               {series.fit ? fmt::format("{}", std::max<std::size_t>(1, fit.knots.size() - 1)) : "",
                series.fit ? ppm_percent(fit.worst_residual_ppm) : "",
                held_out ? ppm_percent(fit.median_held_out_ppm) : "",
                held_out ? ppm_percent(fit.worst_held_out_ppm) : ""});
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table matrix_table(const SlowdownMatrix& matrix) {
  Table table;
  table.head = {"lasts, times"};
  for (const std::string& beside : matrix.classes) table.head.push_back("beside " + beside);
  for (const std::string& name : matrix.classes) {
    std::vector<std::string> row{name};
    for (const std::string& beside : matrix.classes) row.push_back(matrix.factor(name, beside));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table memory_table(const Calibration& calibration, const Naming& naming) {
  Table table;
  table.head = {
      "memory, bytes",        "weights", "gradients", "forward keeps", "backward_input frees", "adds",
      "backward_weight frees"};
  for (const MeasuredMemory& one : calibration.memory) {
    const auto bytes = [](Bytes b) { return fmt::format("{}", b.count); };
    table.rows.push_back({naming.of(one.work), bytes(one.weights), bytes(one.gradients),
                          bytes(one.kept_by_forward), bytes(one.freed_by_backward_input),
                          bytes(one.added_by_backward_input), bytes(one.freed_by_backward_weight)});
  }
  return table;
}

// What consumers of a document take for one layer.
Table layer_table(const Calibration& calibration) {
  Table table;
  table.head = {"one layer", "us", "source"};
  const auto source_of = [&](const std::string& figure) {
    const auto source = calibration.sources.find(figure);
    return source == calibration.sources.end() ? std::string() : source->second;
  };
  const auto row = [&](const std::string& name, const std::vector<Segment>& segments) {
    if (segments.empty()) return;
    Duration sum;
    for (const Segment& segment : segments) sum += segment.duration;
    table.rows.push_back({name, microseconds(sum), source_of(name)});
    if (segments.size() == 1) return;
    for (const Segment& segment : segments) {
      table.rows.push_back({"  " + segment.name, microseconds(segment.duration), ""});
    }
  };
  row("forward", calibration.forward);
  row("backward_input", calibration.backward_input);
  row("backward_weight", calibration.backward_weight);
  row("backward", calibration.backward);
  if (!table.rows.empty()) {
    const std::string rate = calibration.link.bandwidth
                                 ? fmt::format(", then {:.2f} GB/s", calibration.link.bandwidth->value / 1e9)
                                 : "";
    table.rows.push_back({"message latency" + rate, microseconds(calibration.link.latency),
                          source_of(calibration.sources.count("link") != 0 ? "link" : "p2p")});
  }
  return table;
}

}  // namespace

std::vector<TitledTable> calibration_tables(const Calibration& calibration) {
  std::vector<TitledTable> tables;
  const auto add = [&](std::string title, Table table) {
    if (!table.rows.empty()) tables.push_back({std::move(title), std::move(table)});
  };
  add("One layer", layer_table(calibration));
  const auto of_all = [](std::string title, const Naming& naming) {
    const std::string common = naming.common();
    return common.empty() ? title : fmt::format("{}\n{}; where a row says nothing else", title, common);
  };
  const Naming work = naming_of_work(calibration);
  add(of_all("Work: medians", work), work_table(calibration, work));
  add(of_all("Tails: what other work gets of a part's time where it waits behind it in another stream", work),
      tail_table(calibration, work));
  add("Ranks that were measured apart", rank_table(calibration));
  add("Messages and collectives", transfer_table(calibration));
  for (const SlowdownMatrix& matrix : slowdown_matrices(calibration))
    add("Mutual slowdown: " + matrix.title, matrix_table(matrix));
  const Naming memory = naming_of_memory(calibration);
  add(of_all("Memory of a microbatch", memory), memory_table(calibration, memory));
  Table missing;
  missing.head = {"still to be measured"};
  for (const std::string& target : calibration.missing) missing.rows.push_back({target});
  add("Missing", std::move(missing));
  return tables;
}

std::string held_out_line(const Calibration& calibration) {
  constexpr double good = 0.1;
  std::size_t all = 0;
  std::size_t within = 0;
  for (const TransferSeries& series : calibration.transfers) {
    std::vector<SizedDuration> medians;
    for (const SizedSummary& point : series.points) medians.push_back({point.size, point.time.median});
    for (const double error : held_out_errors(medians)) {
      ++all;
      within += error <= good;
    }
  }
  return all == 0 ? "" : fmt::format("held-out sizes: {} of {} within 10 %", within, all);
}

std::vector<std::string> provenance_lines(const Provenance& p) {
  std::vector<std::string> lines;
  std::size_t widest = 14;
  for (const auto& [name, value] : p.environment) widest = std::max(widest, name.size());
  const auto line = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) lines.push_back(fmt::format("{:<{}} {}", key, widest, value));
  };
  std::string gpu = p.gpu;
  if (p.gpus > 1) gpu = fmt::format("{} x {}", p.gpus, gpu);
  if (p.sms != 0) gpu += fmt::format(", {} SMs", p.sms);
  if (p.gpu_memory.count != 0) gpu += ", " + to_text(p.gpu_memory);
  line("gpu", gpu);
  if (p.sm_clock_mhz != 0) {
    std::string clock = fmt::format("{} MHz", p.sm_clock_mhz);
    if (p.most_sm_clock_mhz != 0) clock += fmt::format(" of {}", p.most_sm_clock_mhz);
    if (p.memory_clock_mhz != 0) clock += fmt::format(", memory {} MHz", p.memory_clock_mhz);
    line("clock", clock);
  }
  line("driver", p.driver);
  line("cuda", p.cuda);
  std::string nccl = p.nccl_library;
  if (!p.nccl_header.empty() && p.nccl_header != p.nccl_library)
    nccl += fmt::format(" (built with {})", p.nccl_header);
  line("nccl", nccl);
  line("cudnn", p.cudnn);
  line("cublas", p.cublas);
  line("host", p.host);
  line("time", p.time);
  line("tool",
       p.tool_commit.empty() ? p.tool_version : fmt::format("{} ({})", p.tool_version, p.tool_commit));
  std::string command;
  for (const std::string& word : p.argv) command += (command.empty() ? "" : " ") + word;
  line("command", command);
  for (const auto& [name, value] : p.environment) line(name, value);
  for (const auto& [name, value] : p.notes) line(name, value);
  return lines;
}

}  // namespace plumb::render
