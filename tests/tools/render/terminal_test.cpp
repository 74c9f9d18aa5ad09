#include "tools/render/terminal.hpp"

#include "tests/support/golden.hpp"
#include "tests/support/timelines.hpp"

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::render {
namespace {

Schedule one_f_one_b() {
  return test::schedule_of("1f1b", 2, 3, {"0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"});
}
// Two stages a rank, with a pair and both halves of a backward. Written by hand.
Schedule with_pairs() {
  return test::schedule_of(
      "pairs", 4, 2, {"0F0 0F1 3F0 (3F1;3B0)OVERLAP_F_B 3I1 3W1 0B0 0B1", "1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1"});
}

std::vector<std::string> rows(const std::string& picture) {
  std::vector<std::string> rows;
  std::istringstream lines(picture);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("rank")) rows.push_back(line);
  }
  return rows;
}

std::string without_escapes(const std::string& text) {
  std::string plain;
  for (std::size_t k = 0; k < text.size(); ++k) {
    if (text[k] == '\x1b') {
      k = text.find('m', k);
    } else {
      plain += text[k];
    }
  }
  return plain;
}

TEST(TerminalPicture, OfOneFOneBIsDrawnByHand) {
  // F = 1, B = 2 units; a forward needs three columns ("F0" and one more), so a column is a third of a unit.
  // Rank 1: F0 at 1, B0 at 2 to 4, and so on without a gap until 10; rank 0 waits for 0B0's input until 4.
  const Timeline timeline = test::timeline_of(one_f_one_b(), {}, Duration{3'000'000});
  EXPECT_EQ(rows(picture(timeline)), (std::vector<std::string>{
                                         "rank 0 |F0-F1-......B0----F2-B1----...B2----|",
                                         "rank 1 |...F0-B0----F1-B1----F2-B2----......|",
                                     }));
}

TEST(TerminalPicture, WithPairsIsTheGoldenText) {
  const Timeline timeline = test::timeline_of(with_pairs(), {.message = 1}, Duration{1'000'000});
  EXPECT_TRUE(test::matches_golden(picture(timeline) + "\n" + picture(timeline, {.width = 60}) + "\n" +
                                       picture(timeline, {.width = 60, .quantum = Duration{200'000}}) + "\n" +
                                       step_grid(with_pairs()),
                                   "terminal_pairs.txt"));
}

TEST(TerminalPicture, StaysWithinTheWidthAndDrawsOutToTheNearestColumn) {
  const Timeline timeline = test::timeline_of(with_pairs(), {}, Duration{1'000'000});
  for (const std::size_t width : {20, 33, 60, 61, 200}) {
    const std::string text = picture(timeline, {.width = width});
    const auto drawn = rows(text);
    for (const std::string& row : drawn) {
      EXPECT_LE(row.size(), width);
      EXPECT_EQ(row.size(), drawn.front().size());
    }
    EXPECT_EQ(text.find("cut after"), std::string::npos);
  }
}

TEST(TerminalPicture, CountsWhatIsTooShortToDraw) {
  // One op of 1 ns beside one of a millisecond, in a picture of 1 ms / 92 columns a column.
  Timeline timeline = test::timeline_of(test::schedule_of("short", 1, 1, {"0F0 0I0 0W0"}),
                                        {.forward = 1, .backward_input = 1}, Duration{1});
  timeline.ranks[0].compute[2].end = {1'000'000};
  EXPECT_NE(
      picture(timeline, {.width = 100}).find("note: 2 actions shorter than half a column are not drawn"),
      std::string::npos);
}

TEST(TerminalPicture, IsCutAtAGivenQuantumAndSaysSo) {
  const Timeline timeline = test::timeline_of(one_f_one_b(), {}, Duration{1'000'000});
  const std::string text = picture(timeline, {.width = 28, .quantum = Duration{250'000}});
  EXPECT_EQ(rows(text).front().size(), 28);
  // 28 columns less 9 of margin: 19 columns of 250 us are 4.75 ms of a step of 12.
  EXPECT_NE(text.find("note: cut after 4.75 ms of 12 ms"), std::string::npos) << text;
}

TEST(TerminalPicture, SaysTheSameWithColoursAndWithout) {
  const Timeline timeline = test::timeline_of(with_pairs(), {.message = 1}, Duration{1'000'000});
  const std::string coloured = picture(timeline, {.colour = Colour::ansi256});
  EXPECT_NE(coloured.find("\x1b[38;5;16;48;5;215m"), std::string::npos);
  std::vector<std::string> plain = rows(picture(timeline));
  for (std::string& row : plain) {
    // A coloured cell is drawn out by its background.
    const std::size_t begin = row.find('|');
    std::replace(row.begin() + static_cast<std::ptrdiff_t>(begin), row.end(), '-', ' ');
  }
  EXPECT_EQ(rows(without_escapes(coloured)), plain);
  EXPECT_EQ(picture(timeline).find('\x1b'), std::string::npos);
}

TEST(StepGrid, StandsEachActionAtItsFirstStep) {
  // One step an action. Rank 0: F0 F1, then B0 waits for rank 1's F0 (step 1) and B0 (step 2): step 3.
  EXPECT_EQ(rows(step_grid(one_f_one_b())), (std::vector<std::string>{
                                                "rank 0 |F0 F1 .  B0 F2 B1 .  B2",
                                                "rank 1 |.  F0 B0 F1 B1 F2 B2 .",
                                            }));
}

TEST(StepGrid, DrawsListsThatDeadlockInTheirOwnOrder) {
  Schedule stuck = one_f_one_b();
  std::swap(stuck.actions[0][0], stuck.actions[0][2]);  // rank 0 begins with 0B0
  const std::string text = step_grid(stuck);
  EXPECT_EQ(rows(text).front(), "rank 0 |B0 F1 F0 F2 B1 B2");
  EXPECT_NE(text.find("note: the lists do not run to their end"), std::string::npos);
}

}  // namespace
}  // namespace plumb::render
