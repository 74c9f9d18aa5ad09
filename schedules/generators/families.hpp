// The rows of the table of generators. Each is defined in the file of its family; generator.cpp lists them.
#pragma once
#include "schedules/generators/generator.hpp"

namespace plumb::families {

extern const Generator gpipe;
extern const Generator one_f_one_b;

}  // namespace plumb::families
