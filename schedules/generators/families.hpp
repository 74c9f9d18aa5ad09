// The rows of the table of generators, one family a file.
#pragma once
#include "schedules/generators/generator.hpp"

namespace plumb::families {}  // namespace plumb::families
