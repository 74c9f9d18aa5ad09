// A table of words and figures, for a terminal, Markdown or HTML.
#pragma once
#include <string>
#include <vector>

namespace plumb::render {

/// The first column is words and stands left, the others are figures and stand right; units belong into the
/// head. Every row has as many cells as the head.
struct Table {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
  bool operator==(const Table&) const = default;
};

/// Aligned by code points, a rule under the head, no trailing spaces.
std::string to_text(const Table& table);
std::string to_markdown(const Table& table);
/// A `<table>` with its cells escaped.
std::string to_html(const Table& table);

}  // namespace plumb::render
