#include "calibrate/measurement.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::array<std::pair<WorkKind, std::string_view>, 6> work_kinds{{
    {WorkKind::forward, "forward"},
    {WorkKind::backward_input, "backward_input"},
    {WorkKind::backward_weight, "backward_weight"},
    {WorkKind::backward, "backward"},
    {WorkKind::forward_beside_backward, "forward_beside_backward"},
    {WorkKind::optimizer, "optimizer"},
}};

constexpr std::array<std::pair<TransferKind, std::string_view>, 8> transfer_kinds{{
    {TransferKind::one_way, "one_way"},
    {TransferKind::both_ways, "both_ways"},
    {TransferKind::at_once, "at_once"},
    {TransferKind::hop, "hop"},
    {TransferKind::all_reduce, "all_reduce"},
    {TransferKind::reduce_scatter, "reduce_scatter"},
    {TransferKind::all_gather, "all_gather"},
    {TransferKind::all_to_all, "all_to_all"},
}};

template <class Table, class Kind>
std::string_view word_of(const Table& table, Kind kind) {
  return table[static_cast<std::size_t>(kind)].second;
}

template <class Kind, std::size_t n>
std::optional<Kind> kind_of(const std::array<std::pair<Kind, std::string_view>, n>& table,
                            std::string_view word) {
  for (const auto& [kind, name] : table) {
    if (name == word) return kind;
  }
  return std::nullopt;
}

}  // namespace

std::string_view words(WorkKind kind) { return word_of(work_kinds, kind); }
std::optional<WorkKind> parse_work_kind(std::string_view word) { return kind_of(work_kinds, word); }
std::string_view words(TransferKind kind) { return word_of(transfer_kinds, kind); }
std::optional<TransferKind> parse_transfer_kind(std::string_view word) {
  return kind_of(transfer_kinds, word);
}

std::string_view words(OthersCompute what) {
  constexpr std::array<std::string_view, 4> all{"as_in_steps", "forwards", "backwards", "pairs"};
  return all[static_cast<std::size_t>(what)];
}

std::uint32_t slowdown_ppm(const Slowdown& slowdown) {
  constexpr std::int64_t million = 1'000'000;
  if (slowdown.ratio)
    return static_cast<std::uint32_t>(std::clamp(slowdown.ratio->ppm, million, 1000 * million));
  const std::int64_t alone = slowdown.alone.median.ns;
  const std::int64_t together = slowdown.together.median.ns;
  if (alone <= 0 || together <= alone) return million;
  const double factor = static_cast<double>(together) / static_cast<double>(alone);
  return static_cast<std::uint32_t>(std::min(factor, 1000.0) * million + 0.5);
}

std::string to_string(const WorkKey& work) {
  std::string out = fmt::format("{} {}", work.name, words(work.kind));
  if (!work.data_type.empty()) out += fmt::format(" {}", work.data_type);
  if (!work.model.empty()) out += fmt::format(" [{}]", work.model);
  for (const auto& [dimension, size] : work.shape) out += fmt::format(" {}={}", dimension, size);
  return out;
}

std::string to_string(const Setting& setting) {
  std::string out;
  switch (setting.share) {
    case Share::whole_gpu:
      out = "whole GPU";
      break;
    case Share::partition:
      out = fmt::format("partition of {} SMs, 1 of {}", setting.sms, setting.of);
      break;
    case Share::process:
      out = fmt::format("process, 1 of {}", setting.of);
      if (setting.sms != 0) out += fmt::format(" with {} SMs", setting.sms);
      break;
  }
  if (setting.others_busy) out += ", others busy";
  if (setting.others_compute != OthersCompute::as_in_steps)
    out += fmt::format(" with {}", words(setting.others_compute));
  if (setting.idle_others > 0) out += fmt::format(" but for {}", setting.idle_others);
  if (setting.flushed) out += ", cache flushed";
  return out;
}

std::string to_string(const TransferKey& key) {
  std::string out = fmt::format("{} {}", words(key.kind), key.transport);
  if (!key.link.empty()) out += fmt::format(" over {}", key.link);
  for (std::size_t k = 0; k < key.ranks.size(); ++k) {
    const bool message = key.kind <= TransferKind::hop;
    out += k == 0 ? fmt::format(", ranks {}", key.ranks[k])
                  : fmt::format("{}{}", message ? ">" : ",", key.ranks[k]);
  }
  if (key.at_once != 1) out += fmt::format(", {} at once", key.at_once);
  return out + ", " + to_string(key.setting);
}

std::string to_string(const SlowdownKey& key) {
  return fmt::format("{} beside {}, {} SMs for communication, {}", key.work_class, key.beside,
                     key.communication_sms, to_string(key.setting));
}

std::string to_string(const Target& target) {
  struct Visitor {
    std::string operator()(const WorkTarget& t) const {
      return to_string(t.work) + ", " + to_string(t.setting);
    }
    std::string operator()(const TransferTarget& t) const {
      return fmt::format("{}, {} B", to_string(t.key), t.size.count);
    }
    std::string operator()(const SlowdownTarget& t) const { return to_string(t.key); }
    std::string operator()(const MemoryTarget& t) const { return "memory of " + to_string(t.work); }
  };
  return std::visit(Visitor{}, target);
}

Target target_of(const Measurement& measurement) {
  struct Visitor {
    Target operator()(const TimedWork& m) const { return WorkTarget{m.work, m.setting}; }
    Target operator()(const Transfer& m) const { return TransferTarget{m.key, m.point.size}; }
    Target operator()(const Slowdown& m) const { return SlowdownTarget{m.key}; }
    Target operator()(const MeasuredMemory& m) const { return MemoryTarget{m.work}; }
  };
  return std::visit(Visitor{}, measurement.figures);
}

}  // namespace plumb
