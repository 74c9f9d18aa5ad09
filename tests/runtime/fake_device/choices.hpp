// How the fake device's products are computed.
#pragma once
#include <cstdint>

namespace plumb::test {

/// From now on every trial of a product ends differently, as on a GPU trials may; otherwise all end alike.
void let_choices_differ(bool differ);
std::uint64_t next_choice();

}  // namespace plumb::test
