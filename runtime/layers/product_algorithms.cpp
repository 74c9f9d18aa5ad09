#include "runtime/layers/product_algorithms.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <vector>

#include <fmt/format.h>

namespace plumb::layers {
namespace {
constexpr std::array<std::string_view, 3> form_words{"forward", "input_gradient", "weight_gradient"};
}  // namespace

std::string to_string(const ProductShape& s) {
  return fmt::format("{} {} {}x{}x{}{}{} sms={}", form_words[static_cast<std::size_t>(s.form)],
                     s.type == DataType::bf16 ? "bf16" : "fp32", s.tokens, s.inputs, s.outputs,
                     s.adds ? " add" : "", s.bias ? " bias" : "", s.multiprocessors);
}

ProductShape parse_product_shape(std::string_view text) {
  const auto bad = [&] {
    return BadInput(text, "not the shape of a product; `forward bf16 4096x2048x8192 sms=132` is one");
  };
  std::vector<std::string_view> words;
  for (std::string_view rest = text; !rest.empty();) {
    const auto end = rest.find(' ');
    words.push_back(rest.substr(0, end));
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
  }
  if (words.size() < 4 || words.size() > 6) throw bad();
  const auto number = [&](std::string_view word) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc{} || end != word.data() + word.size()) throw bad();
    return value;
  };
  ProductShape shape;
  const auto form = std::find(form_words.begin(), form_words.end(), words[0]);
  if (form == form_words.end() || (words[1] != "bf16" && words[1] != "fp32")) throw bad();
  shape.form = static_cast<ProductForm>(form - form_words.begin());
  shape.type = words[1] == "bf16" ? DataType::bf16 : DataType::fp32;
  const auto first = words[2].find('x');
  const auto last = words[2].rfind('x');
  if (first == std::string_view::npos || first == last) throw bad();
  shape.tokens = number(words[2].substr(0, first));
  shape.inputs = number(words[2].substr(first + 1, last - first - 1));
  shape.outputs = number(words[2].substr(last + 1));
  for (std::size_t i = 3; i + 1 < words.size(); ++i) {
    bool& said = words[i] == "add" && !shape.bias ? shape.adds : shape.bias;
    if (said || (words[i] != "add" && words[i] != "bias")) throw bad();
    said = true;
  }
  if (!words.back().starts_with("sms=")) throw bad();
  shape.multiprocessors = static_cast<std::uint32_t>(number(words.back().substr(4)));
  return shape;
}

const ProductAlgorithms::Code* ProductAlgorithms::find(const ProductShape& shape) const {
  const auto at = codes_.find(shape);
  return at == codes_.end() ? nullptr : &at->second;
}

std::map<std::string, std::string> ProductAlgorithms::to_text() const {
  std::map<std::string, std::string> text;
  for (const auto& [shape, code] : codes_) {
    std::string& digits = text[to_string(shape)];
    for (const std::uint64_t word : code) digits += fmt::format("{:016x}", word);
  }
  return text;
}

ProductAlgorithms ProductAlgorithms::from_text(const std::map<std::string, std::string>& text) {
  ProductAlgorithms algorithms;
  for (const auto& [shape, digits] : text) {
    Code code{};
    bool good = digits.size() == 16 * code.size();
    for (std::size_t i = 0; good && i < code.size(); ++i) {
      const char* begin = digits.data() + 16 * i;
      const auto [end, error] = std::from_chars(begin, begin + 16, code[i], 16);
      good = error == std::errc{} && end == begin + 16;
    }
    if (!good) throw BadInput(shape, "an algorithm is 128 hexadecimal digits");
    algorithms.set(parse_product_shape(shape), code);
  }
  return algorithms;
}

}  // namespace plumb::layers
