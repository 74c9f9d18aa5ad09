#include "sim/idle.hpp"
#include "tests/support/golden.hpp"
#include "tests/support/timelines.hpp"
#include "tools/render/html_report.hpp"
#include "tools/render/sha256.hpp"

#include <cmath>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::render {
namespace {

// A report by hand, so that these tests ask nothing of `summarize`: 2 ranks, makespan 12 ms, of which rank 0
// computes 9 and rank 1 computes 6.
Report by_hand() {
  Report report;
  report.schedule = "by hand";
  report.stages = 4;
  report.microbatches = 3;
  report.makespan = {12'000'000};
  report.span = {11'000'000};
  report.step_time = {12'500'000};
  report.idle_share = 9.0 / 24;
  report.ranks.resize(2);
  report.ranks[0].compute_busy = {9'000'000};
  report.ranks[0].idle = {3'000'000};
  report.ranks[0].idle_by_cause = {Duration{0}, Duration{1'000'000}, Duration{500'000}, Duration{500'000},
                                   Duration{1'000'000}};
  report.ranks[0].peak_live_activations = 4;
  report.ranks[0].peak_action = "0F2";
  report.ranks[1].compute_busy = {6'000'000};
  report.ranks[1].idle = {6'000'000};
  report.ranks[1].idle_by_cause = {Duration{2'000'000}, Duration{3'000'000}, Duration{0}, Duration{1'000'000},
                                   Duration{0}};
  report.ranks[1].peak_live_activations = 2;
  report.ranks[1].peak_action = "1F0";
  return report;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Table, AlignsFiguresRightAndWordsLeft) {
  const Table table{{"schedule", "ms"}, {{"1f1b", "9.5"}, {"zb–h1", "12.25"}}};
  EXPECT_EQ(to_text(table),
            "schedule     ms\n"
            "--------  -----\n"
            "1f1b        9.5\n"
            "zb–h1     12.25\n");
  EXPECT_EQ(to_markdown(table),
            "| schedule |    ms |\n"
            "|:---------|------:|\n"
            "| 1f1b     |   9.5 |\n"
            "| zb–h1    | 12.25 |\n");
}

TEST(Table, KeepsCellsWhereTheyAre) {
  const Table table{{"a"}, {{"x|y\n<b>*"}}};
  EXPECT_EQ(to_markdown(table), "| a           |\n|:------------|\n| x\\|y \\<b>\\* |\n");
  EXPECT_EQ(to_html(table),
            "<table>\n<thead><tr><th>a</th></tr></thead>\n<tbody>\n<tr><td>x|y\n&lt;b&gt;*</td></tr>\n"
            "</tbody>\n</table>\n");
}

TEST(ReportTables, GiveUnitsAndRoundToThem) {
  EXPECT_EQ(milliseconds(Duration{1'234'500}), "1.235");
  EXPECT_EQ(milliseconds(Duration{-1'234'500}), "-1.235");
  EXPECT_EQ(milliseconds(Duration{-400}), "0.000");
  EXPECT_EQ(gibibytes(Bytes{(9ll << 30) + (1ll << 29)}), "9.50");
  EXPECT_EQ(percent(Duration{1}, Duration{3}), "33.33");
  EXPECT_EQ(percent(Duration{2}, Duration{3}, 1), "66.7");
  EXPECT_EQ(percent(Duration{1}, Duration{0}), "0.00");
}

TEST(ReportTables, SayWhereTheTimeGoes) {
  // Of 2 x 12 ms: 15 compute, 2 warm-up, 4 waiting, 0.5 imbalance, 1.5 exposed, 1 drain; 24 in all.
  const Report report = by_hand();
  EXPECT_EQ(cause_table({{report}}).rows,
            (std::vector<std::vector<std::string>>{
                {"by hand", "24.000", "62.50", "8.33", "16.67", "2.08", "6.25", "4.17"}}));
  // 4 chunks of 4 stages on 2 ranks: each is half of what a rank holds of the model.
  EXPECT_EQ(step_table({{report}}).rows,
            (std::vector<std::vector<std::string>>{
                {"by hand", "2", "4", "3", "12.500", "11.000", "37.50", "4", "2.00"}}));
}

TEST(ReportTables, SpeakOfBytesOnlyWhereAllDo) {
  const Report chunks = by_hand();
  Report bytes = by_hand();
  for (RankReport& rank : bytes.ranks) rank.peak_bytes = Bytes{5ll << 30};
  EXPECT_EQ(step_table({{bytes}}).head.back(), "peak memory GiB");
  EXPECT_EQ(step_table({{bytes}}).rows[0].back(), "5.00");
  EXPECT_NE(step_table({{bytes}, {chunks}}).head.back(), "peak memory GiB");
}

TEST(MarkdownReport, IsTheGoldenText) {
  const Report report = by_hand();
  EXPECT_TRUE(test::matches_golden(
      markdown_report("One step", {{report}},
                      {{"Methods", "From simulation.", {{"method", "bubble"}, {{"by hand", "3"}}}}}),
      "report.md"));
}

TEST(CauseBars, AddUpToTheMakespanWhateverTheNumberOfRanks) {
  // The longer bar fills the plot: 1100 - 170 - 130 = 800 pixels; the other, of half the makespan on twice as
  // many ranks, 400.
  const Report report = by_hand();
  Report half = by_hand();
  half.makespan = {6'000'000};
  for (RankReport& rank : half.ranks) {
    rank.compute_busy = {rank.compute_busy.ns / 2};
    for (Duration& cause : rank.idle_by_cause) cause = {cause.ns / 2};
  }
  const std::vector<RankReport> once = half.ranks;
  half.ranks.insert(half.ranks.end(), once.begin(), once.end());
  const std::string svg = cause_bars({{report}, {half}});
  const std::regex bar("<g class=\"bar\">([^]*?)</g>");
  const std::regex width("<rect [^>]*width=\"([0-9.]+)\"");
  std::vector<std::int64_t> sums;
  for (std::sregex_iterator match(svg.begin(), svg.end(), bar), end; match != end; ++match) {
    const std::string part = (*match)[1];
    std::int64_t sum = 0;
    for (std::sregex_iterator rect(part.begin(), part.end(), width); rect != end; ++rect) {
      sum += std::llround(std::stod((*rect)[1]) * 100);
    }
    sums.push_back(sum);
  }
  EXPECT_EQ(sums, (std::vector<std::int64_t>{80'000, 40'000}));
}

TEST(ParetoFront, HoldsWhatNothingElseBeats) {
  const std::vector<TimeAndMemory> points{{"fast", {10}, 9'000},    {"small", {30}, 2'000},
                                          {"between", {20}, 5'000}, {"worse", {20}, 6'000},
                                          {"slower", {31}, 2'000},  {"fast again", {10}, 9'000}};
  EXPECT_EQ(pareto_front(points), (std::vector<bool>{true, true, true, false, false, true}));
  EXPECT_TRUE(pareto_front({}).empty());
}

TEST(ParetoPlot, DrawsEveryPointAndItsName) {
  const std::string svg = pareto_plot({{"a<b", {10}, 1'000}, {"c", {20}, 500}, {"d", {20}, 900}});
  EXPECT_EQ(count(svg, "<circle"), 3);
  EXPECT_EQ(count(svg, "a&lt;b"), 2);  // in the label and in the tooltip
  EXPECT_EQ(count(pareto_plot({}), "<circle"), 0);
}

TEST(Sha256, EqualsItsStandardsExamples) {
  // FIPS 180-4: of "abc", and of 448 bits, which need a second block; and of nothing.
  EXPECT_EQ(sha256_base64("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
  EXPECT_EQ(sha256_base64("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "JI1qYdIGOLjlwCaTDD5gOaM85Flk/yFn9uzt1BnbBsE=");
  EXPECT_EQ(sha256_base64(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

class HtmlReport : public testing::Test {
 protected:
  Timeline timeline_ = test::timeline_of(
      test::schedule_of("1f1b", 2, 3, {"0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"}), {.message = 1},
      Duration{1'000'000});
  MemoryProfile memory_ = test::memory_of(timeline_, Bytes{1 << 30}, Bytes{1 << 28});
  Report report_ = by_hand();

  std::string page(std::uint64_t most_svg_cells) {
    HtmlOptions options;
    options.title = "<b>&title";
    options.sections = {
        {"Ruled out", "", {{"schedule", "reason"}, {{"x", "</script><script>alert(1)</script>"}}}}};
    options.most_svg_cells = most_svg_cells;
    return html_report({{report_, &timeline_, &memory_, "</script><script>alert(2)</script>"}}, options);
  }
  // What stands in an element, and the hashes that the policy allows.
  static std::string inside(const std::string& page, const std::string& open, const std::string& close) {
    const std::size_t begin = page.find(open);
    if (begin == std::string::npos) return {};
    return page.substr(begin + open.size(), page.find(close, begin) - begin - open.size());
  }
};

TEST_F(HtmlReport, AllowsItsOwnStyleAndNothingElse) {
  const std::string html = page(5'000);
  EXPECT_NE(html.find("default-src 'none'; style-src 'sha256-" +
                      sha256_base64(inside(html, "<style>", "</style>")) +
                      "'; base-uri 'none'; form-action 'none'"),
            std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("style="), std::string::npos);
  EXPECT_EQ(html.find("href"), std::string::npos);
  EXPECT_EQ(count(html, "http"), count(html, "http://www.w3.org/2000/svg") + 1);  // and http-equiv
}

TEST_F(HtmlReport, DrawsSmallStepsAsSvgAndBigOnesOnCanvas) {
  const std::string small = page(12);
  EXPECT_EQ(count(small, "<canvas"), 0);
  EXPECT_NE(small.find("class=\"cells\""), std::string::npos);
  const std::string big = page(11);
  EXPECT_EQ(count(big, "<canvas"), 1);
  EXPECT_EQ(big.find("class=\"cells\""), std::string::npos);
  EXPECT_NE(big.find("script-src 'sha256-" + sha256_base64(inside(big, "<script>", "</script>")) + "'"),
            std::string::npos);
  // One data block and one script, whatever the names say.
  EXPECT_EQ(count(big, "<script"), 2);
  EXPECT_EQ(count(big, "</script>"), 2);
}

TEST_F(HtmlReport, EscapesWhatItIsTold) {
  const std::string html = page(5'000);
  EXPECT_NE(html.find("<title>&lt;b&gt;&amp;title</title>"), std::string::npos);
  EXPECT_EQ(count(html, "alert(1)"), 1);
  EXPECT_EQ(html.find("<script>alert"), std::string::npos);
}

TEST_F(HtmlReport, GivesTheSameBytesAgain) { EXPECT_EQ(page(11), page(11)); }

}  // namespace
}  // namespace plumb::render
