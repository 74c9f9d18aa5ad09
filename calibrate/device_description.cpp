#include "calibrate/device_description.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::int64_t gigabyte = 1'000'000'000;

// What NCCL needs for a small message between two devices: of the order its own tests print. Assumed.
constexpr Duration node_latency{5'000};
constexpr Duration network_latency{12'000};

Link link(Duration latency, double gigabytes_per_s) {
  return {latency, BytesPerSecond{gigabytes_per_s * 1e9}};
}

std::vector<DeviceDescription> describe() {
  const Efficiencies fused = fused_efficiencies();
  DeviceDescription a100;
  a100.name = "a100";
  a100.peak = {312e12, 0, 156e12};
  a100.memory_bandwidth = {2039e9};
  a100.memory = {80 * gigabyte};
  a100.multiprocessors = 108;
  a100.devices_per_node = 8;
  a100.reserve = {3 * gigabyte};
  a100.efficiencies = eager_efficiencies();
  a100.node_link = link(node_latency, 300);
  a100.network = link(network_latency, 25);
  a100.sources = {
      {"peak, memory", "NVIDIA A100 data sheet (SXM4 80 GB), without sparsity"},
      {"node_link", "NVLink 3: 600 GB/s both ways together; NVIDIA A100 data sheet"},
      {"network", "one 200 Gb/s adapter a device, as DGX A100"},
      {"latencies", "assumed"},
      {"reserve", "assumed"},
  };

  DeviceDescription h100 = a100;
  h100.name = "h100";
  h100.efficiencies = fused;
  h100.peak = {989.4e12, 1978.9e12, 494.7e12};
  h100.memory_bandwidth = {3350e9};
  h100.multiprocessors = 132;
  h100.node_link = link(node_latency, 450);
  h100.network = link(network_latency, 50);
  h100.sources["peak, memory"] = "NVIDIA H100 data sheet (SXM5), without sparsity";
  h100.sources["node_link"] = "NVLink 4: 900 GB/s both ways together; NVIDIA H100 data sheet";
  h100.sources["network"] = "one 400 Gb/s adapter a device, as DGX H100";

  DeviceDescription h200 = h100;
  h200.name = "h200";
  h200.memory_bandwidth = {4800e9};
  h200.memory = {141 * gigabyte};
  h200.sources["peak, memory"] = "NVIDIA H200 data sheet (SXM5), without sparsity";

  DeviceDescription h800 = h100;
  h800.name = "h800";
  h800.node_link = link(node_latency, 200);
  h800.sources["peak, memory"] = "as H100 SXM5, whose export variant it is";
  h800.sources["node_link"] =
      "NVLink at 400 GB/s both ways together (arXiv 2412.19437 counts 160 GB/s as reached one way)";
  h800.sources["network"] = "one 400 Gb/s adapter a device (arXiv 2412.19437: 50 GB/s)";

  DeviceDescription b200 = h100;
  b200.name = "b200";
  // Its peak is further out of reach.
  b200.efficiencies.gemm = 0.60;
  b200.efficiencies.gemm_fp8 = 0.47;
  b200.efficiencies.attention = 0.50;
  b200.peak = {2250e12, 4500e12, 1125e12};
  b200.memory_bandwidth = {8000e9};
  b200.memory = {180 * gigabyte};
  b200.multiprocessors = 148;
  b200.node_link = link(node_latency, 900);
  b200.sources["peak, memory"] = "NVIDIA HGX and DGX B200 data sheets, an eighth each, without sparsity";
  b200.sources["node_link"] = "NVLink 5: 1.8 TB/s both ways together; NVIDIA DGX B200 data sheet";
  b200.sources["network"] = "one 400 Gb/s adapter a device, as DGX B200";

  DeviceDescription gb200 = b200;
  gb200.name = "gb200";
  gb200.peak = {2500e12, 5000e12, 1250e12};
  gb200.memory = {186 * gigabyte};
  gb200.devices_per_node = 72;
  gb200.sources["peak, memory"] = "NVIDIA GB200 NVL72 data sheet, a 72nd each, without sparsity";
  gb200.sources["node_link"] = "NVLink 5, all 72 devices of the rack; NVIDIA GB200 NVL72 data sheet";
  gb200.sources["network"] = "one 400 Gb/s adapter a device, as DGX GB200";

  return {a100, h100, h200, h800, b200, gb200};
}

}  // namespace

Efficiencies eager_efficiencies() {
  Efficiencies e;
  e.software = "eager";
  e.fused_attention = false;
  e.fused_loss = false;
  e.dropout = true;
  e.sequence_parallel = false;
  e.gemm = 0.80;
  e.gemm_fp8 = 0.80;
  e.attention = 0.55;
  e.memory = 0.80;
  e.collective = 0.60;
  e.gemm_fill = 256;
  e.traffic = 1.2;
  e.loss_traffic = 10.5;
  e.launch = {15'000};
  e.collective_launch = {145'000};
  e.message_launch = {30'000};
  e.host_forward = {150'000};
  e.host_backward = {142'000};
  e.host_step = {1'000'000};
  return e;
}

Efficiencies fused_efficiencies() {
  Efficiencies e;
  e.software = "fused";
  e.gemm = 0.66;
  e.gemm_fp8 = 0.53;
  e.attention = 0.55;
  e.memory = 0.80;
  e.collective = 0.75;
  e.gemm_fill = 256;
  e.traffic = 1.3;
  e.loss_traffic = 2;
  e.launch = {3'000};
  e.collective_launch = {15'000};
  e.message_launch = {20'000};
  e.host_forward = {30'000};
  e.host_backward = {20'000};
  e.host_step = {2'000'000};
  e.tensor_overlap = 0.6;
  e.reduction_overlap = 0.8;
  return e;
}

const std::vector<DeviceDescription>& bundled_devices() {
  static const std::vector<DeviceDescription> devices = describe();
  return devices;
}

const DeviceDescription& device_description(std::string_view name) {
  const auto& devices = bundled_devices();
  const auto found = std::find_if(devices.begin(), devices.end(),
                                  [&](const DeviceDescription& device) { return device.name == name; });
  if (found != devices.end()) return *found;
  std::string names;
  for (const DeviceDescription& device : devices)
    names += fmt::format("{}{}", names.empty() ? "" : " ", device.name);
  throw BadInput("--gpu", fmt::format("'{}' is not described; described are: {}", name, names));
}

}  // namespace plumb
