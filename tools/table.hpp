// Tables for a terminal and for Markdown.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace plumb::tools {

/// The first column is text, the others are figures and stand right.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : head_(std::move(head)) {}
  /// One cell a column.
  void add(std::vector<std::string> row);
  std::size_t rows() const { return rows_.size(); }

  std::string text() const;
  std::string markdown() const;

 private:
  std::vector<std::size_t> widths() const;
  std::vector<std::string> head_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace plumb::tools
