// How long a device needs for one piece of work, from its data sheet and what software reaches of it. All
// times in seconds; they become integers once, in the recipe. Private to sim.
#pragma once
#include "calibrate/device_description.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/layout.hpp"

#include <cstdint>

namespace plumb {

/// Devices that take part in a collective: `devices` in all, `per_node` of them on one node.
struct DeviceGroup {
  std::uint32_t devices = 1;
  std::uint32_t per_node = 1;
  std::uint32_t nodes() const { return (devices + per_node - 1) / per_node; }
  bool operator==(const DeviceGroup&) const = default;
};

/// `size` devices of which neighbours stand `stride` apart.
DeviceGroup group_of(std::uint32_t size, std::uint32_t stride, const DeviceDescription& device);

class PartTime {
 public:
  PartTime(const DeviceDescription& device, WeightType type) : device_(device), type_(type) {}

  /// Matrix products in tiles of 128 x 128, a tile a multiprocessor at a time, in whole waves; with fewer
  /// tiles than multiprocessors k is split among those that would stand idle. Or, where that is longer, as
  /// long as `moved` takes.
  double product(const GemmShape& shape, bool fp8, Bytes moved) const;
  /// Fused attention of `flops` (counted in full) over rows of `sequence`, of which the causal half is
  /// computed, by blocks of 128.
  double fused_attention(double flops, std::uint64_t sequence, Bytes moved) const;
  /// Elementwise work that must move so many bytes, and moves `traffic` times as many.
  double memory(Bytes moved, double traffic) const;
  /// Bytes through device memory, without a kernel's launch.
  double streamed(Bytes moved) const;
  /// A ring on each node and between nodes, both at work at once: all_gather and reduce_scatter move
  /// (n - 1) / n of `whole` over each device's link, all_reduce twice that; between k nodes whose g members
  /// each have an adapter, (k - 1) / k of `whole` / g over each. all_to_all: `whole` is one device's, a share
  /// for each.
  double collective(PartClass kind, Bytes whole, const DeviceGroup& group) const;

 private:
  double peak(bool fp8) const;
  double efficiency(bool fp8) const {
    return fp8 ? device_.efficiencies.gemm_fp8 : device_.efficiencies.gemm;
  }
  double bandwidth(const Link& link) const;

  const DeviceDescription& device_;
  WeightType type_;
};

}  // namespace plumb
