#include "sim/chrome_trace.hpp"

#include "schedules/ir/error.hpp"
#include "tests/support/golden.hpp"
#include "tests/support/timelines.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using Json = nlohmann::json;

// 1F1B on two ranks, three microbatches.
Schedule one_f_one_b() {
  return test::schedule_of("1f1b", 2, 3, {"0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"});
}

// DualPipeV's shape on two ranks: stages 0 and 3 on rank 0, with pairs. Written by hand.
Schedule with_pairs() {
  return test::schedule_of(
      "pairs", 4, 2, {"0F0 0F1 3F0 (3F1;3B0)OVERLAP_F_B 3I1 3W1 0B0 0B1", "1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1"});
}

std::string trace(const std::vector<TraceInput>& inputs, const TraceOptions& options = {}) {
  std::ostringstream out;
  write_chrome_trace(out, inputs, options);
  return out.str();
}

std::int64_t ns(const Json& microseconds) { return std::llround(microseconds.get<double>() * 1000); }

struct Slice {
  std::string name;
  std::int64_t begin;
  std::int64_t end;
};
using Thread = std::pair<std::int64_t, std::int64_t>;  // pid, tid

std::map<Thread, std::vector<Slice>> slices_of(const Json& trace) {
  std::map<Thread, std::vector<Slice>> slices;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    slices[{event["pid"], event["tid"]}].push_back(
        {event["name"], ns(event["ts"]), ns(event["ts"]) + ns(event["dur"])});
  }
  return slices;
}

// What both viewers need of any trace.
void expect_well_formed(const std::string& text) {
  const Json trace = Json::parse(text);
  const std::set<std::string> colours{"thread_state_running", "rail_response", "thread_state_iowait",
                                      "generic_work",         "grey",          "terrible"};
  auto slices = slices_of(trace);
  for (auto& [thread, list] : slices) {
    EXPECT_NE(thread.first, thread.second);
    std::sort(list.begin(), list.end(), [](const Slice& a, const Slice& b) { return a.begin < b.begin; });
    for (std::size_t k = 0; k < list.size(); ++k) {
      EXPECT_LT(list[k].begin, list[k].end) << list[k].name;
      if (k > 0) {
        EXPECT_LE(list[k - 1].end, list[k].begin) << list[k].name << " overlaps on one thread";
      }
    }
  }
  struct End {
    int count = 0;
    std::string name;
    std::string category;
  };
  std::map<std::int64_t, std::pair<End, End>> flows;
  for (const Json& event : trace["traceEvents"]) {
    if (event.contains("cname")) {
      EXPECT_TRUE(colours.contains(event["cname"])) << event;
    }
    if (event.contains("ts")) {
      EXPECT_GE(ns(event["ts"]), 0) << event;
    }
    const std::string phase = event["ph"];
    if (phase != "s" && phase != "f") continue;
    ASSERT_TRUE(event["id"].is_number_integer());
    End& end = phase == "s" ? flows[event["id"]].first : flows[event["id"]].second;
    ++end.count;
    end.name = event["name"];
    end.category = event["cat"];
    const auto& list = slices[{event["pid"], event["tid"]}];
    const std::int64_t time = ns(event["ts"]);
    const auto around = std::count_if(list.begin(), list.end(), [time](const Slice& slice) {
      return slice.begin <= time && time < slice.end;
    });
    EXPECT_EQ(around, 1) << "no slice around " << event;
    if (phase == "f") {
      EXPECT_EQ(event["bp"], "e");
    }
  }
  for (const auto& [id, ends] : flows) {
    EXPECT_EQ(ends.first.count, 1) << id;
    EXPECT_EQ(ends.second.count, 1) << id;
    EXPECT_EQ(ends.first.name, ends.second.name);
    EXPECT_EQ(ends.first.category, ends.second.category);
  }
}

std::vector<Json> events(const Json& trace, const std::string& phase, const std::string& name = {}) {
  std::vector<Json> found;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] == phase && (name.empty() || event["name"] == name)) found.push_back(event);
  }
  return found;
}

TEST(ChromeTrace, OfTwoRanksIsTheGoldenText) {
  const Timeline timeline = test::timeline_of(one_f_one_b(), {.message = 1}, Duration{1'000'001});
  const MemoryProfile memory = test::memory_of(timeline, Bytes{1 << 30}, Bytes{1 << 29});
  const std::string text = trace({{timeline, &memory, ""}});
  EXPECT_TRUE(test::matches_golden(text, "trace_1f1b_2x3.json"));
  expect_well_formed(text);
}

