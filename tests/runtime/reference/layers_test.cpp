// Every gradient against the slope of its own forward, in float64: (f(x + h) - f(x - h)) / 2h of a random
// weighting of the outputs. With h = 1e-5 the slope is wrong by h^2 ~ 1e-10 of the third derivative and by
// 1e-16 / h ~ 1e-11 of rounding.
#include "runtime/reference/layers.hpp"

#include "schedules/model/parameters.hpp"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::reference {
namespace {

using Values = std::vector<double>;
using View = std::span<const double>;

Values random(std::size_t count, const std::string& name) {
  Values values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = noise(stream_of(3, name), i);
  return values;
}

double weighted(const Values& values, const Values& weights) {
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += values[i] * weights[i];
  return sum;
}

// `gradient` of `value` with respect to every element of `x`.
void expect_slope(Values& x, const Values& gradient, const std::function<double()>& value,
                  const std::string& what) {
  ASSERT_EQ(x.size(), gradient.size()) << what;
  constexpr double h = 1e-5;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + h;
    const double above = value();
    x[i] = kept - h;
    const double below = value();
    x[i] = kept;
    const double slope = (above - below) / (2 * h);
    ASSERT_NEAR(gradient[i], slope, 1e-8 * (1 + std::abs(slope))) << what << "[" << i << "]";
  }
}

TEST(Reference, LinearsGradientsAreItsSlopes) {
  const LinearShape shape{3, 11, 5};
  Values x = random(33, "x"), w = random(55, "w"), bias = random(5, "bias");
  const Values out = random(15, "out");
  Values dx(33), dw = random(55, "before"), dbias(5, 2.0);
  const Values before = dw;
  const auto value = [&] {
    Values y(15);
    linear<double>(shape, x, w, bias, y);
    return weighted(y, out);
  };
  linear_backward_input<double>(shape, out, w, dx);
  linear_backward_weight<double>(shape, out, x, dw, dbias);
  for (std::size_t i = 0; i < dw.size(); ++i) dw[i] -= before[i];
  for (double& b : dbias) b -= 2.0;
  expect_slope(x, dx, value, "x");
  expect_slope(w, dw, value, "w");
  expect_slope(bias, dbias, value, "bias");
}

TEST(Reference, RmsNormsGradientsAreItsSlopes) {
  const NormShape shape{4, 9};
  Values x = random(36, "x"), gain = random(9, "gain");
  const Values out = random(36, "out");
  Values y(36), rstd(4), dx(36), dgain(9);
  const auto value = [&] {
    Values ignored(4);
    rms_norm<double>(shape, x, gain, y, ignored);
    return weighted(y, out);
  };
  rms_norm<double>(shape, x, gain, y, rstd);
  rms_norm_backward<double>(shape, out, x, gain, rstd, dx, dgain);
  expect_slope(x, dx, value, "x");
  expect_slope(gain, dgain, value, "gain");
}

TEST(Reference, LayerNormsGradientsAreItsSlopes) {
  const NormShape shape{4, 9};
  Values x = random(36, "x"), gain = random(9, "gain"), bias = random(9, "bias");
  const Values out = random(36, "out");
  Values y(36), mean(4), rstd(4), dx(36), dgain(9), dbias(9);
  const auto value = [&] {
    Values m(4), r(4);
    layer_norm<double>(shape, x, gain, bias, y, m, r);
    return weighted(y, out);
  };
  layer_norm<double>(shape, x, gain, bias, y, mean, rstd);
  layer_norm_backward<double>(shape, out, x, gain, mean, rstd, dx, dgain, dbias);
  expect_slope(x, dx, value, "x");
  expect_slope(gain, dgain, value, "gain");
  expect_slope(bias, dbias, value, "bias");
}

