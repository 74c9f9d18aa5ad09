// The bubble rates that the zero-bubble paper published (arXiv 2401.10241, Table 5), from its own inputs.
#include "schedules/generators/generator.hpp"
#include "sim/memory.hpp"
#include "sim/report.hpp"
#include "sim/simulate.hpp"
#include "tests/support/reference.hpp"

#include <cmath>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using nlohmann::json;

// Of one row and one schedule. A chunk of v holds 1/v of a rank's layers.
double bubble_rate(const json& row, const char* name, std::uint32_t chunks) {
  const auto cost_of = [&](const char* key) {
    return Duration{std::llround(row.at(key).get<double>() * 1e6 / chunks)};
  };
  const Duration p2p{std::llround(row.at("T_comm").get<double>() * 1e6)};
  const CostModel cost =
      unit_costs({cost_of("T_F"), cost_of("T_B"), cost_of("T_W"), std::nullopt, std::nullopt, p2p});
  Shape shape{row.at("p"), row.at("m"), std::nullopt, std::nullopt};
  if (chunks > 1) shape.chunks = chunks;
  const LoweredSchedule lowered = lower(make_schedule(generator(name), shape));
  const Timeline timeline = simulate(lowered, cost);
  const double span =
      static_cast<double>(summarize(timeline, profile_memory(timeline, lowered, cost)).span.ns) / 1e6;
  const double work = row.at("m").get<double>() * (row.at("T_F").get<double>() + row.at("T_B").get<double>() +
                                                   row.at("T_W").get<double>());
  return (span - work) / span;
}

TEST(ZeroBubbleTables, EveryColumnButTheSearchedTwoPIsReproducedToFourDecimals) {
  PLUMB_NEEDS_REFERENCE();
  std::ifstream file(test::reference_dir() + "/zero_bubble_tables.json");
  const json tables = json::parse(file);
  ASSERT_FALSE(tables.at("rows").empty());
  for (const json& row : tables.at("rows")) {
    SCOPED_TRACE(row.at("model").get<std::string>() + " m=" + row.at("m").dump());
    const auto expect = [&](const char* column, const char* name, std::uint32_t chunks, const char* source) {
      EXPECT_NEAR(bubble_rate(row, name, chunks), row.at(source).at(column).get<double>(), 0.5001e-4)
          << column;
    };
    expect("1F1B", "1f1b", 1, "published");
    expect("ZB-H1", "zb-h1", 1, "published");
    expect("ZB-H2", "zb-h2", 1, "published");
    expect("ZB-1p", "zb1p", 1, "published");
    // The paper charges the chunks' wrap-around edge only once a group; the file's full replay does always.
    expect("1F1B-I", "interleaved-1f1b", row.at("v_interleaved"), "replayed");
  }
}

}  // namespace
}  // namespace plumb
