// Units are types: a duration is never an int, a byte count is never a double.
#pragma once
#include <compare>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>

namespace plumb {

/// A length of time in integer nanoseconds. May be negative as a difference.
struct Duration {
  std::int64_t ns = 0;
  constexpr auto operator<=>(const Duration&) const = default;
  constexpr Duration& operator+=(Duration other) {
    ns += other.ns;
    return *this;
  }
  constexpr Duration& operator-=(Duration other) {
    ns -= other.ns;
    return *this;
  }
};
constexpr Duration operator+(Duration a, Duration b) { return {a.ns + b.ns}; }
constexpr Duration operator-(Duration a, Duration b) { return {a.ns - b.ns}; }
constexpr Duration operator-(Duration a) { return {-a.ns}; }
constexpr Duration operator*(Duration a, std::int64_t times) { return {a.ns * times}; }

/// Integer nanoseconds since the step began: the first compute op of a predicted step starts at 0.
struct TimePoint {
  std::int64_t ns = 0;
  constexpr auto operator<=>(const TimePoint&) const = default;
};
constexpr TimePoint operator+(TimePoint t, Duration d) { return {t.ns + d.ns}; }
constexpr TimePoint operator-(TimePoint t, Duration d) { return {t.ns - d.ns}; }
constexpr Duration operator-(TimePoint a, TimePoint b) { return {a.ns - b.ns}; }

/// A number of bytes; negative as a difference (what an op frees).
struct Bytes {
  std::int64_t count = 0;
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes& operator+=(Bytes other) {
    count += other.count;
    return *this;
  }
  constexpr Bytes& operator-=(Bytes other) {
    count -= other.count;
    return *this;
  }
};
constexpr Bytes operator+(Bytes a, Bytes b) { return {a.count + b.count}; }
constexpr Bytes operator-(Bytes a, Bytes b) { return {a.count - b.count}; }
constexpr Bytes operator-(Bytes a) { return {-a.count}; }
constexpr Bytes operator*(Bytes a, std::int64_t times) { return {a.count * times}; }

struct BytesPerSecond {
  double value = 0;
  constexpr auto operator<=>(const BytesPerSecond&) const = default;
};

struct Flops {
  double count = 0;
  constexpr auto operator<=>(const Flops&) const = default;
};

/// Reads `12ns`, `3us`, `1.5ms`, `0.2s`: a finite, non-negative decimal number with its unit, exact to the
/// nanosecond (rounded half up where it is finer). Throws BadInput naming `what` otherwise.
Duration parse_duration(std::string_view text, std::string_view what);

/// Reads `512B`, `20MiB`, `80GiB`, `80GB`: a non-negative decimal number with its unit. Throws BadInput.
Bytes parse_bytes(std::string_view text, std::string_view what);

/// `1.234 ms`, `16.7 s`, `250 ns`: three or four significant digits with the unit that suits, for people.
std::string to_text(Duration duration);
/// `1.25 GiB`, `512 B`: for people.
std::string to_text(Bytes bytes);

std::ostream& operator<<(std::ostream& out, Duration duration);
std::ostream& operator<<(std::ostream& out, TimePoint time);
std::ostream& operator<<(std::ostream& out, Bytes bytes);

}  // namespace plumb
