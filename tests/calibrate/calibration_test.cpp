#include "calibrate/calibration.hpp"

#include "schedules/ir/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plumb {
namespace {

using ::testing::HasSubstr;

std::string with(const std::string& from, const std::string& to) {
  std::string content =
      R"({"schema":"plumb.calibration/1","name":"n","chunk_layers":4,"model_layers":8,"classes":["gemm"],)"
      R"("layer":{"forward":[{"name":"f","lane":"compute","class":"gemm","duration_ns":10}],)"
      R"("backward_input":[{"name":"i","lane":"compute","class":"gemm","duration_ns":20}],)"
      R"("backward_weight":[{"name":"w","lane":"compute","class":"gemm","duration_ns":30}],)"
      R"("backward":[{"name":"b","lane":"compute","class":"gemm","duration_ns":45}]},"link":{"latency_ns":5}})";
  if (!from.empty()) content.replace(content.find(from), from.size(), to);
  return content;
}

std::string refusal(const std::string& content) {
  try {
    parse_calibration(content, "file");
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Calibration, ReadsWhatWasMeasured) {
  const Calibration calibration = parse_calibration(with("", ""), "file");
  EXPECT_EQ(calibration.chunk_layers, 4u);
  EXPECT_EQ(calibration.backward.front().duration.ns, 45);
  EXPECT_EQ(calibration.link.latency.ns, 5);
  EXPECT_FALSE(calibration.link.bandwidth.has_value());
}

TEST(Calibration, RefusesWithThePlace) {
  EXPECT_THAT(refusal(with("\"duration_ns\":10", "\"duration_ns\":-10")),
              HasSubstr("/layer/forward/0/duration_ns"));
  EXPECT_THAT(refusal(with("\"class\":\"gemm\"", "\"class\":\"gem\"")), HasSubstr("none of the classes"));
  EXPECT_THAT(refusal(with("\"latency_ns\"", "\"latency\"")),
              HasSubstr("/link has the unknown key \"latency\""));
  EXPECT_THAT(refusal(with("plumb.calibration/1", "plumb.calibration/9")), HasSubstr("/schema"));
  EXPECT_THAT(refusal("{"), HasSubstr("is not JSON"));
}

TEST(Calibration, EveryBundledOneIsReadAndNamesItsSources) {
  ASSERT_FALSE(bundled_calibrations().empty());
  for (const auto& [name, content] : bundled_calibrations()) {
    const Calibration calibration = parse_calibration(content, name);
    EXPECT_EQ(calibration.name, name);
    EXPECT_EQ(calibration.sources.at("forward"), "measured");
    EXPECT_EQ(calibration.sources.at("p2p"), "assumed");
  }
}

}  // namespace
}  // namespace plumb
