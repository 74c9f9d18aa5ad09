// What a user can act on is an exception; what only we can mend is a PLUMB_CHECK.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

namespace plumb {

/// Input that cannot be used. `where` is a file, a flag or a JSON pointer; the text says what was found and
/// what was expected. `main` maps it to exit code 2.
class BadInput : public std::runtime_error {
 public:
  explicit BadInput(const std::string& what) : std::runtime_error(what) {}
  BadInput(std::string_view where, std::string_view what)
      : std::runtime_error(std::string(where) + ": " + std::string(what)) {}
};

namespace detail {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}

/// Always on: a condition that only a bug of ours can break.
#define PLUMB_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::plumb::detail::check_failed(#condition, __FILE__, __LINE__))

}  // namespace plumb
