// The one thing about measuring that needs a device. A build with CUDA has one; tests have made-up ones.
#pragma once
#include "calibrate/measurement.hpp"
#include "calibrate/provenance.hpp"
#include "calibrate/statistics.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace plumb {

/// For which model, laid out how, and where: one rank has the whole GPU; several are partitions of one GPU in
/// one process (`local`) or processes (`nccl`), on one GPU or many, as they were launched.
struct CalibrationRequest {
  ModelShape model;
  Layout layout;  // one stage a rank, or a chunk
  /// The same model cut into other numbers of stages, which are measured too.
  std::vector<Layout> other_cuts = {};
  std::uint32_t ranks = 1;
  /// Only stages and layers, the second-level cache being emptied before each sample.
  bool flush = false;
  std::string transport = "local";
  /// Choices of an earlier calibration, to be made again (Calibration::algorithms); what is not there is
  /// chosen anew.
  std::map<std::string, std::string> algorithms;
};

class Measurer {
 public:
  virtual ~Measurer() = default;

  /// Of several processes one plans, measures and writes; the others `serve` until it is destroyed.
  virtual bool leads() const { return true; }
  virtual void serve() {}

  /// But for tool, argv and environment, which are the program's.
  virtual Provenance provenance() const = 0;
  /// How matrix products are computed, those of the request included.
  virtual std::map<std::string, std::string> algorithms() const { return {}; }
  /// What a rank has, its neighbours being busy.
  virtual Setting setting() const = 0;
  /// Pairs of ranks between which messages differ: one a link kind where all of a kind are alike.
  virtual std::vector<std::vector<std::uint32_t>> message_pairs() const = 0;
  /// Whether there is code for it here; what can't be measured is not planned.
  virtual bool can_measure(const Target& target) const = 0;

  /// Warms up, then takes samples until the rule is satisfied. One entry a rank where ranks are told apart
  /// (then TimedWork::rank is set). Throws DeviceError.
  virtual std::vector<Measurement> measure(const Target& target, const StoppingRule& rule) = 0;
  /// Whether two targets can be sampled in turns: then they meet the same clock, and differ by what they are.
  /// Those that can with one of them can with each other.
  virtual bool in_turns(const Target& /*a*/, const Target& /*b*/) const { return false; }
  /// All of them, each two of which can be: what `measure` gives for each, in their order.
  virtual std::vector<Measurement> measure_in_turns(const std::vector<Target>& targets,
                                                    const StoppingRule& rule) {
    std::vector<Measurement> all;
    for (const Target& target : targets) {
      for (Measurement& one : measure(target, rule)) all.push_back(std::move(one));
    }
    return all;
  }
  /// Whether other things can still be measured when one has thrown: not where processes have to agree.
  virtual bool goes_on_after_failure() const { return false; }
};

class Rendezvous;

/// Where a rank in a process of its own stands: with whom it meets, on which GPU of its machine, and which of
/// that one's equal shares it has where several ranks are on it.
struct ProcessPlace {
  Rendezvous* rendezvous = nullptr;
  std::uint32_t device = 0;
  std::uint32_t shares = 0;  // 0: it has the GPU alone
  std::uint32_t share = 0;
};

/// Throws DeviceError, in one sentence, where make_measurer would for every request of this transport; cheap,
/// and asked before processes are started.
void require_measurer(const std::string& transport);

/// Of this build: throws DeviceError, in one sentence, where it was made without CUDA or there is no GPU.
/// `place`: for the transport `nccl`, whose ranks make theirs together.
std::unique_ptr<Measurer> make_measurer(const CalibrationRequest& request, const ProcessPlace& place = {});

}  // namespace plumb
