// The rows of the table of generators. Each is defined in the file of its family; generator.cpp lists them.
#pragma once
#include "schedules/generators/generator.hpp"

namespace plumb::families {

extern const Generator gpipe;
extern const Generator one_f_one_b;
extern const Generator interleaved_one_f_one_b;
extern const Generator looped_bfs;
extern const Generator one_f_one_b_overlap;
extern const Generator interleaved_one_f_one_b_overlap;
extern const Generator zb_h1;
extern const Generator zb_h2;
extern const Generator interleaved_zb;
extern const Generator zb_v;
extern const Generator v_half;
extern const Generator v_min;
extern const Generator one_f_one_b_v;
extern const Generator group_interleaved;
extern const Generator dualpipe;
extern const Generator dualpipe_v;
extern const Generator chimera;
extern const Generator hanayo;

}  // namespace plumb::families