TEST(Reference, RotationTurnsBackAndKeepsLengths) {
  const AttentionSizes sizes{2, 5, 3, 3, 8};
  const Values x = random(2 * 5 * 3 * 8, "x");
  Values turned = x;
  rotate<double>(sizes, 3, false, turned);
  double before = 0, after = 0;
  for (std::size_t i = 0; i < x.size(); ++i) before += x[i] * x[i], after += turned[i] * turned[i];
  EXPECT_NEAR(before, after, 1e-12);
  EXPECT_EQ(turned[0], x[0]);  // position 0 stays
  EXPECT_GT(std::abs(turned[3 * 8] - x[3 * 8]), 1e-3);
  rotate<double>(sizes, 3, true, turned);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(turned[i], x[i], 1e-14);
}

// Two queries on one key: with head_dim 4, q = (2, 0, 0, 0) and keys (1, 0, 0, 0) and (0, 0, 0, 0) the scores
// of token 1 are 2 x 1 / 2 = 1 and 0: weights e / (e + 1) and 1 / (e + 1); token 0 sees itself alone.
TEST(Reference, AttentionIsACausalSoftmax) {
  const AttentionSizes sizes{1, 2, 1, 1, 4};
  const Values q{2, 0, 0, 0, 2, 0, 0, 0}, k{1, 0, 0, 0, 0, 0, 0, 0}, v{1, 2, 3, 4, 5, 6, 7, 8};
  Values o(8), log_sum_exp(2);
  attention<double>(sizes, q, k, v, o, log_sum_exp);
  EXPECT_EQ(Values(o.begin(), o.begin() + 4), (Values{1, 2, 3, 4}));
  const double first = std::exp(1.0) / (std::exp(1.0) + 1);
  EXPECT_NEAR(o[4], 1 * first + 5 * (1 - first), 1e-14);
  EXPECT_NEAR(log_sum_exp[1], std::log(std::exp(1.0) + 1), 1e-14);
}

TEST(Reference, GroupedAttentionsGradientsAreItsSlopes) {
  const AttentionSizes sizes{2, 5, 4, 2, 6};
  Values q = random(2 * 5 * 4 * 6, "q"), k = random(2 * 5 * 2 * 6, "k"), v = random(2 * 5 * 2 * 6, "v");
  const Values out = random(q.size(), "out");
  Values o(q.size()), log_sum_exp(2 * 5 * 4), dq(q.size()), dk(k.size()), dv(v.size());
  const auto value = [&] {
    Values ignored(log_sum_exp.size());
    attention<double>(sizes, q, k, v, o, ignored);
    return weighted(o, out);
  };
  attention<double>(sizes, q, k, v, o, log_sum_exp);
  attention_backward<double>(sizes, q, k, v, o, log_sum_exp, out, dq, dk, dv);
  expect_slope(q, dq, value, "q");
  expect_slope(k, dk, value, "k");
  expect_slope(v, dv, value, "v");
}

TEST(Reference, ActivationsGradientsAreTheirSlopes) {
  Values x = random(24, "x");
  const Values out = random(12, "out"), out_whole = random(24, "out");
  Values y(12), whole(24), dx(24);
  swiglu_backward<double>(3, 4, out, x, dx);
  expect_slope(
      x, dx, [&] { return swiglu<double>(3, 4, x, y), weighted(y, out); }, "swiglu");
  gelu_backward<double>(out_whole, x, dx);
  expect_slope(
      x, dx, [&] { return gelu<double>(x, whole), weighted(whole, out_whole); }, "gelu");
}

// gelu(1) = 0.841344746068543 (the normal distribution at 1), silu(1) x 2 = 2 / (1 + 1/e).
TEST(Reference, ActivationsHaveTheirKnownValues) {
  Values y(1);
  gelu<double>(Values{1.0}, y);
  EXPECT_NEAR(y[0], 0.841344746068543, 1e-14);
  swiglu<double>(1, 1, Values{1.0, 2.0}, y);
  EXPECT_NEAR(y[0], 2 / (1 + std::exp(-1.0)), 1e-14);
}

