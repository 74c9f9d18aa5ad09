// One measured thing: what was computed or sent, in which setting, and what its samples came to.
#pragma once
#include "calibrate/alternation.hpp"
#include "calibrate/fit.hpp"
#include "calibrate/statistics.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace plumb {

enum class WorkKind : std::uint8_t {
  forward,
  backward_input,
  backward_weight,
  backward,                 // both, fused
  forward_beside_backward,  // of two microbatches, on two streams, from the first begin to the last end
  optimizer,
};
std::string_view words(WorkKind kind);
std::optional<WorkKind> parse_work_kind(std::string_view word);

/// What was computed. Two pieces of work with equal keys take the same time in the same setting, so the shape
/// has to hold every number that matters: `hidden`, `ffn`, `heads`, `micro_batch`, `sequence` …; a dimension
/// that is missing does not matter to this work. calibrate/work makes keys from a model and its layout.
struct WorkKey {
  std::string name;   // `stage`, `layer`, `gemm`, `attention`, or another part's name
  std::string model;  // `mlp`, `rms_norm swiglu rotary`; empty where the shape says it all
  WorkKind kind = WorkKind::forward;
  std::map<std::string, std::int64_t> shape;
  std::string data_type;  // `bf16`, `fp32`
  auto operator<=>(const WorkKey&) const = default;
};

/// What a rank had of the GPU.
enum class Share : std::uint8_t {
  whole_gpu,
  partition,  // `sms` multiprocessors of their own (a green context), in one process
  process,    // one of several processes (MPS), with `sms` of its own where that is not 0
};
/// What the busy others compute. `as_in_steps`: what is measured; forwards and backwards in turns beside
/// single ops, pairs beside pairs.
enum class OthersCompute : std::uint8_t { as_in_steps, forwards, backwards, pairs };
struct Setting {
  Share share = Share::whole_gpu;
  std::uint32_t sms = 0;          // multiprocessors of this rank; 0: all
  std::uint32_t of = 1;           // as many ranks share the GPU
  bool others_busy = false;       // the other ranks compute meanwhile
  std::uint32_t idle_others = 0;  // but for so many of them
  /// The second-level cache was emptied before each sample: an upper bound, and nothing that a step meets.
  bool flushed = false;
  OthersCompute others_compute = OthersCompute::as_in_steps;
  auto operator<=>(const Setting&) const = default;
};

std::string_view words(OthersCompute what);

struct TimedWork {
  WorkKey work;
  Setting setting;
  std::optional<std::uint32_t> rank;  // which one, where ranks were measured apart
  std::string work_class;             // `gemm`, `attention`, `memory`: for the mutual slowdown
  Summary time;
  std::optional<Duration> host_launch;  // median of what the host needs to launch it
  /// Of a part: so many millionths of its time it takes its rank less when other work waits
  /// (Segment::tail_ppm).
  std::optional<std::uint32_t> tail_ppm = {};
  bool operator==(const TimedWork&) const = default;
};

enum class TransferKind : std::uint8_t {
  one_way,     // idle ranks, nothing the other way
  both_ways,   // the two send to each other at once
  at_once,     // `at_once` pairs or messages at the same time
  hop,         // in situ: from the end of the producing op to the start of the consuming one, both ranks busy
  all_reduce,  // of the sizes' bytes on each rank
  reduce_scatter,
  all_gather,
  all_to_all,
};
std::string_view words(TransferKind kind);
std::optional<TransferKind> parse_transfer_kind(std::string_view word);

/// Sums of more gradients than that are as long in proportion.
constexpr Bytes largest_sum{std::int64_t{1} << 30};

struct TransferKey {
  TransferKind kind = TransferKind::one_way;
  std::string transport;             // `local` (device copies in one process), `nccl`
  std::string link;                  // `one gpu`, `nvlink`, `network` …: what joins the ranks
  std::vector<std::uint32_t> ranks;  // from, to; or all members of a collective
  /// Messages, or sums of two ranks: of so many pairs, of which `ranks` are the outermost, r and P - 1 - r.
  std::uint32_t at_once = 1;
  Setting setting;
  auto operator<=>(const TransferKey&) const = default;
};

struct SizedSummary {
  Bytes size;
  Summary time;
  bool operator==(const SizedSummary&) const = default;
};

struct TransferSeries {
  TransferKey key;
  std::vector<SizedSummary> points;  // ascending sizes
  std::optional<LinkFit> fit;
  bool operator==(const TransferSeries&) const = default;
};

/// How long work of one class lasts while work of another runs on the same rank, `communication_sms` of its
/// multiprocessors being the other's.
struct SlowdownKey {
  std::string work_class;
  std::string beside;
  std::uint32_t communication_sms = 0;
  Setting setting;
  auto operator<=>(const SlowdownKey&) const = default;
};
struct Slowdown {
  SlowdownKey key;
  Summary alone;
  Summary together;
  /// Of samples taken in turns; the two summaries' medians are from other times, and so from other clocks.
  std::optional<Ratio> ratio = {};
  bool operator==(const Slowdown&) const = default;
};
/// together / alone, in millionths, by turns where they were taken; at least 1,000,000, for nobody is sped up
/// by company.
std::uint32_t slowdown_ppm(const Slowdown& slowdown);

/// To the byte, of one microbatch on one device. The kind of `work` is `forward`.
struct MeasuredMemory {
  WorkKey work;
  Bytes weights;
  Bytes gradients;
  Bytes kept_by_forward;
  Bytes freed_by_backward_input;  // of those
  Bytes added_by_backward_input;  // kept for backward_weight
  Bytes freed_by_backward_weight;
  std::map<WorkKind, Bytes> workspace;  // more while the op runs
  bool operator==(const MeasuredMemory&) const = default;
};

// What is to be measured: the keys without the figures.
struct WorkTarget {
  WorkKey work;
  Setting setting;
  auto operator<=>(const WorkTarget&) const = default;
};
struct TransferTarget {
  TransferKey key;
  Bytes size;
  auto operator<=>(const TransferTarget&) const = default;
};
struct SlowdownTarget {
  SlowdownKey key;
  auto operator<=>(const SlowdownTarget&) const = default;
};
struct MemoryTarget {
  WorkKey work;
  auto operator<=>(const MemoryTarget&) const = default;
};
using Target = std::variant<WorkTarget, TransferTarget, SlowdownTarget, MemoryTarget>;

/// One line that names the target and no other: `layer forward bf16 mlp ffn=8192 hidden=2048 …, partition of
/// 16 SMs, 1 of 8 busy`.
std::string to_string(const WorkKey& work);
std::string to_string(const Setting& setting);
std::string to_string(const TransferKey& key);
std::string to_string(const SlowdownKey& key);
std::string to_string(const Target& target);

/// What measuring a target gave: one entry a rank where ranks are told apart. The samples go to the side
/// file.
struct Transfer {
  TransferKey key;
  SizedSummary point;
  bool operator==(const Transfer&) const = default;
};
struct Measurement {
  std::variant<TimedWork, Transfer, Slowdown, MeasuredMemory> figures;
  std::vector<Sample> samples;
};
Target target_of(const Measurement& measurement);

}  // namespace plumb