TEST(ChromeTrace, DrawsEveryActionOnceAtItsExactTime) {
  const Timeline timeline = test::timeline_of(with_pairs(), {}, Duration{333'333});
  const Json json = Json::parse(trace({{timeline, nullptr, ""}}));
  auto slices = slices_of(json);
  for (std::uint32_t r = 0; r < 2; ++r) {
    const auto& drawn = slices[{r, (r + 1) * 100}];
    const auto& compute = timeline.ranks[r].compute;
    ASSERT_EQ(drawn.size(), compute.size());
    for (std::size_t k = 0; k < drawn.size(); ++k) {
      EXPECT_EQ(drawn[k].name, to_string(compute[k].action));
      EXPECT_EQ(drawn[k].begin, compute[k].begin.ns);
      EXPECT_EQ(drawn[k].end, compute[k].end.ns);
    }
  }
}

TEST(ChromeTrace, TilesEveryRankWithComputeAndIdle) {
  const Timeline timeline = test::timeline_of(with_pairs(), {.message = 2}, Duration{1'001});
  const Json json = Json::parse(trace({{timeline, nullptr, ""}}));
  std::map<std::int64_t, std::int64_t> sums;
  std::int64_t last = 0;
  for (const Json& event : events(json, "X")) {
    if (event["cat"] != "compute" && event["cat"] != "idle") continue;
    sums[event["pid"]] += ns(event["dur"]);
    if (event["cat"] == "compute") last = std::max(last, ns(event["ts"]) + ns(event["dur"]));
  }
  EXPECT_EQ(sums, (std::map<std::int64_t, std::int64_t>{{0, last}, {1, last}}));
}

TEST(ChromeTrace, TiesEveryMessageToBothRanks) {
  // 1F1B on two ranks: each of the three microbatches goes over and comes back.
  for (const std::int64_t message : {0, 1}) {
    const Timeline timeline = test::timeline_of(one_f_one_b(), {.message = message}, Duration{1'000});
    const std::string text = trace({{timeline, nullptr, ""}});
    expect_well_formed(text);
    const Json json = Json::parse(text);
    EXPECT_EQ(events(json, "s", "act").size(), 3);
    EXPECT_EQ(events(json, "f", "act").size(), 3);
    EXPECT_EQ(events(json, "s", "grad").size(), 3);
    EXPECT_EQ(events(json, "f", "grad").size(), 3);
  }
}

TEST(ChromeTrace, TiesAMessageThatTakesNoTimeToTheActionsThemselves) {
  const Timeline timeline = test::timeline_of(one_f_one_b(), {.message = 0}, Duration{1'000});
  const Json json = Json::parse(trace({{timeline, nullptr, ""}}));
  // 0F0 runs from 0 to 1 us, 1F0 from 1 us on: last nanosecond of one to just inside the other.
  const Json from = events(json, "s", "act").front();
  const Json to = events(json, "f", "act").front();
  EXPECT_EQ(std::tuple(from["pid"], from["tid"], ns(from["ts"])), std::tuple(0, 100, 999));
  EXPECT_EQ(std::tuple(to["pid"], to["tid"], ns(to["ts"])), std::tuple(1, 200, 1'001));
  for (const Json& event : events(json, "X")) EXPECT_NE(event["cat"], "message");
}

TEST(ChromeTrace, PutsWhatRunsAtOnceOnLanesOfItsOwn) {
  // Three messages of rank 0 that overlap pairwise need a second lane, not a third: [0,20) [10,30) [20,40).
  Timeline timeline = test::timeline_of(one_f_one_b(), {}, Duration{100});
  timeline.messages.clear();
  for (std::uint32_t m = 0; m < 3; ++m) {
    const TimePoint begin{10 * m};
    timeline.messages.push_back({Op{Stage{0}, Microbatch{m}, OpKind::send_forward}, Rank{0}, Rank{1}, begin,
                                 begin, begin, begin + Duration{20}, Bytes{}});
  }
  const Op op{Stage{0}, Microbatch{0}, OpKind::forward};
  timeline.ranks[0].segments = {{op, Lane::compute, "attention", {0}, {40}},
                                {op, Lane::communication, "dispatch", {0}, {0}},
                                {op, Lane::communication, "combine", {40}, {100}}};
  const Op reduce{Stage{0}, Microbatch{0}, OpKind::reduce_grad};
  timeline.ranks[1].collectives = {{reduce, {900}, {950}}, {reduce, {950}, {950}}};
  const std::string text = trace({{timeline, nullptr, ""}});
  expect_well_formed(text);
  const Json json = Json::parse(text);
  std::set<std::string> threads;
  for (const Json& event : events(json, "M", "thread_name")) {
    if (event["pid"] == 0) threads.insert(event["args"]["name"]);
  }
  EXPECT_EQ(threads, (std::set<std::string>{"compute", "compute segments", "communication segments", "idle",
                                            "send", "send 2"}));
  // The dispatch and the second reduction take no time.
  EXPECT_EQ(events(json, "X", "0F0 dispatch").size(), 0);
  EXPECT_EQ(events(json, "X", "0F0 combine").size(), 1);
  EXPECT_EQ(events(json, "X", "0REDUCE_GRAD").size(), 1);
}

TEST(ChromeTrace, KeepsThreadNumbersApartHoweverManyLanesThereAre) {
  // 150 messages at once: more lanes than the usual hundred numbers a rank.
  Timeline timeline{"many", 2, 150, std::vector<RankTimeline>(2), {}};
  for (std::uint32_t m = 0; m < 150; ++m) {
    timeline.messages.push_back(
        {Op{Stage{0}, Microbatch{m}, OpKind::send_forward}, Rank{0}, Rank{1}, {0}, {0}, {0}, {10}, Bytes{}});
  }
  const std::string text = trace({{timeline, nullptr, ""}});
  expect_well_formed(text);
  std::map<std::int64_t, std::set<std::int64_t>> processes_of;
  for (const Json& event : events(Json::parse(text), "X"))
    processes_of[event["tid"]].insert(event["pid"].get<std::int64_t>());
  EXPECT_EQ(processes_of.size(), 300);
  for (const auto& [tid, pids] : processes_of) EXPECT_EQ(pids.size(), 1) << tid;
}

TEST(ChromeTrace, CountsChunksAndMicrobatchesInFlight) {
  // Rank 0 holds stages 0 and 3. Live chunks after each of its events, by hand, F = 1, B = 2, pair 3, message
  // 0: 0F0 0F1 3F0 +1 each; the pair +1 at its begin, -1 (3B0) at its end; 3W1 -1; 0B0 -1; 0B1 -1.
  const Timeline timeline = test::timeline_of(with_pairs(), {}, Duration{1'000});
  const Json json = Json::parse(trace({{timeline, nullptr, ""}}));
  std::vector<int> chunks;
  for (const Json& event : events(json, "C", "activations")) {
    if (event["pid"] == 0) chunks.push_back(event["args"]["chunks"]);
  }
  // 3F0 ends where the pair begins or earlier; the last three ends are apart.
  EXPECT_EQ(chunks, (std::vector<int>{1, 2, 3, 4, 3, 2, 1, 0}));
  std::vector<int> flying;
  for (const Json& event : events(json, "C", "in-flight")) {
    if (event["pid"] == 0) flying.push_back(event["args"]["microbatches"]);
  }
  EXPECT_EQ(flying, (std::vector<int>{1, 2, 2, 2, 2, 2, 1, 0}));
}

TEST(ChromeTrace, SaysBytesWhereTheCostsDo) {
  const Timeline timeline = test::timeline_of(one_f_one_b(), {}, Duration{1'000});
  const MemoryProfile memory = test::memory_of(timeline, Bytes{3ll << 30}, Bytes{1 << 29});
  const Json json = Json::parse(trace({{timeline, &memory, ""}}));
  // Rank 1 of 1F1B holds one activation at a time: half a GiB, beside 3 GiB of weights.
  double most_activations = 0;
  double most_memory = 0;
  for (const Json& event : events(json, "C")) {
    if (event["pid"] != 1) continue;
    if (event["name"] == "activations") {
      most_activations = std::max(most_activations, event["args"]["GiB"].get<double>());
    }
    if (event["name"] == "memory") most_memory = std::max(most_memory, event["args"]["GiB"].get<double>());
  }
  EXPECT_EQ(most_activations, 0.5);
  EXPECT_EQ(most_memory, 3.5);
}

TEST(ChromeTrace, SetsPredictedAndMeasuredSideBySide) {
  const Timeline predicted = test::timeline_of(one_f_one_b(), {.message = 1}, Duration{1'000});
  Timeline measured = test::timeline_of(one_f_one_b(), {.message = 2}, Duration{1'000});
  // A clock that does not start with the step, and a message before it, are put right.
  const auto late = [](TimePoint& time) { time = time + Duration{500'000}; };
  for (RankTimeline& rank : measured.ranks) {
    for (ComputeSpan& span : rank.compute) late(span.begin), late(span.end), late(span.last_input_sent);
  }
  for (MessageSpan& span : measured.messages) {
    late(span.begin), late(span.end), late(span.send_ready), late(span.receive_posted);
  }
  const std::string text = trace({{predicted, nullptr, "predicted"}, {measured, nullptr, "measured"}});
  expect_well_formed(text);
  const Json json = Json::parse(text);
  std::map<int, std::string> names;
  for (const Json& event : events(json, "M", "process_name")) names[event["pid"]] = event["args"]["name"];
  EXPECT_EQ(names, (std::map<int, std::string>{{0, "rank 00 predicted"},
                                               {1, "rank 00 measured"},
                                               {2, "rank 01 predicted"},
                                               {3, "rank 01 measured"}}));
  for (const Json& event : events(json, "M", "process_sort_index")) {
    EXPECT_EQ(event["args"]["sort_index"], event["pid"]);
  }
  for (const Json& event : events(json, "X", "0F0")) EXPECT_EQ(ns(event["ts"]), 0);
}

TEST(ChromeTrace, KeepsOnlyTheRanksAskedFor) {
  const Timeline timeline = test::timeline_of(one_f_one_b(), {.message = 1}, Duration{1'000});
  const std::string text = trace({{timeline, nullptr, ""}}, {.ranks = {Rank{1}}, .marks = {}});
  expect_well_formed(text);
  const Json json = Json::parse(text);
  for (const Json& event : json["traceEvents"]) EXPECT_EQ(event["pid"], 1);
  EXPECT_EQ(events(json, "s").size(), 0);
  EXPECT_THROW(trace({{timeline, nullptr, ""}}, {.ranks = {Rank{2}}, .marks = {}}), BadInput);
}

TEST(ChromeTrace, LeavesOutWhatTakesNoTime) {
  const Timeline timeline = test::timeline_of(with_pairs(), {.backward_weight = 0}, Duration{1'000});
  const std::string text = trace({{timeline, nullptr, ""}});
  expect_well_formed(text);
  EXPECT_EQ(events(Json::parse(text), "X", "3W1").size(), 0);
  EXPECT_EQ(events(Json::parse(text), "X", "3I1").size(), 1);
}

TEST(ChromeTrace, EscapesNames) {
  Timeline timeline = test::timeline_of(one_f_one_b(), {}, Duration{1'000});
  timeline.name = "a\"b\\c\nd\x01";
  timeline.ranks[0].segments = {
      {Op{Stage{0}, Microbatch{0}, OpKind::forward}, Lane::compute, "\"},{\"", {0}, {1'000}}};
  const Json json = Json::parse(trace({{timeline, nullptr, "\"x\""}}));
  EXPECT_EQ(json["otherData"]["schedule"], timeline.name);
  EXPECT_EQ(events(json, "X", "0F0 \"},{\"").size(), 1);
  EXPECT_EQ(events(json, "M", "process_name").front()["args"]["name"], "rank 00 \"x\"");
}

TEST(ChromeTrace, CountsWhatItWrites) {
  const Timeline timeline = test::timeline_of(with_pairs(), {.message = 1}, Duration{1'000});
  const MemoryProfile memory = test::memory_of(timeline, Bytes{1}, Bytes{1});
  const std::vector<TraceInput> inputs{{timeline, &memory, "a"}, {timeline, nullptr, "b"}};
  EXPECT_EQ(count_trace_events(inputs), Json::parse(trace(inputs))["traceEvents"].size());
  EXPECT_EQ(count_trace_events({}), 0);
  EXPECT_EQ(Json::parse(trace({}))["traceEvents"].size(), 0);
}

}  // namespace
}  // namespace plumb
