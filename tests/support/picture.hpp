// The small picture of a schedule that its generator's row carries.
#pragma once
#include "tests/support/replay.hpp"

#include <string>

namespace plumb::test {

/// A line with the shape and the costs (F = I = W = 1, B = 2, a pair 3), then a line a rank, three columns a
/// unit of time. An action begins with its letter and microbatch and is drawn out with `-` to its end; the
/// second stage of a rank is in lower case (with more of them, every action has its stage in front, and a unit
/// has four columns); a pair is `forward+backward`; idle time is blank.
std::string picture(const Schedule& schedule);

}  // namespace plumb::test
