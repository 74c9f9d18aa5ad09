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

/// What bounds a part's time, and which other work slows it. A collective names what forward does; backward
/// does its conjugate with as many bytes (an all-gather's is a reduce-scatter, an all-to-all's the way back).
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

/// Work of one of the three: forward, backward_input, backward_weight. What is recomputed counts with
/// backward_input.
struct Work {
  double flops = 0;  // of the matrix products; elementwise work has none
  Bytes moved;       // read and written in device memory if every operand is touched once
  /// Collectives: what the whole group's tensor holds (gathered, or before scattering or summing);
  /// all_to_all: what one device has for the others and itself.
  Bytes sent;
  Bytes workspace;  // transient tensors, alive only while the part runs: neither kept nor left
  bool operator==(const Work&) const = default;
};

/// A tensor that forward leaves for the backward, per microbatch and device.
struct KeptTensor {
  std::string name;
  Bytes bytes;
  bool for_input = false;   // backward_input reads it
  bool for_weight = false;  // backward_weight reads it: it stays until then
  /// Forward does not keep it: backward_input computes it again first, one layer at a time.
  bool recomputed = false;
  bool operator==(const KeptTensor&) const = default;
};

/// One part of a layer on one device: `norm_1`, `qkv`, `rope`, `attention`, `output`, `residual_1`, `norm_2`,
/// `gate_up`, `swiglu`, `down`, `residual_2`; `router`, `dispatch`, `experts_gate_up`, `experts_swiglu`,
/// `experts_down`, `combine`, `shared_…`; `attention_gather`, `ffn_scatter` …; `embedding`, `final_norm`,
/// `head`, `loss`. layer_parts.cpp says what each is.
struct Part {
  std::string name;
  PartClass part_class = PartClass::memory;
  GemmShape gemm;    // with PartClass::gemm
  bool fp8 = false;  // with WeightType::fp8: this product's operands are fp8 (not the head's or the router's)
  Work forward;
  Work backward_input;
  Work backward_weight;                 // nothing for parts without parameters
  std::uint64_t parameters = 0;         // on this device
  std::uint64_t expert_parameters = 0;  // of those, the ones that are spread over the expert group
  std::uint64_t copied_parameters = 0;  // of those, the ones another stage owns: a tied head, MTP's embedding
  std::vector<KeptTensor> kept;
  /// What backward_input makes and leaves for backward_weight (output gradients of linears).
  Bytes gradient_kept;
  bool operator==(const Part&) const = default;
};

/// Consecutive layers of a stage that are alike, or its embedding, an MTP module, or its head.
struct PartGroup {
  std::string name;  // `embedding`, `layer`, `expert_layer`, `multi_token`, `head`
  std::uint64_t times = 1;
  std::vector<Part> parts;  // of one of them, in forward order
  bool operator==(const PartGroup&) const = default;
};

/// What one stage runs on one device in forward order. The layout has passed check_layout.
///
/// The kept tensors are a contract: a runtime's activation memory equals their sum to the byte. A tensor that
/// two parts read is kept once, by the first. The input of a stage is a tensor of its own (norm_1's x): the
/// receive buffer that it came in is counted apart, and given back when the forward that read it ends. So is
/// the gradient of the stage's output, which is the last layer's d(down output): the buffer it came in is
/// given back when backward_input ends, and what is left for backward_weight is the stage's own.
std::vector<PartGroup> stage_groups(const ModelShape& model, const Layout& layout, Stage stage);
/// The same, part by part, layer by layer.
std::vector<Part> stage_parts(const ModelShape& model, const Layout& layout, Stage stage);

/// Parameters of the whole model, MTP modules apart.
std::uint64_t parameters(const ModelShape& model);
/// Parameters that one token meets: all but the experts it is not routed to.
std::uint64_t active_parameters(const ModelShape& model);
std::uint64_t multi_token_parameters(const ModelShape& model);
/// FLOPs of forward and backward for one token of a sequence, without recompute and without MTP modules,
/// causal attention counted in full (as the field's MFU does) and the head included.
double train_flops_per_token(const ModelShape& model, std::uint64_t sequence);

/// Totals of a stage on one device that a CostModel's stage holds. Bytes are of one microbatch.
struct StageBytes {
  std::uint64_t parameters = 0;         // copies of another stage's included
  std::uint64_t expert_parameters = 0;  // of those, reduced over tensor x data / expert devices, not data
  Bytes weights;
  Bytes gradients;
  Bytes optimizer_state;          // Adam's two moments in float32; float32 master weights beside bf16 or fp8
  Bytes kept_by_forward;          // until backward_input, or backward, ends
  Bytes freed_by_backward_input;  // of those
  Bytes added_by_backward_input;  // gradients, and recomputed inputs, kept for backward_weight
  Bytes forward_workspace;        // the most that is alive beside the kept, while the op runs
  Bytes backward_input_workspace;
  Bytes backward_weight_workspace;
  Bytes backward_workspace;  // both halves fused: no gradient outlives the part that reads it
  Bytes activation_message;  // to the next stage, per device; the last has none
  Bytes gradient_message;    // to the previous stage; the first has none
  bool operator==(const StageBytes&) const = default;
};
StageBytes stage_bytes(const ModelShape& model, const Layout& layout, Stage stage);

}  // namespace plumb
