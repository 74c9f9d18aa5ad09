#include "calibrate/device_description.hpp"

#include "schedules/ir/error.hpp"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

TEST(DeviceDescription, SixAreBundledWithTheirSources) {
  std::vector<std::string> names;
  for (const DeviceDescription& device : bundled_devices()) {
    names.push_back(device.name);
    EXPECT_EQ(&device_description(device.name), &device);
    for (const char* figure : {"peak, memory", "node_link", "network", "latencies", "reserve"})
      EXPECT_TRUE(device.sources.contains(figure)) << device.name << " " << figure;
    EXPECT_GT(device.memory, device.reserve) << device.name;
    EXPECT_GT(device.node_link.bandwidth->value, device.network.bandwidth->value) << device.name;
    for (const double share :
         {device.efficiencies.gemm, device.efficiencies.gemm_fp8, device.efficiencies.attention,
          device.efficiencies.memory, device.efficiencies.collective}) {
      EXPECT_GT(share, 0) << device.name;
      EXPECT_LE(share, 1) << device.name;
    }
  }
  EXPECT_THAT(names, testing::ElementsAre("a100", "h100", "h200", "h800", "b200", "gb200"));
}

// As NVIDIA prints them, without sparsity.
TEST(DeviceDescription, HoldsTheDataSheetsFigures) {
  EXPECT_EQ(device_description("a100").peak.bf16, 312e12);
  EXPECT_EQ(device_description("h100").memory_bandwidth.value, 3350e9);
  EXPECT_EQ(device_description("h200").memory.count, 141'000'000'000);
  EXPECT_EQ(device_description("h800").node_link.bandwidth->value, 200e9);
  EXPECT_EQ(device_description("h800").peak.fp8, device_description("h100").peak.fp8);
  EXPECT_EQ(device_description("gb200").devices_per_node, 72u);
}

TEST(DeviceDescription, AnUnknownNameListsTheKnownOnes) {
  try {
    device_description("h101");
    ADD_FAILURE() << "found it";
  } catch (const BadInput& refused) {
    EXPECT_THAT(refused.what(), testing::HasSubstr("described are: a100 h100 h200 h800 b200 gb200"));
  }
}

// What the README says of them.
TEST(DeviceDescription, A100ComesWithTheEagerStackAndTheOthersWithTheFusedOne) {
  for (const DeviceDescription& device : bundled_devices())
    EXPECT_EQ(device.efficiencies.software, device.name == "a100" ? "eager" : "fused") << device.name;
}

}  // namespace
}  // namespace plumb
