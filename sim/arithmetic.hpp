// The few roundings that time goes through, each in one place, all in integers.
#pragma once
#include "schedules/ir/error.hpp"

#include <cstdint>
#include <limits>

namespace plumb {

inline constexpr std::int64_t million = 1'000'000;

namespace detail {
__extension__ using wide = __int128;
}

/// duration x ppm / 1,000,000, rounded half up. Not negative.
inline std::int64_t scale_ppm(std::int64_t duration, std::int64_t ppm) {
  return static_cast<std::int64_t>((detail::wide{duration} * ppm + million / 2) / million);
}

/// x of `whole` mapped onto a length of `target`, rounded half up.
inline std::int64_t stretch(std::int64_t x, std::int64_t whole, std::int64_t target) {
  if (whole == target) return x;
  if (whole == 0) return 0;
  return static_cast<std::int64_t>((detail::wide{x} * target * 2 + whole) / (detail::wide{whole} * 2));
}

/// Work that is left is counted in millionths of a nanosecond of running alone, so that a change of speed on
/// the way loses less than a millionth of a nanosecond. A piece of work may last 9,000 seconds.
inline constexpr std::int64_t longest_work = std::numeric_limits<std::int64_t>::max() / million;
inline std::int64_t to_work(std::int64_t duration) {
  if (duration > longest_work) throw BadInput("a cost", "a segment longer than 9,000 s cannot be overlapped");
  return duration * million;
}

/// The nanoseconds until `work` is done at 1,000,000 / slowdown of full speed, rounded up.
inline std::int64_t time_for_work(std::int64_t work, std::int64_t slowdown) {
  constexpr std::int64_t unit = million * million;
  if (work <= (std::numeric_limits<std::int64_t>::max() - unit) / slowdown) {
    return (work * slowdown + unit - 1) / unit;  // as a rule; the wide division is slow
  }
  return static_cast<std::int64_t>((detail::wide{work} * slowdown + unit - 1) / unit);
}

/// The work done in `time` nanoseconds at that speed, rounded down.
inline std::int64_t work_in_time(std::int64_t time, std::int64_t slowdown) {
  constexpr std::int64_t unit = million * million;
  if (time <= std::numeric_limits<std::int64_t>::max() / unit) return time * unit / slowdown;
  return static_cast<std::int64_t>(detail::wide{time} * unit / slowdown);
}

}  // namespace plumb