TEST(Reference, EmbeddingsGradientsAreItsSlopes) {
  const std::vector<std::int32_t> tokens{3, 1, 3, 0, 2, 3};
  Values table = random(5 * 4, "table"), positions = random(3 * 4, "positions");
  const Values out = random(6 * 4, "out");
  Values y(24), dtable(20), dpositions(12);
  const auto value = [&] {
    embed<double>(tokens, 3, 4, table, positions, y);
    return weighted(y, out);
  };
  embed_backward_weight<double>(tokens, 3, 4, out, dtable, dpositions);
  expect_slope(table, dtable, value, "table");
  expect_slope(positions, dpositions, value, "positions");
}

// 2^24 + 1/2 is 2^24 in float32, so 64 rows added one by one to a sum that large would all be lost; their own
// sum, 32, is not.
TEST(Reference, AFrequentTokensRowsAreSummedBeforeTheyAreAdded) {
  const std::vector<std::int32_t> tokens(64, 3);
  const std::vector<float> dy(64 * 2, 0.5F);
  std::vector<float> dtable(5 * 2, 16777216), dpositions(4 * 2, 16777216);
  embed_backward_weight<float>(tokens, 4, 2, dy, dtable, dpositions);
  EXPECT_EQ(dtable[3 * 2], 16777216 + 32);
  EXPECT_EQ(dtable[2 * 2], 16777216);
  EXPECT_EQ(dpositions[0], 16777216 + 8);  // each of the 4 places has 16 rows
}

TEST(Reference, CrossEntropysGradientsAreItsSlopes) {
  const LinearShape head{4, 6, 9};
  Values x = random(24, "x"), w = random(54, "w");
  const std::vector<std::int32_t> targets{0, 8, 3, 3};
  Values log_sum_exp(4), d_logits(36), dx(24), dw(54);
  constexpr double scale = 0.7;
  const auto value = [&] {
    Values ignored(4);
    return scale * cross_entropy<double>(head, x, w, targets, ignored);
  };
  cross_entropy<double>(head, x, w, targets, log_sum_exp);
  cross_entropy_backward_input<double>(head, x, w, targets, log_sum_exp, scale, d_logits, dx);
  linear_backward_weight<double>(head, d_logits, x, dw, {});
  expect_slope(x, dx, value, "x");
  expect_slope(w, dw, value, "w");
  // Equal logits: log of the number of classes.
  EXPECT_NEAR(cross_entropy<double>(head, Values(24, 0.0), w, targets, log_sum_exp), std::log(9.0), 1e-14);
}

TEST(Reference, SquaredErrorsGradientIsItsSlope) {
  Values x = random(10, "x");
  const Values target = random(10, "target");
  Values dx(10);
  squared_error_backward<double>(x, target, 0.5, dx);
  expect_slope(
      x, dx, [&] { return 0.5 * squared_error<double>(x, target); }, "output");
  EXPECT_NEAR(squared_error<double>(Values{1, 2}, Values{0, 4}), 2.5, 1e-15);
}

// float32 stays within its rounding of float64: 2^-24 of sums of some 64 terms.
TEST(Reference, SinglePrecisionFollowsDouble) {
  const AttentionSizes sizes{1, 16, 2, 1, 8};
  const Values q = random(256, "q"), k = random(128, "k"), v = random(128, "v");
  Values o(256), log_sum_exp(32);
  attention<double>(sizes, q, k, v, o, log_sum_exp);
  const std::vector<float> qf(q.begin(), q.end()), kf(k.begin(), k.end()), vf(v.begin(), v.end());
  std::vector<float> of(256), lf(32);
  attention<float>(sizes, qf, kf, vf, of, lf);
  for (std::size_t i = 0; i < o.size(); ++i) EXPECT_NEAR(o[i], of[i], 2e-6);
}

}  // namespace
}  // namespace plumb::reference
