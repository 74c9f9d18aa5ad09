// What a stage is made of, part by part: parameters, FLOPs, bytes moved, bytes kept, collectives. Each
// formula stands here once; time comes in elsewhere.
#pragma once
#include "schedules/ir/ids.hpp"
#include "schedules/ir/units.hpp"
#include "schedules/model/layout.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace plumb {

/// What bounds a part's time, and which other work slows it.
enum class PartClass : std::uint8_t {
  gemm,        // matrix units
  attention,   // fused attention
  memory,      // elementwise, norms, softmax, cross-entropy: device memory
  all_gather,  // collectives: over the tensor-parallel group, unless the class says otherwise
  reduce_scatter,
  all_reduce,
  all_to_all,  // over the expert-parallel group
};
constexpr bool is_collective(PartClass c) { return c >= PartClass::all_gather; }

/// The matrix product m x n x k, `count` of them, of one microbatch on one device.
struct GemmShape {
  std::uint64_t m = 0, n = 0, k = 0;
  std::uint64_t count = 1;
  bool operator==(const GemmShape&) const = default;
};

/// Work of one of the three: forward, backward_input, backward_weight.
struct Work {
  double flops = 0;  // on the part's main unit
  Bytes moved;       // read and written in device memory if every operand is touched once
  Bytes sent;        // collectives: what the whole group's tensor holds (gathered, or before scattering)
  bool operator==(const Work&) const = default;
};

/// A tensor that forward leaves for the backward, per microbatch and device.
struct KeptTensor {
  std::string name;
  Bytes bytes;
  bool for_input = false;   // backward_input reads it
  bool for_weight = false;  // backward_weight reads it: it stays until then
  bool operator==(const KeptTensor&) const = default;
};

/// One part of a layer on one device: `norm_1`, `qkv`, `attention`, `output`, `gate_up`, `swiglu`, `down`,
/// `router`, `dispatch`, `experts`, `combine`, `embedding`, `head`, `loss` …
struct Part {
  std::string name;
  PartClass part_class = PartClass::memory;
  GemmShape gemm;  // with PartClass::gemm
  Work forward;
  Work backward_input;
  Work backward_weight;                 // nothing for parts without parameters
  std::uint64_t parameters = 0;         // on this device
  std::uint64_t expert_parameters = 0;  // of those, the ones that are spread over the expert group
  std::vector<KeptTensor> kept;
  /// What backward_input makes and leaves for backward_weight (output gradients of linears).
  Bytes gradient_kept;
  bool operator==(const Part&) const = default;
};

/// The parts of one stage on one device in forward order; layer by layer, with what embedding, MTP and head
/// add.
std::vector<Part> stage_parts(const ModelShape& model, const Layout& layout, Stage stage);

/// Parameters of the whole model, MTP modules apart.
std::uint64_t parameters(const ModelShape& model);
/// Parameters that one token meets: all but the experts it is not routed to.
std::uint64_t active_parameters(const ModelShape& model);
std::uint64_t multi_token_parameters(const ModelShape& model);
/// FLOPs of forward and backward for one token of a sequence, without recompute, causal attention counted in
/// full (as the field's MFU does) and the head included.
double train_flops_per_token(const ModelShape& model, std::uint64_t sequence);

/// Totals of a stage on one device that a CostModel's stage holds.
struct StageBytes {
  Bytes weights;
  Bytes gradients;
  Bytes optimizer_state;          // master weights included
  Bytes kept_by_forward;          // until backward_input, or backward, ends
  Bytes freed_by_backward_input;  // of those
  Bytes added_by_backward_input;  // gradients kept for backward_weight
  Bytes activation_message;       // to the next stage, per device
  Bytes gradient_message;
  bool operator==(const StageBytes&) const = default;
};
StageBytes stage_bytes(const ModelShape& model, const Layout& layout, Stage stage);

}  // namespace plumb
