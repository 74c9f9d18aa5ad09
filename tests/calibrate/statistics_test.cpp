#include "calibrate/statistics.hpp"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace plumb {
namespace {

std::vector<Sample> samples_of(std::initializer_list<std::int64_t> durations) {
  std::vector<Sample> samples;
  for (const std::int64_t ns : durations) samples.push_back({{ns}, 0});
  return samples;
}

// Around `centre` with a long tail upwards, as kernels are.
std::int64_t kernel_like(std::mt19937& random, double centre, double spread) {
  return std::llround(centre + std::exponential_distribution<double>(1 / spread)(random));
}

TEST(Statistics, QuartilesAreLinearBetweenNeighbours) {
  // 1..8: place 0.25 * 7 = 1.75 → 2 + 0.75; 3.5 → 4.5, which rounds to 5; 5.25 → 6.25.
  const Summary summary = summary_of(samples_of({80, 10, 30, 20, 70, 60, 40, 50}));
  EXPECT_EQ(summary.samples, 8u);
  EXPECT_EQ(summary.minimum.ns, 10);
  EXPECT_EQ(summary.lower_quartile.ns, 28);  // 27.5
  EXPECT_EQ(summary.median.ns, 45);
  EXPECT_EQ(summary.upper_quartile.ns, 63);  // 62.5
  EXPECT_EQ(summary.maximum.ns, 80);
}

// Ticks of 32: of ten samples six say 3200 and stand for 3184 to 3216; the fifth and the sixth are the last
// of them but one and the last: 3184 + 32 * 5 / 6 = 3210.7.
TEST(Statistics, EqualSamplesAreSpreadOverTheirTick) {
  const std::vector<Sample> samples =
      samples_of({3200, 3200, 3200, 3200, 3200, 3200, 3232, 3232, 3264, 3232});
  EXPECT_EQ(summary_of(samples).median.ns, 3211);
  EXPECT_LE(summary_of(samples).median, summary_of(samples).high);
  EXPECT_EQ(summary_of(samples_of({3200, 3200, 3200})).median.ns, 3200);
  // That both are multiples of 3200 is chance.
  EXPECT_EQ(summary_of(samples_of({3200, 3200, 3200, 9600, 9600})).median.ns, 3200);
}

TEST(Statistics, IntervalOfTheMedianIsTheTablesOne) {
  // Standard table of nonparametric 95 % intervals for the median: n = 6: 1st to 6th (1 - 2/64 = 96.9 %);
  // 8: 1st, 8th; 9: 2nd, 8th; 10: 2nd, 9th; 20: 6th, 15th; 30: 10th, 21st; 50: 18th, 33rd; 100: 40th, 61st.
  EXPECT_FALSE(median_interval(0));
  EXPECT_FALSE(median_interval(5));  // 1 - 2/32 = 93.75 %
  using Ranks = std::pair<std::size_t, std::size_t>;
  EXPECT_EQ(median_interval(6), Ranks(0, 5));
  EXPECT_EQ(median_interval(8), Ranks(0, 7));
  EXPECT_EQ(median_interval(9), Ranks(1, 7));
  EXPECT_EQ(median_interval(10), Ranks(1, 8));
  EXPECT_EQ(median_interval(20), Ranks(5, 14));
  EXPECT_EQ(median_interval(30), Ranks(9, 20));
  EXPECT_EQ(median_interval(50), Ranks(17, 32));
  EXPECT_EQ(median_interval(100), Ranks(39, 60));
  // Far beyond where 2^-n is no double any more: n/2 ± 0.98 sqrt(n).
  EXPECT_NEAR(static_cast<double>(median_interval(10'000)->first), 5000 - 98, 2);
}

TEST(Statistics, TheIntervalHoldsTheMedianAsOftenAsItSays) {
  // 400 sets of 25 draws of an exponential whose median is spread * ln 2: 95 % hold it; fewer than 92 % would
  // be more than three standard deviations (1.1 %) away.
  std::mt19937 random(7);
  int held = 0;
  for (int set = 0; set < 400; ++set) {
    std::vector<Sample> samples;
    for (int k = 0; k < 25; ++k) samples.push_back({{kernel_like(random, 100'000, 10'000)}, 0});
    const Summary summary = summary_of(samples);
    const double truth = 100'000 + 10'000 * std::log(2.0);
    held += static_cast<double>(summary.low.ns) <= truth && truth <= static_cast<double>(summary.high.ns);
  }
  EXPECT_GE(held, 368);
}

TEST(Statistics, ThrottledSamplesAreSetAside) {
  std::vector<Sample> samples;
  for (int k = 0; k < 20; ++k) samples.push_back({{1000 + k % 3}, 1755});
  for (int k = 0; k < 5; ++k) samples.push_back({{1800}, 990});
  samples.push_back({{1001}, 1725});  // 1.7 % below: the clock's own steps
  const Summary summary = summary_of(samples);
  EXPECT_EQ(summary.samples, 21u);
  EXPECT_EQ(summary.set_aside, 5u);
  EXPECT_LT(summary.maximum.ns, 1100);
  EXPECT_EQ(summary.steadiness, Steadiness::steady);
}

TEST(Statistics, AChipAtItsPowerLimitIsNotThrottled) {
  // Around 1,400 MHz, though the chip could do 1,980: nothing is set aside, nor is the slower half of the
  // swing.
  std::vector<Sample> samples;
  for (std::uint32_t k = 0; k < 21; ++k) samples.push_back({{1000}, 1300 + 10 * k});
  EXPECT_EQ(summary_of(samples).set_aside, 0u);
  EXPECT_EQ(summary_of(samples).sm_clock_mhz, 1400u);
}

TEST(Statistics, OneHeapIsSteadyWhateverItsTail) {
  std::mt19937 random(11);
  for (int set = 0; set < 50; ++set) {
    std::vector<Sample> samples;
    for (int k = 0; k < 200; ++k) samples.push_back({{kernel_like(random, 80'000, 4'000)}, 0});
    EXPECT_EQ(summary_of(samples).steadiness, Steadiness::steady) << set;
  }
}

TEST(Statistics, SeesSamplesThatDrift) {
  std::mt19937 random(3);
  std::vector<Sample> samples;
  for (int k = 0; k < 90; ++k) samples.push_back({{kernel_like(random, 100'000 + 60 * k, 500)}, 0});
  EXPECT_EQ(summary_of(samples).steadiness, Steadiness::drifting);
  // A drift nobody would notice, 0.3 % in all, is none.
  samples.clear();
  for (int k = 0; k < 90; ++k) samples.push_back({{kernel_like(random, 100'000 + 3 * k, 100)}, 0});
  EXPECT_EQ(summary_of(samples).steadiness, Steadiness::steady);
}

TEST(Statistics, SeesTwoHeapsWhateverTheirOrder) {
  std::mt19937 random(5);
  std::vector<Sample> samples;
  for (int k = 0; k < 120; ++k)
    samples.push_back({{kernel_like(random, random() % 3 == 0 ? 115'000 : 100'000, 800)}, 0});
  EXPECT_EQ(summary_of(samples).steadiness, Steadiness::bimodal);
}

TEST(Statistics, TwoOutliersAreNoMode) {
  std::vector<Sample> samples(60, Sample{{100'000}, 0});
  for (std::size_t k = 0; k < samples.size(); ++k)
    samples[k].duration.ns += static_cast<std::int64_t>(k * 7 % 40);
  samples[10].duration.ns = samples[50].duration.ns = 400'000;
  EXPECT_EQ(summary_of(samples).steadiness, Steadiness::steady);
}

TEST(StoppingRule, StopsWhenTheIntervalIsNarrow) {
  SampleSet set;
  const StoppingRule rule{.relative_width = 0.01, .least = 11, .most = 500, .budget = {1'000'000'000}};
  for (int k = 0; k < 10; ++k) {
    set.add({{1000}, 0});
    EXPECT_EQ(set.verdict(rule, {1}), Verdict::go_on) << k;
  }
  set.add({{1000}, 0});
  EXPECT_EQ(set.verdict(rule, {1}), Verdict::precise);
}

TEST(StoppingRule, GoesOnUntilTheIntervalIsNarrow) {
  // Uniform over 20 % of the median: the median's standard error is 20 % / (2 sqrt n), its interval 3.92 of
  // these wide: 2 % at n = 384, give or take.
  std::mt19937 random(2);
  std::uniform_int_distribution<std::int64_t> around(90'000, 110'000);
  SampleSet set;
  const StoppingRule rule{.relative_width = 0.02, .least = 11, .most = 5000, .budget = {1'000'000'000'000}};
  while (set.verdict(rule, {1}) == Verdict::go_on) set.add({{around(random)}, 0});
  EXPECT_EQ(set.verdict(rule, {1}), Verdict::precise);
  EXPECT_GT(set.samples().size(), 100u);
  EXPECT_LT(set.samples().size(), 1500u);
  EXPECT_LE(relative_width(set.summary()), 0.02);
}

TEST(StoppingRule, EndsAtItsLimits) {
  const StoppingRule rule{.relative_width = 0.001, .least = 11, .most = 40, .budget = {1'000'000}};
  SampleSet set;
  for (int k = 0; k < 40; ++k) {
    EXPECT_EQ(set.verdict(rule, {1000}), Verdict::go_on) << k;
    set.add({{1000 + 100 * (k % 7)}, 0});
  }
  EXPECT_EQ(set.verdict(rule, {1000}), Verdict::most_samples);

  SampleSet slow;
  for (int k = 0; k < 11; ++k) {
    EXPECT_EQ(slow.verdict(rule, {2'000'000}), Verdict::go_on) << "below `least` the budget is stretched";
    slow.add({{1000 + 100 * (k % 7)}, 0});
  }
  EXPECT_EQ(slow.verdict(rule, {2'000'000}), Verdict::out_of_time);

  SampleSet endless;
  EXPECT_EQ(endless.verdict(rule, {20'000'000}), Verdict::go_on) << "one sample there must be";
  endless.add({{1}, 0});
  EXPECT_EQ(endless.verdict(rule, {10'000'000}), Verdict::out_of_time);
}

TEST(StoppingRule, ThrottledSamplesDoNotMakeItPrecise) {
  SampleSet set;
  const StoppingRule rule{.relative_width = 0.01, .least = 11, .most = 500, .budget = {1'000'000'000}};
  for (int k = 0; k < 10; ++k) set.add({{1000}, 1755});
  for (int k = 0; k < 5; ++k) set.add({{1000}, 900});
  EXPECT_EQ(set.verdict(rule, {1}), Verdict::go_on);
}

TEST(StoppingRule, ZeroTimesAreNeverPrecise) {
  SampleSet set;
  for (int k = 0; k < 50; ++k) set.add({{0}, 0});
  EXPECT_EQ(set.verdict({.most = 50}, {1}), Verdict::most_samples);
}

// Durations of 1 s x (1,000 MHz / clock)^0.8, at clocks from 1,400 to 1,595 MHz.
TEST(Statistics, AnExponentSaysHowDurationsFollowTheClock) {
  std::vector<Sample> samples;
  for (std::uint32_t k = 0; k < 40; ++k) {
    const std::uint32_t mhz = 1'400 + 5 * k;
    samples.push_back({{std::llround(1e9 * std::pow(1'000.0 / mhz, 0.8))}, mhz});
  }
  ASSERT_TRUE(clock_exponent(samples));
  EXPECT_NEAR(clock_exponent(samples)->value, 0.8, 1e-6);
  EXPECT_NEAR(clock_exponent(samples)->error, 0, 1e-6);
  EXPECT_EQ(summary_of(samples).clock_exponent_ppm, 800'000);
  // Every second one 0.2 s longer, of some 0.74: the logarithms lie 0.12 to either side of the line between
  // them. The clocks' are spread evenly over ln(1,595 / 1,400) = 0.130, a deviation of 0.0376: the slope is
  // known to 0.12 / 0.0376 / sqrt(40) = 0.50.
  for (std::size_t k = 0; k < samples.size(); ++k) samples[k].duration.ns += k % 2 ? 200'000'000 : 0;
  ASSERT_TRUE(clock_exponent(samples));
  EXPECT_NEAR(clock_exponent(samples)->error, 0.50, 0.03);
  EXPECT_NEAR(static_cast<double>(summary_of(samples).clock_exponent_error_ppm), 0.50e6, 0.03e6);
  // 0.8 s longer: beyond 1.
  for (std::size_t k = 0; k < samples.size(); ++k) samples[k].duration.ns += k % 2 ? 600'000'000 : 0;
  EXPECT_FALSE(clock_exponent(samples));
  EXPECT_FALSE(clock_exponent(std::vector<Sample>(40, Sample{{1'000}, 1'500}))) << "the clock did not move";
  EXPECT_FALSE(clock_exponent(std::span(samples).first(4)));
}

}  // namespace
}  // namespace plumb
