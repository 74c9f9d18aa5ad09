#include "tools/render/table.hpp"

#include "schedules/ir/error.hpp"
#include "tools/render/svg_text.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace plumb::render {
namespace {

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::vector<std::size_t> widths_of(const Table& table) {
  std::vector<std::size_t> widths;
  for (const std::string& cell : table.head) widths.push_back(width_of(cell));
  for (const auto& row : table.rows) {
    PLUMB_CHECK(row.size() == table.head.size());
    for (std::size_t k = 0; k < row.size(); ++k) widths[k] = std::max(widths[k], width_of(row[k]));
  }
  return widths;
}

std::string padded(const std::string& text, std::size_t width, bool left) {
  const std::string space(width - width_of(text), ' ');
  return left ? text + space : space + text;
}

// A pipe would end the cell, a line break the row.
std::string in_markdown(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|' || c == '\\' || c == '<' || c == '`' || c == '*' || c == '_') out += '\\';
    out += c == '\n' || c == '\r' ? ' ' : c;
  }
  return out;
}

}  // namespace

std::string to_text(const Table& table) {
  const std::vector<std::size_t> widths = widths_of(table);
  std::string out;
  const auto line = [&](const std::vector<std::string>& cells) {
    for (std::size_t k = 0; k < cells.size(); ++k) {
      if (k > 0) out += "  ";
      out += padded(cells[k], widths[k], k == 0);
    }
    while (out.ends_with(' ')) out.pop_back();
    out += '\n';
  };
  line(table.head);
  std::vector<std::string> rule;
  for (const std::size_t width : widths) rule.emplace_back(width, '-');
  line(rule);
  for (const auto& row : table.rows) line(row);
  return out;
}

std::string to_markdown(const Table& table) {
  Table safe = table;
  for (std::string& cell : safe.head) cell = in_markdown(cell);
  for (auto& row : safe.rows) {
    for (std::string& cell : row) cell = in_markdown(cell);
  }
  const std::vector<std::size_t> widths = widths_of(safe);
  std::string out;
  const auto line = [&](const std::vector<std::string>& cells) {
    for (std::size_t k = 0; k < cells.size(); ++k) out += "| " + padded(cells[k], widths[k], k == 0) + " ";
    out += "|\n";
  };
  line(safe.head);
  for (std::size_t k = 0; k < widths.size(); ++k) {
    out += k == 0 ? "|:" + std::string(widths[k] + 1, '-') : "|" + std::string(widths[k] + 1, '-') + ":";
  }
  out += "|\n";
  for (const auto& row : safe.rows) line(row);
  return out;
}

std::string to_html(const Table& table) {
  std::string out = "<table>\n<thead><tr>";
  for (const std::string& cell : table.head) out += "<th>" + escaped(cell) + "</th>";
  out += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    PLUMB_CHECK(row.size() == table.head.size());
    out += "<tr>";
    for (const std::string& cell : row) out += "<td>" + escaped(cell) + "</td>";
    out += "</tr>\n";
  }
  return out + "</tbody>\n</table>\n";
}

}  // namespace plumb::render
