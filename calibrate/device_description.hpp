// What is known of a device without measuring anything: its data sheet, and which share of it work reaches.
#pragma once
#include "schedules/ir/cost_model.hpp"
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// Which share of a data sheet's figures real work reaches. Few and physical: each is a ceiling, or the fixed
/// price of one launch. One set serves every shape; where a figure was fitted, its source says on what.
struct Efficiencies {
  double gemm = 0.80;                  // of peak FLOP/s, a large product whose tiles fill every wave
  double attention = 0.55;             // of peak FLOP/s, a fused attention of long sequences
  double memory = 0.85;                // of memory bandwidth, a long elementwise kernel
  double collective = 0.80;            // of a link's bandwidth, a collective of large tensors
  Duration launch{5'000};              // a kernel's fixed price beside its work
  Duration collective_launch{15'000};  // a collective's, before the steps of its algorithm
  /// Host time a part needs to be launched; parts shorter than it wait for the host. 0: the host keeps ahead.
  Duration host{0};
  bool operator==(const Efficiencies&) const = default;
};

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
