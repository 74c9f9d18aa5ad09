// Which layout and which schedule for a model on N devices: schedules x PP x TP x EP x chunks x microbatch
// size x recompute, ranked by step time under a memory cap.
#pragma once
#include "schedules/generators/generator.hpp"
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/execution_options.hpp"
#include "schedules/model/layout.hpp"
#include "sim/report.hpp"
#include "tools/planner/refusals.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

/// The costs of a model as a layout cuts it. Called from many threads. Throws BadInput for a layout that
/// cannot be.
using CostsForLayout = std::function<CostModel(const Layout&)>;

struct SearchRequest {
  ModelShape model;
  std::uint32_t devices = 1;
  std::uint32_t devices_per_node = 8;  // tensor parallelism stays within a node
  std::uint64_t global_batch = 1;      // sequences of a step
  std::uint64_t sequence = 1;          // tokens
  Bytes memory;                        // of one device
  Numerics numerics;
  bool sequence_parallel = true;
  bool shard_optimizer = true;
  /// What to try; empty: everything that divides, 1, 2 and 4 sequences a microbatch, up to 10 chunks.
  std::vector<std::uint32_t> pipeline, tensor, expert, chunks, micro_batch_sizes;
  std::vector<Recompute> recompute;  // empty: none and full, and selective where attention is not fused
  /// Empty: all; then those that run a forward beside a backward only where experts send messages to hide.
  std::vector<const Generator*> schedules;
  CommPlacement placement = CommPlacement::per_op;
  ExecutionOptions execution;
  std::size_t best = 10;  // plans that are the best of all, exactly
  unsigned threads = 0;   // 0: all cores; the result does not depend on it
};

struct LayoutPlan {
  const Generator* generator = nullptr;
  Shape shape;    // legal, chunks filled in; group where it is not the schedule's default
  Layout layout;  // with its stages
  Report report;
  Bytes peak;  // of the fullest rank
  Duration step_time() const { return report.step_time; }
};

/// What is nearest to fitting where nothing fits.
struct Nearest {
  const Generator* generator = nullptr;
  Shape shape;
  Layout layout;
  Bytes peak;  // at least
};

struct SearchResult {
  /// Fastest first; equals by memory, then by the order of the sweep. The `best` fastest of all, the fastest
  /// of each schedule, and those on the front of time against memory.
  std::vector<LayoutPlan> plans;
  /// Into plans: the fastest; of those that differ in chunks and stages alone, one.
  std::vector<std::size_t> best;
  std::vector<std::size_t>
      front;                     // into plans: nothing is both as fast and as small, up to half as long again
  std::vector<Refusal> refused;  // by schedule, then most candidates first
  std::optional<Nearest> nearest;  // if no plan fits
  std::size_t candidates = 0;      // layouts x schedules that were looked at
  std::size_t simulated = 0;
  bool interrupted = false;
};

struct SearchProgress {
  bool bounding = true;  // looking at all layouts; then simulating the most promising
  std::size_t done = 0;
  std::size_t of = 0;
  const LayoutPlan* best = nullptr;  // so far
};

/// Bounds every candidate from below in time (its ranks' own work and what must come before and after it) and
/// memory (what its schedule holds at most, by program order), drops those beyond the memory cap, and
/// simulates the others whole, lowest bound first, until no bound can beat a plan that is to be shown: the
/// `best`-th of all, the first of its schedule, or the front of time against memory. So every plan in the
/// result is simulated, and none that belongs there is missing, as far as costs of stages are sums over what
/// they hold. Each candidate is tried with even stages, with ranks and with stages as equal in work as can
/// be. Simulated in rounds of a fixed size, so that one request gives one result on any machine.
///
/// Stops early when `*stop` becomes true, with what it has. `report_progress` is called from the calling
/// thread. Throws BadInput where no layout of that many devices and that batch exists at all.
SearchResult search(const SearchRequest& request, const CostsForLayout& costs,
                    const std::function<void(const SearchProgress&)>& report_progress = {},
                    const std::atomic<bool>* stop = nullptr);

/// `pp 8 · tp 4 · dp 2 · ep 1, 2 chunks, micro batch 1, recompute none`: for people.
std::string to_text(const Layout& layout, const Shape& shape);
std::string_view to_string(Recompute recompute);

}  // namespace plumb
