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

/// A device, or a library of its vendor, refused a call, or there is none. `main` maps it to exit code 3.
class DeviceError : public std::runtime_error {
 public:
  explicit DeviceError(const std::string& what) : std::runtime_error(what) {}
  /// `call` as it is written in our code, `place` (file:line) where, `text` what the library says of it.
  DeviceError(std::string_view call, std::string_view place, std::string_view text)
      : std::runtime_error(std::string(place) + ": " + std::string(call) + ": " + std::string(text)) {}
};

namespace detail {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}

/// Always on: a condition that only a bug of ours can break.
#define PLUMB_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::plumb::detail::check_failed(#condition, __FILE__, __LINE__))

}  // namespace plumb
