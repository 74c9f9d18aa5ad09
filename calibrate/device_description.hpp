// What is known of a device without measuring anything: its data sheet, and what software reaches of it.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// What a software stack reaches of a data sheet's figures, and what it adds to the work itself. Few and
/// physical: each is a ceiling, a fixed price, or a count. One set serves every shape.
struct Efficiencies {
  std::string software;  // `eager` or `fused`

  // What its layers are: the numerics that a layout takes unless told otherwise.
  bool fused_attention = true;
  bool fused_loss = true;
  bool dropout = false;
  bool sequence_parallel = true;

  // Shares of peak that are reached by work so large that its edges don't count.
  double gemm = 0;        // of bf16 (or fp32) FLOP/s
  double gemm_fp8 = 0;    // of fp8 FLOP/s, casts and scaling inside
  double attention = 0;   // of bf16 FLOP/s, fused attention; it computes the causal half
  double memory = 0;      // of device memory's bandwidth
  double collective = 0;  // of a link's bandwidth, collectives and messages

  // Edges.
  double gemm_fill = 0;  // filling and draining a tile's pipeline costs as much as a product this much deeper
  double traffic = 1;    // bytes elementwise work moves, over those it must: kernels that are not fused
  double loss_traffic = 1;     // the same for the loss over the vocabulary
  Duration launch;             // of a kernel on the device, beside its work
  Duration collective_launch;  // of a collective, beside its steps' latencies; also on the host
  Duration message_launch;     // of a pipeline message, beside its link's latency

  // The host. An op lasts as long as the host needs to launch its parts, where that is longer.
  Duration host_forward;   // a part of a layer, in forward (and again in recompute)
  Duration host_backward;  // a part of a layer, in backward
  Duration host_step;      // around the optimizer: clipping, overflow checks, schedules
  /// Of a tensor-parallel collective: how much of it runs inside the product beside it, piece by piece.
  double tensor_overlap = 0;
  /// Of the last backward of a stage: how much of it the gradients' reduction may run beside.
  double reduction_overlap = 0;
  bool operator==(const Efficiencies&) const = default;
};

/// Megatron-LM and Megatron-DeepSpeed of 2021 to 2023 in PyTorch's eager mode: attention scores in memory,
/// dropout, a float32 loss over all logits, every kernel launched by the host. Its figures were chosen on
/// half of 720 published step times of small GPTs on A100; results/2026-11-24-vtrain-a100 says how, and how
/// well they do on the other half and on models a hundred times larger.
Efficiencies eager_efficiencies();
/// A training stack of 2024 and later (Megatron Core with Transformer Engine, torchtitan compiled): fused
/// attention, fused elementwise work, communication that overlaps. `gemm` was chosen on two published bf16
/// step times on H100 and `gemm_fp8` on the same two in fp8, the rest is assumed; the same page compares it
/// with others.
Efficiencies fused_efficiencies();

/// FLOP/s of dense matrix products.
struct PeakFlops {
  double bf16 = 0;  // and fp16
  double fp8 = 0;   // 0: the device has none
  double fp32 = 0;  // as frameworks run it: TF32 where there is TF32
  bool operator==(const PeakFlops&) const = default;
};

struct DeviceDescription {
  std::string name;
  PeakFlops peak;
  BytesPerSecond memory_bandwidth;
  Bytes memory;
  Bytes reserve;  // of it, what no tensor gets: the context, libraries, communicators, the allocator's rest
  std::uint32_t multiprocessors = 0;
  std::uint32_t devices_per_node = 0;  // that reach each other over `node_link`
  Link node_link;                      // one direction, one device
  Link network;                        // one direction, one device's share
  Efficiencies efficiencies;
  std::map<std::string, std::string> sources;  // figure -> where it is from
  bool operator==(const DeviceDescription&) const = default;
};

/// a100 h100 h200 h800 b200 gb200, in this order.
const std::vector<DeviceDescription>& bundled_devices();

/// Throws BadInput that lists the bundled ones.
const DeviceDescription& device_description(std::string_view name);

}  // namespace plumb
