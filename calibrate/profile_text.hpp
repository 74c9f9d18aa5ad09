// The text of a PyTorch profile as JSON, which it is not always.
#pragma once
#include <cstddef>
#include <streambuf>
#include <vector>

namespace plumb {

/// What `source` holds, with two faults of profiles mended as it is read, each byte in its place: numbers
/// that are none (`inf`, `-nan`: the bandwidth of a copy that took no time, pytorch/kineto issue 105) become
/// empty texts, and what JSON forbids in a text (control characters, and halves of characters, which names of
/// Python's modules were written with: pytorch/pytorch issue 136180) becomes `?`, as does all that is no
/// ASCII. `source` must outlive it.
class ProfileText : public std::streambuf {
 public:
  explicit ProfileText(std::streambuf& source) : source_(source) {}

 protected:
  int_type underflow() override;

 private:
  void mend(std::size_t end);

  std::streambuf& source_;
  std::vector<char> block_ = std::vector<char>(1 << 16);
  std::size_t ready_ = 0;   // bytes of the block that were mended, and read by now
  std::size_t filled_ = 0;  // bytes behind them: a word that goes on in what was not read yet
  bool in_text_ = false;
  bool escaped_ = false;
};

}  // namespace plumb
