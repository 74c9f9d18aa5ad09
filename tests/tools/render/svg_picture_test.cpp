#include "tools/render/svg_picture.hpp"

#include "tests/support/golden.hpp"
#include "tests/support/timelines.hpp"
#include "tools/render/palette.hpp"
#include "tools/render/svg_text.hpp"

#include <cmath>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::render {
namespace {

Schedule one_f_one_b() {
  return test::schedule_of("1f1b", 2, 3, {"0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"});
}
Schedule with_pairs() {
  return test::schedule_of(
      "pairs", 4, 2, {"0F0 0F1 3F0 (3F1;3B0)OVERLAP_F_B 3I1 3W1 0B0 0B1", "1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1"});
}

struct Rect {
  std::int64_t x;  // hundredths of a pixel
  std::int64_t y;
  std::int64_t width;
  std::string fill;
  std::string title;
};

std::vector<Rect> rects(const std::string& svg, const std::string& group) {
  std::vector<Rect> found;
  const std::regex pattern(
      "<rect x=\"([0-9.]+)\" y=\"([0-9.]+)\" width=\"([0-9.]+)\" height=\"[0-9.]+\"(?: "
      "fill=\"(#[0-9a-f]+)\")?(?:/>|>(?:<title>([^<]*)</title>)?</rect>)");
  const auto hundredths = [](const std::string& text) { return std::llround(std::stod(text) * 100); };
  for (std::size_t at = svg.find("class=\"" + group); at != std::string::npos;
       at = svg.find("class=\"" + group, at + 1)) {
    const std::string part = svg.substr(at, svg.find("</g>", at) - at);
    for (std::sregex_iterator match(part.begin(), part.end(), pattern), end; match != end; ++match) {
      found.push_back({hundredths((*match)[1]), hundredths((*match)[2]), hundredths((*match)[3]), (*match)[4],
                       (*match)[5]});
    }
  }
  return found;
}

// Every tag that is opened is closed, in order: enough of XML for what we write.
void expect_balanced(const std::string& svg) {
  std::vector<std::string> open;
  const std::regex tag("<(/?)([a-z]+)([^<>]*)>");
  for (std::sregex_iterator match(svg.begin(), svg.end(), tag), end; match != end; ++match) {
    const std::string rest = (*match)[3];
    if ((*match)[1] == "/") {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), (*match)[2]);
      open.pop_back();
    } else if (!rest.ends_with('/')) {
      open.push_back((*match)[2]);
    }
  }
  EXPECT_TRUE(open.empty());
}

TEST(SvgPicture, OfPairsIsTheGoldenText) {
  const Timeline timeline = test::timeline_of(with_pairs(), {.message = 1}, Duration{1'000'000});
  const MemoryProfile memory = test::memory_of(timeline, Bytes{1 << 30}, Bytes{1 << 28});
  const std::string svg = svg_picture({{timeline, &memory}}, {.memory = true});
  expect_balanced(svg);
  EXPECT_TRUE(test::matches_golden(svg, "picture_pairs.svg"));
}

TEST(SvgPicture, EndsLeftOfItsEdge) {
  // The narrowest picture, with everything that its legend can explain.
  const Timeline timeline = test::timeline_of(with_pairs(), {.message = 1}, Duration{1'000'000});
  const std::string svg = svg_picture({{timeline}}, {.width = 500});
  const std::regex text("<text x=\"([0-9.]+)\" y=\"[0-9.]+\"([^>]*)>([^<]*)<");
  std::size_t texts = 0;
  for (std::sregex_iterator match(svg.begin(), svg.end(), text), end; match != end; ++match, ++texts) {
    const bool begins_there = (*match)[2].str().find("text-anchor") == std::string::npos;
    // Letters of 11 pixels are 6 wide on average.
    const double width = begins_there ? 6.0 * static_cast<double>((*match)[3].length()) : 0;
    EXPECT_LE(std::stod((*match)[1]) + width, 500) << (*match)[3];
  }
  EXPECT_GT(texts, 10u);
}

TEST(SvgPicture, DrawsEveryOpOnceInItsColour) {
  const Timeline timeline = test::timeline_of(with_pairs(), {}, Duration{1'000'000});
  const std::string svg = svg_picture({{timeline}});
  std::map<std::string, int> drawn;
  for (const Rect& rect : rects(svg, "cells"))
    ++drawn[rect.title.substr(0, rect.title.find(':')) + rect.fill];
  std::size_t ops = 0;
  for (std::uint32_t r = 0; r < 2; ++r) {
    const Shading shading(timeline);
    for (const ComputeSpan& span : timeline.ranks[r].compute) {
      for (const Op& op : span.action) {
        ++ops;
        EXPECT_EQ(drawn[std::string(words(op.kind)) + " " + to_string(span.action) +
                        std::string(fill(op.kind, shading.of(Rank{r}, op)))],
                  1)
            << to_string(op);
      }
    }
  }
  EXPECT_EQ(drawn.size(), ops);
  EXPECT_EQ(count_cells({{timeline}}), ops);
}

