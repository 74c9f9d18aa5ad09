#include "calibrate/fit.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace plumb {
namespace {

struct Point {
  double x = 0;  // bytes
  double y = 0;  // nanoseconds
};

std::vector<Point> one_a_size(std::span<const SizedDuration> points) {
  std::vector<SizedDuration> in_order(points.begin(), points.end());
  std::sort(in_order.begin(), in_order.end(), [](const SizedDuration& a, const SizedDuration& b) {
    return a.size != b.size ? a.size < b.size : a.duration < b.duration;
  });
  std::vector<Point> out;
  for (std::size_t from = 0; from < in_order.size();) {
    std::size_t to = from;
    while (to < in_order.size() && in_order[to].size == in_order[from].size) ++to;
    const double low = static_cast<double>(in_order[(from + to - 1) / 2].duration.ns);
    const double high = static_cast<double>(in_order[(from + to) / 2].duration.ns);
    // A residual is relative to what was measured, so that has to be something.
    out.push_back({static_cast<double>(in_order[from].size.count), std::max(1.0, (low + high) / 2)});
    from = to;
  }
  return out;
}

double line(const Point& a, const Point& b, double x) { return a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x); }

double squared_residual(double fitted, const Point& p) {
  const double r = (fitted - p.y) / p.y;
  return r * r;
}

// More bytes never take less time: the never falling points with the least sum of squared relative residuals.
// Neighbours that fall become one level, their common mean, until none falls (pooled adjacent violators), so
// one that was measured too high lifts nobody behind it but by its share.
std::vector<Point> rising(const std::vector<Point>& points) {
  struct Level {
    double weighted = 0, weight = 0;  // of y by 1 / y^2
    std::size_t count = 0;
    double y() const { return weighted / weight; }
  };
  std::vector<Level> levels;
  for (const Point& p : points) {
    levels.push_back({1 / p.y, 1 / (p.y * p.y), 1});
    while (levels.size() > 1 && levels[levels.size() - 2].y() >= levels.back().y()) {
      const Level last = levels.back();
      levels.pop_back();
      levels.back().weighted += last.weighted;
      levels.back().weight += last.weight;
      levels.back().count += last.count;
    }
  }
  std::vector<Point> out = points;
  std::size_t k = 0;
  for (const Level& level : levels) {
    for (std::size_t i = 0; i < level.count; ++i) out[k++].y = level.y();
  }
  return out;
}

// For each number of pieces, the knots (indices of points, first and last among them) that leave the least
// sum of squared residuals when the pieces run through the measured points. [pieces - 1]
std::vector<std::vector<std::size_t>> best_knots(const std::vector<Point>& points, std::size_t most) {
  const std::size_t n = points.size();
  constexpr double never = std::numeric_limits<double>::infinity();
  // cost of one piece from i to j: what the points inside it are off by.
  std::vector<std::vector<double>> piece(n, std::vector<double>(n, 0));
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i + 1; j < n; ++j) {
      for (std::size_t k = i + 1; k < j; ++k) {
        piece[i][j] += squared_residual(line(points[i], points[j], points[k].x), points[k]);
      }
    }
  }
  // cost[p][j]: the least with p pieces that end at j; from[p][j]: where the last of them begins.
  std::vector<std::vector<double>> cost(most + 1, std::vector<double>(n, never));
  std::vector<std::vector<std::size_t>> from(most + 1, std::vector<std::size_t>(n, 0));
  cost[0][0] = 0;
  std::vector<std::vector<std::size_t>> out;
  for (std::size_t p = 1; p <= most; ++p) {
    for (std::size_t j = p; j < n; ++j) {
      for (std::size_t i = p - 1; i < j; ++i) {
        const double sum = cost[p - 1][i] + piece[i][j];
        if (sum < cost[p][j]) {
          cost[p][j] = sum;
          from[p][j] = i;
        }
      }
    }
    std::vector<std::size_t> knots(p + 1);
    knots[p] = n - 1;
    for (std::size_t q = p; q > 0; --q) knots[q - 1] = from[q][knots[q]];
    out.push_back(knots);
  }
  return out;
}

