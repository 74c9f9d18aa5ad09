#include "sim/part_time.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace plumb {
namespace {

constexpr std::uint64_t tile = 128;

double seconds(Duration duration) { return static_cast<double>(duration.ns) * 1e-9; }
double in_tiles(std::uint64_t n) { return static_cast<double>((n + tile - 1) / tile); }
// Steps of an algorithm that doubles what it has reached.
double steps(std::uint32_t devices) { return std::bit_width(std::max(devices, 1u) - 1); }

}  // namespace

DeviceGroup group_of(std::uint32_t size, std::uint32_t stride, const DeviceDescription& device) {
  const std::uint32_t fit = std::max(1u, device.devices_per_node / std::max(1u, stride));
  return {size, std::min(size, fit)};
}

double PartTime::peak(bool fp8) const {
  if (fp8 && device_.peak.fp8 > 0) return device_.peak.fp8;
  return type_ == WeightType::fp32 ? device_.peak.fp32 : device_.peak.bf16;
}

double PartTime::bandwidth(const Link& link) const {
  return link.bandwidth ? link.bandwidth->value * device_.efficiencies.collective
                        : std::numeric_limits<double>::infinity();
}

double PartTime::product(const GemmShape& shape, bool fp8, Bytes moved) const {
  const double processors = device_.multiprocessors;
  const double tiles = in_tiles(shape.m) * in_tiles(shape.n) * static_cast<double>(shape.count);
  double waves = std::ceil(tiles / processors);
  double depth = static_cast<double>(shape.k);
  if (tiles < processors) depth /= std::max(1.0, std::floor(processors / tiles));
  const bool fast = fp8 && device_.peak.fp8 > 0;
  const double flops = 2.0 * tile * tile * (depth + device_.efficiencies.gemm_fill);
  const double busy = waves * flops * processors / (peak(fast) * efficiency(fast));
  return std::max(busy, streamed(moved)) + seconds(device_.efficiencies.launch);
}

double PartTime::fused_attention(double flops, std::uint64_t sequence, Bytes moved) const {
  const double rows = static_cast<double>(sequence);
  const double share = 0.5 * (1 + static_cast<double>(tile) / rows);
  const double busy = flops * share / (device_.peak.bf16 * device_.efficiencies.attention);
  return std::max(busy, streamed(moved)) + seconds(device_.efficiencies.launch);
}

double PartTime::streamed(Bytes moved) const {
  return static_cast<double>(moved.count) / (device_.memory_bandwidth.value * device_.efficiencies.memory);
}

double PartTime::memory(Bytes moved, double traffic) const {
  return streamed(moved) * traffic + seconds(device_.efficiencies.launch);
}

double PartTime::collective(PartClass kind, Bytes whole, const DeviceGroup& group) const {
  PLUMB_CHECK(is_collective(kind));
  if (group.devices < 2 || whole == Bytes{}) return 0;
  const double bytes = static_cast<double>(whole.count);
  const double near = group.per_node;
  const double all = group.devices;
  const double nodes = group.nodes();
  double on_node;  // over one device's links
  double between;
  if (kind == PartClass::all_to_all) {
    on_node = bytes * (near - 1) / all;
    between = bytes * (all - near) / all;
  } else {
    const double passes = kind == PartClass::all_reduce ? 2 : 1;
    on_node = passes * bytes * (near - 1) / near;
    between = passes * bytes * (nodes - 1) / nodes / near;
  }
  const double trips = kind == PartClass::all_reduce ? 2 : 1;
  const double latency = trips * (seconds(device_.node_link.latency) * steps(group.per_node) +
                                  seconds(device_.network.latency) * steps(group.nodes()));
  return seconds(device_.efficiencies.collective_launch) + latency +
         std::max(on_node / bandwidth(device_.node_link), between / bandwidth(device_.network));
}

}  // namespace plumb
