#include "schedules/ir/json_document.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using Json = nlohmann::ordered_json;

const Json& as_json(const void* node) { return *static_cast<const Json*>(node); }

constexpr int deepest = 64;

Json parse(std::string_view content, std::string_view where) {
  std::vector<std::set<std::string>> keys;  // of the open objects
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, Json& parsed) {
    if (depth > deepest) throw BadInput(where, fmt::format("is nested deeper than {} levels", deepest));
    if (event == nlohmann::json::parse_event_t::object_start) keys.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end) keys.pop_back();
    if (event == nlohmann::json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      throw BadInput(where,
                     fmt::format("the key \"{}\" stands twice in one object", parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return Json::parse(content.begin(), content.end(), watch);
  } catch (const nlohmann::json::exception& error) {
    std::string text = error.what();
    if (const auto at = text.find("] "); at != std::string::npos) text.erase(0, at + 2);
    throw BadInput(where, fmt::format("is not JSON: {}", text.substr(0, 200)));
  }
}

}  // namespace

struct JsonDocument::Impl {
  std::string where;
  Json root;
};

JsonDocument::JsonDocument(std::string_view content, std::string_view where, std::string_view schema)
    : impl_(std::make_unique<Impl>(Impl{std::string(where), parse(content, where)})) {
  if (!root().is_object()) throw BadInput(where, fmt::format("is not a {} object", schema));
  const JsonView found = root().required("schema");
  if (found.text() != schema)
    found.fail(fmt::format("is \"{}\", expected \"{}\"", found.text().substr(0, 60), schema));
}
JsonDocument::JsonDocument(std::string_view content, std::string_view where)
    : impl_(std::make_unique<Impl>(Impl{std::string(where), parse(content, where)})) {
  if (!root().is_object()) throw BadInput(where, "is not a JSON object");
}
JsonDocument::~JsonDocument() = default;
JsonDocument::JsonDocument(JsonDocument&&) noexcept = default;
JsonDocument& JsonDocument::operator=(JsonDocument&&) noexcept = default;

JsonView JsonDocument::root() const { return {&impl_->root, impl_->where, ""}; }

bool JsonView::is_object() const { return as_json(node_).is_object(); }
bool JsonView::is_array() const { return as_json(node_).is_array(); }
bool JsonView::is_null() const { return as_json(node_).is_null(); }

void JsonView::allow_keys(std::initializer_list<std::string_view> keys) const {
  if (!is_object()) fail("is not an object");
  for (const auto& [key, value] : as_json(node_).items()) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    std::string known;
    for (const std::string_view name : keys) known += fmt::format(" {}", name);
    fail(fmt::format("has the unknown key \"{}\"; known are{}", key.substr(0, 60), known));
  }
}

std::optional<JsonView> JsonView::member(std::string_view key) const {
  if (!is_object()) fail("is not an object");
  const auto found = as_json(node_).find(std::string(key));
  if (found == as_json(node_).end()) return std::nullopt;
  return JsonView(&*found, where_, fmt::format("{}/{}", pointer_, key));
}

JsonView JsonView::required(std::string_view key) const {
  if (const auto found = member(key)) return *found;
  fail(fmt::format("has no key \"{}\"", key));
}

std::vector<JsonView> JsonView::elements() const {
  if (!is_array()) fail("is not a list");
  std::vector<JsonView> out;
  out.reserve(as_json(node_).size());
  for (const Json& element : as_json(node_)) {
    out.push_back(JsonView(&element, where_, fmt::format("{}/{}", pointer_, out.size())));
  }
  return out;
}

std::vector<std::pair<std::string, JsonView>> JsonView::members() const {
  if (!is_object()) fail("is not an object");
  std::vector<std::pair<std::string, JsonView>> out;
  for (const auto& [key, value] : as_json(node_).items()) {
    out.emplace_back(key, JsonView(&value, where_, fmt::format("{}/{}", pointer_, key)));
  }
  return out;
}

std::int64_t JsonView::integer(std::int64_t least, std::int64_t most) const {
  const Json& node = as_json(node_);
  const bool fits = node.is_number_unsigned()
                        ? node.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()}
                        : node.is_number_integer();
  if (!fits || node.get<std::int64_t>() < least || node.get<std::int64_t>() > most) {
    fail(fmt::format("is not an integer from {} to {}", least, most));
  }
  return node.get<std::int64_t>();
}

double JsonView::number(double least, double most) const {
  const Json& node = as_json(node_);
  if (!node.is_number() || !std::isfinite(node.get<double>()) || node.get<double>() < least ||
      node.get<double>() > most) {
    fail(fmt::format("is not a number from {} to {}", least, most));
  }
  return node.get<double>();
}

std::string JsonView::text() const {
  if (!as_json(node_).is_string()) fail("is not a string");
  return as_json(node_).get<std::string>();
}

bool JsonView::boolean() const {
  if (!as_json(node_).is_boolean()) fail("is not true or false");
  return as_json(node_).get<bool>();
}

namespace {
constexpr std::int64_t largest = std::int64_t{1} << 53;  // exact in every JSON reader
}

Duration JsonView::duration_ns() const { return {integer(0, largest)}; }
Bytes JsonView::bytes() const { return {integer(-largest, largest)}; }

void JsonView::fail(std::string_view what) const {
  throw BadInput(where_, fmt::format("{} {}", pointer_.empty() ? "/" : pointer_, what));
}

std::optional<std::string> json_schema_of(std::string_view content) {
  // Only the outermost level is looked at, and only until the key is found.
  struct Finder : nlohmann::json_sax<nlohmann::json> {
    int depth = 0;
    bool at_schema = false;
    std::optional<std::string> found;
    bool next() {
      at_schema = false;
      return true;
    }
    bool null() override { return next(); }
    bool boolean(bool) override { return next(); }
    bool number_integer(number_integer_t) override { return next(); }
    bool number_unsigned(number_unsigned_t) override { return next(); }
    bool number_float(number_float_t, const string_t&) override { return next(); }
    bool binary(binary_t&) override { return next(); }
    bool string(string_t& value) override {
      if (at_schema) found = value;
      return !std::exchange(at_schema, false);
    }
    bool start_object(std::size_t) override { return ++depth <= deepest && next(); }
    bool key(string_t& name) override {
      at_schema = depth == 1 && name == "schema";
      return true;
    }
    bool end_object() override { return --depth > 0; }
    bool start_array(std::size_t) override { return ++depth <= deepest && next(); }
    bool end_array() override { return --depth > 0; }
    bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
      return false;
    }
  } finder;
  nlohmann::json::sax_parse(content.begin(), content.end(), &finder);
  return finder.found;
}

std::string json_quoted(std::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace plumb
