#include "tools/render/calibration_report.hpp"

#include "tools/render/palette.hpp"
#include "tools/render/svg_text.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
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

std::string series_name(const TransferKey& key) { return to_string(key); }

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
    std::vector<std::string> row{series_name(series.key), fmt::format("{}", series.points.size()),
                                 microseconds(least.time.median), microseconds(most.time.median),
                                 fmt::format("{:.2f}", rate)};
    if (series.fit) {
      const std::size_t pieces = std::max<std::size_t>(1, series.fit->knots.size() - 1);
      row.insert(row.end(),
                 {fmt::format("{}", pieces), ppm_percent(series.fit->worst_residual_ppm),
                  ppm_percent(series.fit->median_held_out_ppm), ppm_percent(series.fit->worst_held_out_ppm)});
    } else {
      row.insert(row.end(), {"", "", "", ""});
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

// The matrices to show: one a setting and number of communication multiprocessors.
struct Matrix {
  std::string title;
  std::vector<std::string> classes;
  std::map<std::pair<std::string, std::string>, const Slowdown*> cells;
};

std::vector<Matrix> matrices(const Calibration& calibration) {
  std::map<std::pair<std::uint32_t, Setting>, Matrix> all;
  for (const Slowdown& one : calibration.slowdowns) {
    Matrix& matrix = all[{one.key.communication_sms, one.key.setting}];
    matrix.title =
        fmt::format("{} SMs for communication, {}", one.key.communication_sms, to_string(one.key.setting));
    for (const std::string& name : {one.key.work_class, one.key.beside}) {
      if (std::find(matrix.classes.begin(), matrix.classes.end(), name) == matrix.classes.end()) {
        matrix.classes.push_back(name);
      }
    }
    matrix.cells[{one.key.work_class, one.key.beside}] = &one;
  }
  std::vector<Matrix> out;
  for (auto& [key, matrix] : all) out.push_back(std::move(matrix));
  return out;
}

std::string factor(const Matrix& matrix, const std::string& a, const std::string& b) {
  const auto cell = matrix.cells.find({a, b});
  return cell == matrix.cells.end() ? "" : fmt::format("{:.3f}", slowdown_ppm(*cell->second) / 1e6);
}

Table matrix_table(const Matrix& matrix) {
  Table table;
  table.head = {"lasts, times"};
  for (const std::string& beside : matrix.classes) table.head.push_back("beside " + beside);
  for (const std::string& name : matrix.classes) {
    std::vector<std::string> row{name};
    for (const std::string& beside : matrix.classes) row.push_back(factor(matrix, name, beside));
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

// ----- the picture

constexpr std::string_view quiet = "#6a737d";
constexpr std::string_view faint = "#d8dee4";
constexpr std::array<std::string_view, 8> colours{"#0b62a4", "#c2410c", "#15803d", "#7e22ce",
                                                  "#b45309", "#0f766e", "#be185d", "#4b5563"};

class Svg {
 public:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }
  void words(double x, double y, std::string_view anchor, int size, std::string_view colour,
             std::string_view text) {
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\" text-anchor=\"{}\" fill=\"{}\">{}</text>\n", x, y,
        size, anchor, colour, escaped(text));
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// Powers of ten from the one below `low` to the one above `high`, as exponents.
std::pair<int, int> decades(double low, double high) {
  const int from = static_cast<int>(std::floor(std::log10(low)));
  const int to = static_cast<int>(std::ceil(std::log10(high)));
  return {from, std::max(to, from + 1)};
}

std::string size_words(double bytes) {
  constexpr std::array<std::pair<double, std::string_view>, 4> units{
      {{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "B"}}};
  for (const auto& [unit, name] : units) {
    if (bytes >= unit) return fmt::format("{:g} {}", bytes / unit, name);
  }
  return "0";
}

std::string time_words(double ns) {
  constexpr std::array<std::pair<double, std::string_view>, 4> units{
      {{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}, {1, "ns"}}};
  for (const auto& [unit, name] : units) {
    if (ns >= unit) return fmt::format("{:g} {}", ns / unit, name);
  }
  return "0";
}

// A message of no bytes, and a time of none, have no place on a logarithmic axis: they stand at 1.
double at_least_one(std::int64_t value) { return static_cast<double>(std::max<std::int64_t>(1, value)); }

double draw_transfers(Svg& svg, const std::vector<TransferSeries>& all, double top) {
  constexpr double left = 80, width = 620, height = 360;
  double least_size = 1e18, most_size = 1, least_time = 1e18, most_time = 1;
  for (const TransferSeries& series : all) {
    for (const SizedSummary& point : series.points) {
      least_size = std::min(least_size, at_least_one(point.size.count));
      most_size = std::max(most_size, at_least_one(point.size.count));
      least_time = std::min(least_time, at_least_one(point.time.lower_quartile.ns));
      most_time = std::max(most_time, at_least_one(point.time.upper_quartile.ns));
    }
  }
  const auto [size_from, size_to] = decades(least_size, most_size);
  const auto [time_from, time_to] = decades(least_time, most_time);
  const auto x = [&, from = size_from, to = size_to](double bytes) {
    return left + width * (std::log10(bytes) - from) / (to - from);
  };
  const auto y = [&, from = time_from, to = time_to](double ns) {
    return top + height * (1 - (std::log10(ns) - from) / (to - from));
  };
  svg.words(left, top - 14, "start", 14, ink, "Messages and collectives: time over size, with fits");
  for (int e = size_from; e <= size_to; ++e) {
    const double at = x(std::pow(10.0, e));
    svg.put("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\"/>\n", at, top, top + height, faint);
    svg.words(at, top + height + 18, "middle", 11, quiet, size_words(std::pow(10.0, e)));
  }
  for (int e = time_from; e <= time_to; ++e) {
    const double at = y(std::pow(10.0, e));
    svg.put("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"{}\"/>\n", left, at, left + width, faint);
    svg.words(left - 8, at + 4, "end", 11, quiet, time_words(std::pow(10.0, e)));
  }
  double legend = top + 6;
  for (std::size_t k = 0; k < all.size(); ++k) {
    const std::string_view colour = colours[k % colours.size()];
    svg.put("<g class=\"series\">\n<title>{}</title>\n", escaped(series_name(all[k].key)));
    if (all[k].fit) {
      // A straight piece is a curve on logarithmic axes.
      std::string path;
      const LinkFit& fit = *all[k].fit;
      const double from = std::log10(at_least_one(fit.knots.front().size.count));
      const double to = std::log10(at_least_one(fit.knots.back().size.count));
      constexpr int steps = 96;
      for (int step = 0; step <= steps; ++step) {
        const double bytes = std::pow(10.0, from + (to - from) * step / steps);
        const Bytes pages{std::llround(bytes / page.count) * page.count};
        const Bytes size = pages > copied_in_one_piece ? pages : Bytes{std::llround(bytes)};
        const auto ns = at_least_one(duration_at(fit, size).duration.ns);
        path += fmt::format("{}{:.1f} {:.1f}", step == 0 ? "M" : "L", x(bytes), y(ns));
      }
      svg.put("<path d=\"{}\" stroke=\"{}\" fill=\"none\" stroke-width=\"1.5\"/>\n", path, colour);
    }
    for (const SizedSummary& point : all[k].points) {
      const double at = x(at_least_one(point.size.count));
      svg.put("<path d=\"M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\" stroke-opacity=\"0.5\" stroke-width=\"3\"/>\n",
              at, y(at_least_one(point.time.lower_quartile.ns)),
              y(at_least_one(point.time.upper_quartile.ns)), colour);
      svg.put("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>{} B: {} us</title></circle>\n",
              at, y(at_least_one(point.time.median.ns)), colour, point.size.count,
              microseconds(point.time.median));
    }
    svg.put("</g>\n");
    svg.put("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n", left + width + 20,
            legend - 10, colour);
    svg.words(left + width + 38, legend, "start", 11, ink, series_name(all[k].key));
    legend += 18;
  }
  return std::max(top + height + 40, legend + 20);
}

constexpr double cell_width = 116;  // `attention_backward` fits

double draw_matrix(Svg& svg, const Matrix& matrix, double top) {
  constexpr double left = 160, cell_height = 30;
  svg.words(left, top - 30, "start", 14, ink, "How much longer work lasts: " + matrix.title);
  for (std::size_t column = 0; column < matrix.classes.size(); ++column) {
    svg.words(left + (static_cast<double>(column) + 0.5) * cell_width, top - 8, "middle", 11, quiet,
              matrix.classes[column]);
  }
  svg.words(left - 10, top - 8, "end", 11, quiet, "beside");
  for (std::size_t row = 0; row < matrix.classes.size(); ++row) {
    const double at = top + static_cast<double>(row) * cell_height;
    svg.words(left - 10, at + 20, "end", 12, ink, matrix.classes[row]);
    for (std::size_t column = 0; column < matrix.classes.size(); ++column) {
      const auto cell = matrix.cells.find({matrix.classes[row], matrix.classes[column]});
      const double x = left + static_cast<double>(column) * cell_width;
      if (cell == matrix.cells.end()) {
        svg.put(
            "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.0f}\" height=\"28\" fill=\"none\" stroke=\"{}\"/>\n",
            x, at, cell_width - 2, faint);
        continue;
      }
      // White at 1, full colour at twice the time and beyond; dark text can be read on all of it.
      const double heat = std::clamp(slowdown_ppm(*cell->second) / 1e6 - 1, 0.0, 1.0);
      const auto fade = static_cast<int>(255 - 125 * heat);
      svg.put(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.0f}\" height=\"28\" fill=\"rgb(255,{},{})\" "
          "stroke=\"{}\"/>\n",
          x, at, cell_width - 2, fade + static_cast<int>(40 * heat), fade, faint);
      svg.words(x + cell_width / 2 - 1, at + 19, "middle", 12, ink,
                factor(matrix, matrix.classes[row], matrix.classes[column]));
    }
  }
  return top + static_cast<double>(matrix.classes.size()) * cell_height + 60;
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
  add("Ranks that were measured apart", rank_table(calibration));
  add("Messages and collectives", transfer_table(calibration));
  for (const Matrix& matrix : matrices(calibration))
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
  const auto line = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) lines.push_back(fmt::format("{:<14} {}", key, value));
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

std::string calibration_svg(const Calibration& calibration) {
  Svg body;
  double bottom = 40;
  if (!calibration.transfers.empty()) bottom = draw_transfers(body, calibration.transfers, bottom) + 30;
  double width = 1240;
  for (const Matrix& matrix : matrices(calibration)) {
    width = std::max(width, 200 + cell_width * static_cast<double>(matrix.classes.size()));
    bottom = draw_matrix(body, matrix, bottom + 30);
  }
  if (body.text().empty()) {
    body.words(40, bottom, "start", 14, ink, "No message and no slowdown was measured.");
    bottom += 30;
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
      "{1:.0f}\" "
      "font-family=\"Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\" role=\"img\">\n"
      "<title>{2}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{3}</svg>\n",
      width, bottom, escaped("Calibration " + calibration.name), body.text());
}

}  // namespace plumb::render