// The knots' heights that leave the least sum of squared relative residuals: each point is a mixture of the
// two knots around it, so the normal equations are tridiagonal.
std::vector<Point> fitted_heights(const std::vector<Point>& points, const std::vector<std::size_t>& knots) {
  const std::size_t n = knots.size();
  std::vector<double> below(n, 0), diagonal(n, 0), above(n, 0), right(n, 0);
  std::size_t piece = 0;
  for (std::size_t k = 0; k < points.size(); ++k) {
    while (piece + 2 < n && k > knots[piece + 1]) ++piece;
    const double x0 = points[knots[piece]].x;
    const double x1 = points[knots[piece + 1]].x;
    const double b = (points[k].x - x0) / (x1 - x0);
    const double a = 1 - b;
    const double weight = 1 / (points[k].y * points[k].y);
    diagonal[piece] += weight * a * a;
    diagonal[piece + 1] += weight * b * b;
    above[piece] += weight * a * b;
    below[piece + 1] += weight * a * b;
    right[piece] += weight * a * points[k].y;
    right[piece + 1] += weight * b * points[k].y;
  }
  // Every knot is a point's place, so the diagonal dominates and no pivot vanishes.
  for (std::size_t k = 1; k < n; ++k) {
    const double factor = below[k] / diagonal[k - 1];
    diagonal[k] -= factor * above[k - 1];
    right[k] -= factor * right[k - 1];
  }
  std::vector<Point> out(n);
  for (std::size_t k = n; k-- > 0;) {
    const double rest = k + 1 < n ? above[k] * out[k + 1].y : 0;
    out[k] = {points[knots[k]].x, (right[k] - rest) / diagonal[k]};
  }
  for (Point& knot : out) knot.y = std::max(1.0, knot.y);
  return rising(out);
}

LinkFit rounded(const std::vector<Point>& knots) {
  LinkFit fit;
  for (const Point& knot : knots) fit.knots.push_back({{std::llround(knot.x)}, {std::llround(knot.y)}});
  return fit;
}

std::vector<double> residuals(const LinkFit& fit, const std::vector<Point>& points) {
  std::vector<double> out;
  for (const Point& p : points) {
    const Duration fitted = duration_at(fit, {std::llround(p.x)}).duration;
    out.push_back(std::abs(static_cast<double>(fitted.ns) - p.y) / p.y);
  }
  return out;
}

std::uint32_t ppm(double ratio) {
  return static_cast<std::uint32_t>(std::llround(std::min(ratio, 4000.0) * 1e6));
}

std::uint32_t worst_ppm(const std::vector<double>& ratios) {
  return ratios.empty() ? 0 : ppm(*std::max_element(ratios.begin(), ratios.end()));
}

std::uint32_t median_ppm(std::vector<double> ratios) {
  if (ratios.empty()) return 0;
  std::sort(ratios.begin(), ratios.end());
  return ppm((ratios[(ratios.size() - 1) / 2] + ratios[ratios.size() / 2]) / 2);
}

// Without its figures.
LinkFit pieces_through(const std::vector<Point>& points, const FitOptions& options) {
  if (points.size() == 1) return rounded(points);
  const std::size_t most = std::min<std::size_t>(std::max(1u, options.segments), points.size() - 1);
  const std::vector<Point> target = rising(points);
  LinkFit fit;
  for (const auto& knots : best_knots(target, most)) {
    fit = rounded(fitted_heights(target, knots));
    if (worst_ppm(residuals(fit, target)) <= ppm(options.tolerance)) break;
  }
  return fit;
}

bool ragged(const Point& p) { return is_ragged({std::llround(p.x)}); }

// By how much the points lie above the fit.
Duration median_excess(const LinkFit& fit, const std::vector<Point>& points) {
  std::vector<std::int64_t> more;
  for (const Point& p : points) {
    const Bytes size{std::llround(p.x)};
    more.push_back(std::max<std::int64_t>(0, std::llround(p.y) - duration_at(fit, size).duration.ns));
  }
  if (more.empty()) return {};
  std::sort(more.begin(), more.end());
  return {(more[(more.size() - 1) / 2] + more[more.size() / 2]) / 2};
}

// Without its figures; ragged sizes apart, unless there are no others.
LinkFit fitted(const std::vector<Point>& points, const FitOptions& options) {
  std::vector<Point> whole, rest;
  for (const Point& p : points) (ragged(p) ? rest : whole).push_back(p);
  if (whole.empty()) return pieces_through(points, options);
  LinkFit fit = pieces_through(whole, options);
  fit.ragged = median_excess(fit, rest);
  return fit;
}

