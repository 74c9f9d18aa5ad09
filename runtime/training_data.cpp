#include "runtime/training_data.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/model/parameters.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

namespace plumb {
namespace {

// A random whole number of a place in a stream.
std::uint64_t number(std::uint64_t stream, std::uint64_t index) {
  return mixed(stream + (index + 1) * 0x9e3779b97f4a7c15);
}

}  // namespace

TrainingData::TrainingData(const ModelShape& model, const Layout& layout, std::uint64_t seed)
    : mlp_(model.architecture == Architecture::mlp),
      seed_(seed),
      vocab_(model.vocab),
      hidden_(model.hidden),
      sequences_(layout.micro_batch_size),
      length_(layout.sequence) {}

TrainingData TrainingData::synthetic(const ModelShape& model, const Layout& layout, std::uint64_t seed) {
  return TrainingData(model, layout, seed);
}

TrainingData TrainingData::of_file(const std::string& path, const ModelShape& model, const Layout& layout,
                                   std::uint64_t seed) {
  TrainingData data(model, layout, seed);
  if (data.mlp_) throw BadInput("--data", "is of tokens; an mlp takes none");
  std::error_code none;
  if (std::filesystem::is_directory(path, none)) throw BadInput(path, "is a folder, not a file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw BadInput(path, fmt::format("cannot be read: {}", std::strerror(errno)));
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (path.ends_with(".bin")) {
    for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
      data.tokens_.push_back(static_cast<unsigned char>(bytes[i]) |
                             (static_cast<unsigned char>(bytes[i + 1]) << 8));
    }
  } else {
    data.tokens_.reserve(bytes.size());
    for (const char byte : bytes) data.tokens_.push_back(static_cast<unsigned char>(byte));
  }
  if (data.tokens_.size() <= data.length_) {
    throw BadInput(path, fmt::format("holds {} tokens; a sequence of {} and its last target need one more",
                                     data.tokens_.size(), data.length_));
  }
  const auto most = std::max_element(data.tokens_.begin(), data.tokens_.end());
  if (static_cast<std::uint64_t>(*most) >= data.vocab_) {
    throw BadInput(path, fmt::format("token {} at {} is beyond the model's vocabulary of {}", *most,
                                     most - data.tokens_.begin(), data.vocab_));
  }
  return data;
}

MicrobatchData TrainingData::microbatch(std::uint64_t step, std::uint64_t microbatch) const {
  const std::uint64_t stream = mixed(mixed(stream_of(seed_, "data") + step) + microbatch);
  MicrobatchData data;
  if (mlp_) {
    const std::uint64_t count = sequences_ * length_ * hidden_;
    const std::uint64_t other = mixed(stream + 1);
    data.input.resize(count);
    data.target.resize(count);
    for (std::uint64_t i = 0; i < count; ++i) {
      data.input[i] = noise(stream, i);
      data.target[i] = noise(other, i);
    }
    return data;
  }
  for (std::uint64_t s = 0; s < sequences_; ++s) {
    std::uint64_t place = number(stream, s);
    if (!tokens_.empty()) {
      place %= tokens_.size() - length_;
      const auto from = tokens_.begin() + static_cast<std::ptrdiff_t>(place);
      data.tokens.insert(data.tokens.end(), from, from + static_cast<std::ptrdiff_t>(length_));
      data.next_tokens.insert(data.next_tokens.end(), from + 1,
                              from + static_cast<std::ptrdiff_t>(length_) + 1);
      continue;
    }
    // Seven times in eight the next token is 5 t + 1, otherwise any.
    std::uint64_t token = place % vocab_;
    for (std::uint64_t t = 0; t < length_; ++t) {
      const std::uint64_t random = number(stream, sequences_ + s * length_ + t);
      const std::uint64_t next = random % 8 == 0 ? (random >> 3) % vocab_ : (5 * token + 1) % vocab_;
      data.tokens.push_back(static_cast<std::int32_t>(token));
      data.next_tokens.push_back(static_cast<std::int32_t>(next));
      token = next;
    }
  }
  return data;
}

}  // namespace plumb
