// What one rank's PyTorch profile says of the pipeline's actions: how long the kernels of each ran.
#pragma once
#include "schedules/ir/op.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <istream>
#include <optional>
#include <string>
#include <vector>

namespace plumb {

/// One labelled action (`PP:0F3`) as it ran once.
struct KinetoAction {
  Action action;
  TimePoint begin;  // of its label on the CPU
  /// Of its computing kernels, wherever they ran: from the first's begin to the last's end without the gaps
  /// in which the GPU had nothing of it to do for 20 us or more (it waited for the host or for a message).
  Duration compute;
  /// Busy time of collectives and messages that the action itself launched, by NCCL's kind: `all_to_all` …
  std::vector<std::pair<std::string, Duration>> communication;
};

/// One labelled message (`PP:0SEND_F3`) as it ran once: waiting for the peer included.
struct KinetoMessage {
  Op op;
  Duration duration;
  Bytes bytes;  // 0: the profile does not say
};

struct KinetoTrace {
  std::string where;
  std::optional<std::uint32_t> rank;  // where the profile says it
  std::uint32_t ranks = 0;
  std::string gpu;
  std::uint32_t sms = 0;
  Bytes gpu_memory;
  std::string cuda;
  std::string driver;
  std::string nccl;
  bool on_gpu = false;  // otherwise the labels' own time on the CPU is what there is
  std::uint64_t kernels = 0;
  std::uint64_t unjoined = 0;  // kernels whose launch is not in the profile
  std::uint64_t outside = 0;   // kernels that no action launched: optimizer, gradient reduction, data
  std::vector<KinetoAction> actions;
  std::vector<KinetoMessage> messages;
};

/// Reads a profile (JSON, or gzipped JSON) as a stream: of each event only some tens of bytes are kept.
/// Kernels are joined to the action by the correlation id of their launch and when that was. Throws BadInput
/// in one sentence: not JSON, cut off, no labelled action, kernels without launches, numbers that cannot be.
KinetoTrace read_kineto_trace(std::istream& in, const std::string& where);

}  // namespace plumb
