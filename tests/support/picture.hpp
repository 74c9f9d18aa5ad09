// The small picture of a schedule that its generator's row carries.
#pragma once
#include "tests/support/replay.hpp"

#include <string>

namespace plumb::test {

/// A row a rank, four columns a unit of time, F = I = W = 1, B = 2, a pair 3. An action begins with its
/// letter and microbatch (and the stage in front, where a rank holds several) and is drawn out with `-` to
/// its end; a pair is `forward+backward`; idle time is blank.
std::string picture(const Schedule& schedule);

}  // namespace plumb::test