TEST(SvgPicture, TilesEveryRowWithCellsAndWaits) {
  // Without collectives the plot is as long as the makespan: cells and waits of a row add up to it, exactly,
  // at a width at which almost no boundary falls on a whole pixel.
  const Timeline timeline = test::timeline_of(with_pairs(), {.message = 1}, Duration{1'000'003});
  const std::string svg = svg_picture({{timeline}}, {.width = 977});
  std::map<std::int64_t, std::int64_t> sums;
  for (const Rect& rect : rects(svg, "cells")) sums[rect.y / 2'800] += rect.width;
  for (const Rect& rect : rects(svg, "idle")) sums[rect.y / 2'800] += rect.width;
  ASSERT_EQ(sums.size(), 2);
  for (const auto& [row, sum] : sums) EXPECT_EQ(sum, (977 - 78 - 24) * 100);
}

TEST(SvgPicture, BordersEveryPairOnce) {
  const Timeline timeline = test::timeline_of(with_pairs(), {}, Duration{1'000'000});
  EXPECT_EQ(rects(svg_picture({{timeline}}), "pairs").size(), 1);
}

TEST(SvgPicture, SetsTimelinesOnOneAxis) {
  // The second step lasts twice as long: the same first forward is as wide in one as half of it in the other.
  const Timeline quick = test::timeline_of(one_f_one_b(), {}, Duration{1'000'000});
  const Timeline slow = test::timeline_of(one_f_one_b(), {}, Duration{2'000'000});
  std::vector<std::int64_t> widths;
  std::set<std::int64_t> begins;
  for (const Rect& rect : rects(svg_picture({{quick}, {slow}}, {.width = 1302}), "cells")) {
    if (!rect.title.starts_with("forward 0F0")) continue;
    widths.push_back(rect.width);
    begins.insert(rect.x);
  }
  // 1302 - 78 - 24 = 1200 pixels for 24 units of time: 50 and 100 pixels.
  EXPECT_EQ(widths, (std::vector<std::int64_t>{5'000, 10'000}));
  EXPECT_EQ(begins.size(), 1);
}

TEST(SvgPicture, NamesEveryMeaningOfAShade) {
  const Timeline chunks = test::timeline_of(with_pairs(), {}, Duration{1'000'000});
  const Timeline directions = test::timeline_of(
      test::schedule_of("two ways", 2, 2, {"0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"}), {}, Duration{1'000'000});
  const std::string svg = svg_picture({{chunks}, {directions}, {chunks}});
  EXPECT_NE(svg.find(">chunk 1 or direction 1<"), std::string::npos);
  EXPECT_NE(svg.find(">chunk 2 or direction 2<"), std::string::npos);
}

TEST(SvgPicture, EscapesTextAndRefersToNothing) {
  Timeline timeline = test::timeline_of(one_f_one_b(), {}, Duration{1'000'000});
  timeline.name = "<script>alert('x')</script>&\"\x01";
  const std::string svg = svg_picture({{timeline}});
  expect_balanced(svg);
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_NE(svg.find("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;\xef\xbf\xbd"),
            std::string::npos);
  EXPECT_EQ(svg.find("href"), std::string::npos);
  EXPECT_EQ(svg.find("style"), std::string::npos);
  EXPECT_EQ(svg.find("url("), std::string::npos);
}

TEST(SvgPicture, OfNothingIsStillADocument) {
  expect_balanced(svg_picture({}));
  const Timeline empty{"empty", 1, 1, std::vector<RankTimeline>(2), {}};
  expect_balanced(svg_picture({{empty}}, {.memory = true}));
}

TEST(Shading, FollowsTheDirectionWhereThereAreTwo) {
  // Microbatch 0 enters at rank 0, microbatch 1 at rank 1; both ranks hold both stages.
  const Schedule two_ways = test::schedule_of("two ways", 2, 2, {"0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"});
  const Shading shading(two_ways);
  EXPECT_EQ(shading.names(), (std::vector<std::string>{"direction 1", "direction 2"}));
  for (const std::uint32_t rank : {0u, 1u}) {
    for (const std::uint32_t stage : {0u, 1u}) {
      EXPECT_EQ(shading.of(Rank{rank}, {Stage{stage}, Microbatch{0}, OpKind::forward}), 0);
      EXPECT_EQ(shading.of(Rank{rank}, {Stage{stage}, Microbatch{1}, OpKind::backward}), 1);
    }
  }
}

TEST(Shading, FollowsTheChunkOtherwise) {
  const Shading shading(with_pairs());
  EXPECT_EQ(shading.names(), (std::vector<std::string>{"chunk 1", "chunk 2"}));
  EXPECT_EQ(shading.of(Rank{0}, {Stage{3}, Microbatch{0}, OpKind::forward}), 1);
  EXPECT_EQ(shading.of(Rank{1}, {Stage{1}, Microbatch{0}, OpKind::forward}), 0);
  EXPECT_TRUE(Shading(one_f_one_b()).names().empty());
}

TEST(SvgText, PrintsHundredthsExactly) {
  EXPECT_EQ(to_text(px(12)), "12");
  EXPECT_EQ(to_text(Px{1'250}), "12.5");
  EXPECT_EQ(to_text(Px{-105}), "-1.05");
  EXPECT_EQ(in_unit(Duration{1'234'500}, unit_for(Duration{5'000'000})), "1.2345");
}

TEST(SvgText, RoundsStepsToOneTwoFive) {
  EXPECT_EQ(round_step(66'000'000, 20), 5'000'000);
  EXPECT_EQ(round_step(1, 1), 1);
  EXPECT_EQ(round_step(2'000, 10), 200);
  EXPECT_EQ(round_step(2'001, 10), 500);
}

}  // namespace
}  // namespace plumb::render
