// Where microbatches come from: a function of seed, step and number alone, so that a run that is resumed, or
// cut into another number of ranks, sees the same.
#pragma once
#include "runtime/worker.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace plumb {

class TrainingData {
 public:
  /// A transformer's: sequences in which a token mostly follows from the one before it, so that there is
  /// something to learn. An mlp's: noise, and noise to hit. The model's and layout's sizes are taken now.
  static TrainingData synthetic(const ModelShape& model, const Layout& layout, std::uint64_t seed);
  /// Pieces of a file from random places: each byte a token, or, of a file named `.bin`, each two bytes
  /// (little-endian). Throws BadInput for a file that cannot be read, is shorter than a sequence, or holds
  /// tokens beyond the vocabulary.
  static TrainingData of_file(const std::string& path, const ModelShape& model, const Layout& layout,
                              std::uint64_t seed);

  /// The `microbatch`-th of the `step`-th step, counted over all copies.
  MicrobatchData microbatch(std::uint64_t step, std::uint64_t microbatch) const;

 private:
  TrainingData(const ModelShape& model, const Layout& layout, std::uint64_t seed);

  bool mlp_;
  std::uint64_t seed_;
  std::uint64_t vocab_;
  std::uint64_t hidden_;
  std::uint64_t sequences_;
  std::uint64_t length_;
  std::vector<std::int32_t> tokens_;  // of the file; empty: synthetic
};

}  // namespace plumb
