#include "calibrate/gzip.hpp"

#include "schedules/ir/error.hpp"

#include <streambuf>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <zlib.h>

namespace plumb {

class GzipStream::Buffer : public std::streambuf {
 public:
  Buffer(std::istream& source, std::string where)
      : source_(source), where_(std::move(where)), in_(1 << 17), out_(1 << 17) {
    fill();
    compressed_ = available_ >= 2 && static_cast<unsigned char>(in_[0]) == 0x1f &&
                  static_cast<unsigned char>(in_[1]) == 0x8b;
    // 15 + 16: the largest window, and a gzip header.
    if (compressed_ && inflateInit2(&stream_, 15 + 16) != Z_OK) throw BadInput(where_, "cannot be inflated");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() override {
    if (compressed_) inflateEnd(&stream_);
  }

 protected:
  int_type underflow() override {
    const std::size_t n = compressed_ ? inflate_some() : copy_some();
    if (n == 0) return traits_type::eof();
    setg(out_.data(), out_.data(), out_.data() + n);
    return traits_type::to_int_type(out_[0]);
  }

 private:
  void fill() {
    source_.read(in_.data(), static_cast<std::streamsize>(in_.size()));
    available_ = static_cast<std::size_t>(source_.gcount());
    if (source_.bad()) throw BadInput(where_, "cannot be read");
    next_ = 0;
  }

  std::size_t copy_some() {
    if (next_ == available_) fill();
    std::swap(in_, out_);
    const std::size_t n = std::exchange(available_, 0);
    next_ = 0;
    return n;
  }

  std::size_t inflate_some() {
    for (;;) {
      if (next_ == available_) {
        fill();
        if (available_ == 0) {
          if (!ended_) throw BadInput(where_, "is cut off: its gzip stream has no end");
          return 0;
        }
      }
      if (ended_) {
        // Several gzip streams one after the other are one file; anything else behind the end is padding.
        if (static_cast<unsigned char>(in_[next_]) != 0x1f) return 0;
        inflateReset(&stream_);
        ended_ = false;
      }
      stream_.next_in = reinterpret_cast<Bytef*>(in_.data() + next_);
      stream_.avail_in = static_cast<uInt>(available_ - next_);
      stream_.next_out = reinterpret_cast<Bytef*>(out_.data());
      stream_.avail_out = static_cast<uInt>(out_.size());
      const int status = inflate(&stream_, Z_NO_FLUSH);
      next_ = available_ - stream_.avail_in;
      if (status == Z_STREAM_END) {
        ended_ = true;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        throw BadInput(where_,
                       fmt::format("is damaged: {}",
                                   stream_.msg != nullptr ? stream_.msg : "its gzip stream is broken"));
      }
      const std::size_t n = out_.size() - stream_.avail_out;
      if (n > 0) return n;
    }
  }

  std::istream& source_;
  std::string where_;
  std::vector<char> in_;
  std::vector<char> out_;
  std::size_t available_ = 0;
  std::size_t next_ = 0;
  z_stream stream_{};
  bool compressed_ = false;
  bool ended_ = false;
};

GzipStream::GzipStream(std::istream& source, std::string where)
    : std::istream(nullptr), buffer_(std::make_unique<Buffer>(source, std::move(where))) {
  rdbuf(buffer_.get());
}
GzipStream::~GzipStream() = default;

}  // namespace plumb
