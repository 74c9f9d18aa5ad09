// "Did you mean": the nearest of some names.
#pragma once
#include <span>
#include <string_view>

namespace plumb {

/// The candidate with the fewest edits (insert, drop, change a letter) to `word`, the first among equals;
/// empty where none is within 3 edits and half the word's length.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace plumb
