#include "calibrate/profile_text.hpp"

#include <algorithm>
#include <array>
#include <string_view>

namespace plumb {
namespace {

constexpr std::size_t longest_word = std::string_view("-Infinity").size();

bool is_of_a_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-'; }

bool is_no_number(std::string_view word) {
  constexpr std::array<std::string_view, 3> none{"nan", "inf", "infinity"};
  if (word.starts_with('-')) word.remove_prefix(1);
  return std::any_of(none.begin(), none.end(), [&](std::string_view one) {
    return std::equal(word.begin(), word.end(), one.begin(), one.end(),
                      [](char a, char b) { return (a | 0x20) == b; });
  });
}

}  // namespace

std::streambuf::int_type ProfileText::underflow() {
  std::copy(block_.begin() + static_cast<std::ptrdiff_t>(ready_),
            block_.begin() + static_cast<std::ptrdiff_t>(filled_), block_.begin());
  filled_ -= ready_;
  ready_ = 0;
  while (ready_ == 0) {
    const std::streamsize more =
        source_.sgetn(block_.data() + filled_, static_cast<std::streamsize>(block_.size() - filled_));
    filled_ += static_cast<std::size_t>(more);
    if (filled_ == 0) return traits_type::eof();
    ready_ = filled_;
    while (more > 0 && ready_ > 0 && filled_ - ready_ < longest_word && is_of_a_word(block_[ready_ - 1]))
      --ready_;
  }
  mend(ready_);
  setg(block_.data(), block_.data(), block_.data() + ready_);
  return traits_type::to_int_type(block_[0]);
}

void ProfileText::mend(std::size_t end) {
  for (std::size_t k = 0; k < end; ++k) {
    char& c = block_[k];
    if (in_text_) {
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x80) c = '?';
      in_text_ = escaped_ || c != '"';
      escaped_ = !escaped_ && c == '\\';
    } else if (c == '"') {
      in_text_ = true;
    } else if (is_of_a_word(c)) {
      std::size_t after = k;
      while (after < end && is_of_a_word(block_[after])) ++after;
      if (is_no_number({&c, after - k})) {
        std::fill(block_.begin() + static_cast<std::ptrdiff_t>(k),
                  block_.begin() + static_cast<std::ptrdiff_t>(after), ' ');
        block_[k] = block_[k + 1] = '"';
      }
      k = after - 1;
    }
  }
}

}  // namespace plumb