std::vector<double> errors_held_out(const std::vector<Point>& all, const FitOptions& options) {
  std::vector<double> unseen;
  for (std::size_t k = 1; k + 1 < all.size(); ++k) {
    std::vector<Point> rest = all;
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(k));
    // A ragged size needs another to be predicted by.
    if (ragged(all[k]) && std::none_of(rest.begin(), rest.end(), ragged)) continue;
    unseen.push_back(residuals(fitted(rest, options), {all[k]}).front());
  }
  return unseen;
}

}  // namespace

std::vector<double> held_out_errors(std::span<const SizedDuration> points, const FitOptions& options) {
  if (points.empty()) return {};
  return errors_held_out(one_a_size(points), options);
}

LinkFit fit_link(std::span<const SizedDuration> points, const FitOptions& options) {
  PLUMB_CHECK(!points.empty());
  const std::vector<Point> all = one_a_size(points);
  LinkFit fit = fitted(all, options);
  const std::vector<double> seen = residuals(fit, all);
  fit.worst_residual_ppm = worst_ppm(seen);
  fit.median_residual_ppm = median_ppm(seen);
  const std::vector<double> unseen = errors_held_out(all, options);
  fit.worst_held_out_ppm = worst_ppm(unseen);
  fit.median_held_out_ppm = median_ppm(unseen);
  return fit;
}

namespace {
FittedDuration along_the_knots(const LinkFit& fit, Bytes size) {
  const auto& knots = fit.knots;
  if (size < knots.front().size) return {knots.front().duration, true};
  if (size == knots.front().size) return {knots.front().duration, false};
  if (knots.size() == 1) {
    const double ratio =
        static_cast<double>(size.count) / std::max(1.0, static_cast<double>(knots[0].size.count));
    return {{std::llround(static_cast<double>(knots[0].duration.ns) * ratio)}, true};
  }
  const bool beyond = size > knots.back().size;
  const auto upper = beyond ? knots.end() - 1
                            : std::find_if(knots.begin() + 1, knots.end(),
                                           [&](const SizedDuration& k) { return size <= k.size; });
  const Point a{static_cast<double>((upper - 1)->size.count), static_cast<double>((upper - 1)->duration.ns)};
  const Point b{static_cast<double>(upper->size.count), static_cast<double>(upper->duration.ns)};
  return {{std::llround(line(a, b, static_cast<double>(size.count)))}, beyond};
}
}  // namespace

FittedDuration duration_at(const LinkFit& fit, Bytes size) {
  PLUMB_CHECK(!fit.knots.empty());
  FittedDuration found = along_the_knots(fit, size);
  if (is_ragged(size)) found.duration += fit.ragged;
  return found;
}

Link link_at(const LinkFit& fit, Bytes size) {
  PLUMB_CHECK(!fit.knots.empty());
  const auto& knots = fit.knots;
  const Duration duration = duration_at(fit, size).duration;
  Link link;
  if (knots.size() > 1 && size >= knots.front().size) {
    std::size_t upper = 1;
    while (upper + 1 < knots.size() && knots[upper].size < size) ++upper;
    const auto bytes = static_cast<double>((knots[upper].size - knots[upper - 1].size).count);
    const auto ns = static_cast<double>((knots[upper].duration - knots[upper - 1].duration).ns);
    if (ns <= 0) {
      link.latency = duration;  // as long for any size of this piece
      return link;
    }
    link.bandwidth = BytesPerSecond{bytes / ns * 1e9};
    link.latency.ns =
        std::llround(static_cast<double>(duration.ns) - static_cast<double>(size.count) * ns / bytes);
  } else if (size < knots.front().size) {
    link.latency = duration;
    return link;
  } else {
    link.latency.ns = -1;
  }
  if (link.latency.ns < 0) {
    link.latency = {};
    link.bandwidth.reset();
    if (size.count > 0 && duration.ns > 0) {
      link.bandwidth =
          BytesPerSecond{static_cast<double>(size.count) / static_cast<double>(duration.ns) * 1e9};
    }
  }
  return link;
}

}  // namespace plumb
