// The published families' own action lists, replayed, against the metrics that an independent replay found.
#include "schedules/ir/check.hpp"
#include "schedules/ir/lower.hpp"
#include "sim/memory.hpp"
#include "sim/report.hpp"
#include "sim/simulate.hpp"
#include "tests/support/reference.hpp"

#include <cmath>
#include <fstream>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using nlohmann::json;

// The costs of a set are in milliseconds with three decimals.
std::int64_t ns(const json& value) { return std::llround(value.get<double>() * 1e6); }

CostModel costs(const json& set) {
  return unit_costs({Duration{ns(set.at("F"))}, Duration{ns(set.at("I"))}, Duration{ns(set.at("W"))},
                     Duration{ns(set.at("B"))}, Duration{ns(set.at("OV"))}, Duration{ns(set.at("comm"))}});
}

TEST(ReferenceMetrics, EveryValidListIsReproducedExactlyUnderEveryCostSet) {
  PLUMB_NEEDS_REFERENCE();
  std::ifstream file(test::reference_dir() + "/schedules/expected_metrics.json");
  const json expected = json::parse(file);
  std::map<std::string, Schedule> schedules;
  for (const test::ReferenceList& list : test::reference_lists("")) schedules[list.file] = list.schedule;
  int compared = 0;
  for (const auto& [name, metrics] : expected.at("schedules").items()) {
    SCOPED_TRACE(name);
    const Schedule& schedule = schedules.at(name);
    if (metrics.contains("INVALID")) {
      EXPECT_FALSE(check(schedule).valid());
      continue;
    }
    const LoweredSchedule lowered = lower(schedule);
    for (const auto& [set, prices] : expected.at("costs").items()) {
      SCOPED_TRACE(set);
      const CostModel cost = costs(prices);
      const Timeline timeline = simulate(lowered, cost);
      const Report report = summarize(timeline, profile_memory(timeline, lowered, cost));
      EXPECT_EQ(report.makespan.ns, ns(metrics.at(set).at("makespan")));
      for (std::size_t r = 0; r < report.ranks.size(); ++r) {
        EXPECT_EQ(report.ranks[r].idle.ns, ns(metrics.at(set).at("bubble_vs_makespan_per_rank").at(r)));
        EXPECT_EQ((report.ranks[r].span - report.ranks[r].compute_busy).ns,
                  ns(metrics.at(set).at("bubble_within_span_per_rank").at(r)));
        EXPECT_EQ(report.ranks[r].peak_live_activations, metrics.at("peak_live_activations_per_rank").at(r));
        EXPECT_EQ(timeline.ranks[r].compute.size(), metrics.at("ops_per_rank").at(r));
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 3 * 110) << "lists that are valid, times cost sets";
}

}  // namespace
}  // namespace plumb
