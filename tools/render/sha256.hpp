// SHA-256, for the content-security policy of a page that carries its own style and script.
#pragma once
#include <string>
#include <string_view>

namespace plumb::render {

/// FIPS 180-4, as base64.
std::string sha256_base64(std::string_view text);

}  // namespace plumb::render
