// How long single pieces of work take, from a data sheet of round numbers.
#include "sim/part_time.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

// 100 processors that make 100 TFLOP/s together, 1 TB/s of memory, 100 GB/s to each of 8 on the node, 10 GB/s
// to other nodes; everything is reached and nothing costs anything beside.
DeviceDescription round_device() {
  DeviceDescription device;
  device.peak = {100e12, 200e12, 50e12};
  device.memory_bandwidth = {1e12};
  device.multiprocessors = 100;
  device.devices_per_node = 8;
  device.node_link = {{}, BytesPerSecond{100e9}};
  device.network = {{}, BytesPerSecond{10e9}};
  Efficiencies& e = device.efficiencies;
  e.gemm = e.gemm_fp8 = e.attention = e.memory = e.collective = 1;
  return device;
}

double product(const DeviceDescription& device, GemmShape shape, bool fp8 = false, Bytes moved = {}) {
  return PartTime(device, WeightType::bf16).product(shape, fp8, moved);
}

// A tile of 128 x 128 x 1,000 is 32.768 MFLOP: 32.768 us for one of the 100 processors (1 TFLOP/s).
TEST(PartTime, AProductTakesWholeWavesOfTiles) {
  const DeviceDescription device = round_device();
  EXPECT_NEAR(product(device, {1280, 1280, 1000}), 32.768e-6, 1e-12) << "100 tiles, one wave";
  EXPECT_NEAR(product(device, {1280, 1281, 1000}), 2 * 32.768e-6, 1e-12) << "110 tiles, two waves";
  EXPECT_NEAR(product(device, {128, 128, 1000, 200}), 2 * 32.768e-6, 1e-12) << "200 products of one tile";
}

// 25 tiles on 100 processors: k is cut in four.
TEST(PartTime, FewTilesShareTheProcessorsAlongK) {
  EXPECT_NEAR(product(round_device(), {640, 640, 1000}), 32.768e-6 / 4, 1e-12);
}

// Filling costs as much as 500 more of depth; fp8 is twice as fast; 64 MB take 64 us whatever the FLOPs.
TEST(PartTime, AProductPaysForItsEdgesAndItsBytes) {
  DeviceDescription device = round_device();
  EXPECT_NEAR(product(device, {1280, 1280, 1000}, true), 32.768e-6 / 2, 1e-12);
  EXPECT_NEAR(product(device, {1280, 1280, 1000}, false, Bytes{64'000'000}), 64e-6, 1e-12);
  device.efficiencies.gemm_fill = 500;
  device.efficiencies.launch = {7'000};
  EXPECT_NEAR(product(device, {1280, 1280, 1000}), 1.5 * 32.768e-6 + 7e-6, 1e-12);
  device.efficiencies.gemm = 0.5;
  EXPECT_NEAR(product(device, {1280, 1280, 1000}), 3 * 32.768e-6 + 7e-6, 1e-12);
}

// The causal half of 200 GFLOP is 100 GFLOP, 1 ms; with blocks of 128 in 1,280 rows a tenth more.
TEST(PartTime, FusedAttentionComputesTheCausalHalf) {
  const DeviceDescription device = round_device();
  const PartTime time(device, WeightType::bf16);
  EXPECT_NEAR(time.fused_attention(200e9, 1280, {}), 1.1e-3, 1e-9);
}

TEST(PartTime, ElementwiseWorkMovesItsBytesAsOftenAsTheSoftwareDoes) {
  const DeviceDescription device = round_device();
  const PartTime time(device, WeightType::bf16);
  EXPECT_NEAR(time.memory(Bytes{1'000'000}, 1), 1e-6, 1e-15);
  EXPECT_NEAR(time.memory(Bytes{1'000'000}, 2.5), 2.5e-6, 1e-15);
}

double collective(PartClass kind, std::int64_t bytes, DeviceGroup group) {
  const DeviceDescription device = round_device();
  return PartTime(device, WeightType::bf16).collective(kind, Bytes{bytes}, group);
}

// 80 MB over 4 devices of a node: each link carries 60 MB, 0.6 ms; summed and spread again, twice that.
TEST(PartTime, CollectivesOnANodeAreRings) {
  EXPECT_NEAR(collective(PartClass::all_gather, 80'000'000, {4, 4}), 0.6e-3, 1e-12);
  EXPECT_NEAR(collective(PartClass::reduce_scatter, 80'000'000, {4, 4}), 0.6e-3, 1e-12);
  EXPECT_NEAR(collective(PartClass::all_reduce, 80'000'000, {4, 4}), 1.2e-3, 1e-12);
  EXPECT_EQ(collective(PartClass::all_reduce, 80'000'000, {1, 1}), 0);
}

// 16 devices on 2 nodes: half of 80 MB crosses over 8 adapters, 5 MB each, 0.5 ms; 70 MB go round on each
// node meanwhile, 0.7 ms. On 4 nodes of one device each, 60 MB cross one adapter: 6 ms.
TEST(PartTime, BetweenNodesEveryMemberHasItsAdapter) {
  EXPECT_NEAR(collective(PartClass::all_gather, 80'000'000, {16, 8}), 0.7e-3, 1e-12);
  EXPECT_NEAR(collective(PartClass::all_gather, 80'000'000, {4, 1}), 6e-3, 1e-12);
  EXPECT_NEAR(collective(PartClass::all_gather, 160'000'000, {32, 2}), 160e6 * 15 / 16 / 2 / 10e9, 1e-12);
}

// Of 16 shares of 1 MB one stays, 7 go to the node's others (0.07 ms), 8 to the other node (0.8 ms).
TEST(PartTime, AnAllToAllSendsAShareToEachDevice) {
  EXPECT_NEAR(collective(PartClass::all_to_all, 16'000'000, {16, 8}), 0.8e-3, 1e-12);
  EXPECT_NEAR(collective(PartClass::all_to_all, 8'000'000, {8, 8}), 0.07e-3, 1e-12);
}

// A launch, and 3 steps on the node and 1 between nodes; for an all-reduce twice.
TEST(PartTime, CollectivesPayForTheirSteps) {
  DeviceDescription device = round_device();
  device.efficiencies.collective_launch = {10'000};
  device.node_link.latency = {1'000};
  device.network.latency = {5'000};
  const PartTime time(device, WeightType::bf16);
  EXPECT_NEAR(time.collective(PartClass::all_gather, Bytes{16}, {16, 8}), 10e-6 + 3e-6 + 5e-6, 1e-8);
  EXPECT_NEAR(time.collective(PartClass::all_reduce, Bytes{16}, {16, 8}), 10e-6 + 2 * 8e-6, 1e-8);
}

// Tensor groups are neighbours; data-parallel copies stand `tensor` apart, so fewer of a group share a node.
TEST(PartTime, AGroupLiesOnAsManyNodesAsItsStrideTakes) {
  const DeviceDescription device = round_device();
  EXPECT_EQ(group_of(4, 1, device), (DeviceGroup{4, 4}));
  EXPECT_EQ(group_of(64, 1, device), (DeviceGroup{64, 8}));
  EXPECT_EQ(group_of(64, 4, device), (DeviceGroup{64, 2}));
  EXPECT_EQ(group_of(64, 4, device).nodes(), 32u);
  EXPECT_EQ(group_of(4, 16, device), (DeviceGroup{4, 1}));
}

}  // namespace
}  // namespace plumb
