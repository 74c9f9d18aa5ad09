// Reads small JSON documents (costs, calibrations, reports) strictly: every mistake has its JSON pointer.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace plumb {

/// A value inside a JsonDocument, and where it stands. Valid as long as the document lives. All readers throw
/// BadInput that names the document and the pointer.
class JsonView {
 public:
  bool is_object() const;
  bool is_array() const;
  bool is_null() const;

  /// Refuses members that are not in the list: a misspelled key is never silently ignored.
  void allow_keys(std::initializer_list<std::string_view> keys) const;
  /// A member; nothing where it is absent. `required` throws instead.
  std::optional<JsonView> member(std::string_view key) const;
  JsonView required(std::string_view key) const;
  /// Elements of an array, members of an object in their order.
  std::vector<JsonView> elements() const;
  std::vector<std::pair<std::string, JsonView>> members() const;

  std::int64_t integer(std::int64_t least, std::int64_t most) const;
  double number(double least, double most) const;
  std::string text() const;
  bool boolean() const;

  /// Non-negative integer nanoseconds, and bytes of either sign.
  Duration duration_ns() const;
  Bytes bytes() const;

  [[noreturn]] void fail(std::string_view what) const;

 private:
  friend class JsonDocument;
  JsonView(const void* node, std::string_view where, std::string pointer)
      : node_(node), where_(where), pointer_(std::move(pointer)) {}
  const void* node_;
  std::string_view where_;
  std::string pointer_;
};

class JsonDocument {
 public:
  /// Parses all of `content`. Throws BadInput: not JSON, a key that stands twice, nesting beyond 64 levels,
  /// or a "schema" that is not `schema`.
  JsonDocument(std::string_view content, std::string_view where, std::string_view schema);
  /// A document of somebody else's making, an object without a schema.
  JsonDocument(std::string_view content, std::string_view where);
  ~JsonDocument();
  JsonDocument(JsonDocument&&) noexcept;
  JsonDocument& operator=(JsonDocument&&) noexcept;

  JsonView root() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The value of the outermost "schema" if `content` is a JSON object that has one; to tell documents apart.
std::optional<std::string> json_schema_of(std::string_view content);

/// A JSON string literal with its quotes. Bytes that are no UTF-8 become U+FFFD.
std::string json_quoted(std::string_view text);

}  // namespace plumb
