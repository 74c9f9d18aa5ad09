#include "tools/table.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>

namespace plumb::tools {
namespace {

// Code points, which is what a terminal shows for the letters we use.
std::size_t columns(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::string space(width - std::min(width, columns(text)), ' ');
  return right ? space + text : text + space;
}

}  // namespace

void Table::add(std::vector<std::string> row) {
  PLUMB_CHECK(row.size() == head_.size());
  rows_.push_back(std::move(row));
}

std::vector<std::size_t> Table::widths() const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < head_.size(); ++c) {
    std::size_t width = columns(head_[c]);
    for (const auto& row : rows_) width = std::max(width, columns(row[c]));
    widths.push_back(width);
  }
  return widths;
}

std::string Table::text() const {
  const auto width = widths();
  std::string out;
  const auto line = [&](const std::vector<std::string>& row) {
    for (std::size_t c = 0; c < row.size(); ++c) out += (c ? "  " : "") + padded(row[c], width[c], c > 0);
    while (out.ends_with(' ')) out.pop_back();
    out += '\n';
  };
  line(head_);
  for (const auto& row : rows_) line(row);
  return out;
}

std::string Table::markdown() const {
  const auto width = widths();
  std::string out;
  const auto line = [&](const std::vector<std::string>& row) {
    for (std::size_t c = 0; c < row.size(); ++c) out += "| " + padded(row[c], width[c], c > 0) + " ";
    out += "|\n";
  };
  line(head_);
  for (std::size_t c = 0; c < head_.size(); ++c)
    out += "|" + std::string(width[c] + 1, '-') + (c ? ":" : "-");
  out += "|\n";
  for (const auto& row : rows_) line(row);
  return out;
}

}  // namespace plumb::tools
