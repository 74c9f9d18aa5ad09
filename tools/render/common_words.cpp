#include "tools/render/common_words.hpp"

#include <cstddef>
#include <map>
#include <set>

namespace plumb::render {
namespace {

struct Word {
  std::string text;
  bool behind_comma = false;
  bool may_be_common() const {
    return behind_comma || text.front() == '[' || text.find('=') != std::string::npos || text == "bf16" ||
           text == "fp32" || text == "fp8";
  }
};

// Of the first part its words; each part behind a comma is one.
std::vector<Word> words_of(const std::string& name) {
  std::vector<Word> words;
  std::string word;
  bool in_brackets = false;
  bool behind_comma = false;
  const auto end = [&] {
    if (!word.empty()) words.push_back({word, behind_comma});
    word.clear();
  };
  for (std::size_t k = 0; k < name.size(); ++k) {
    const char c = name[k];
    in_brackets = c == '[' || (in_brackets && c != ']');
    if (!in_brackets && name.compare(k, 2, ", ") == 0) {
      end();
      behind_comma = true;
      ++k;
    } else if (!in_brackets && !behind_comma && c == ' ') {
      end();
    } else {
      word += c;
    }
  }
  end();
  return words;
}

void append(std::string& out, const Word& word) {
  if (!out.empty()) out += word.behind_comma ? ", " : " ";
  out += word.text;
}

}  // namespace

CommonWords common_words(const std::vector<std::string>& names) {
  std::map<std::string, std::size_t> counts;
  for (const std::string& name : names) {
    for (const Word& word : words_of(name)) counts[word.text] += word.may_be_common();
  }
  const auto is_common = [&](const Word& word) {
    return names.size() >= 3 && word.may_be_common() && 2 * counts[word.text] > names.size();
  };
  CommonWords out;
  std::set<std::string> said;
  std::string behind_commas;
  for (const std::string& name : names) {
    std::string own;
    for (const Word& word : words_of(name)) {
      if (!is_common(word)) {
        append(own, word);
      } else if (said.insert(word.text).second) {
        append(word.behind_comma ? behind_commas : out.common, word);
      }
    }
    out.names.push_back(own);
  }
  if (!behind_commas.empty()) out.common += (out.common.empty() ? "" : ", ") + behind_commas;
  return out;
}

}  // namespace plumb::render
