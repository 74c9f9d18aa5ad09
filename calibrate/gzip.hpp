// Files that may be gzipped, read as streams: whatever their size, a few hundred kilobytes are in memory.
#pragma once
#include <istream>
#include <memory>
#include <string>

namespace plumb {

/// The bytes of `source`, inflated where they begin as gzip does (the name says nothing). Errors of
/// compression come out of reading as BadInput that names `where`: damaged, or cut off before its end.
/// `source` must outlive it.
class GzipStream : public std::istream {
 public:
  GzipStream(std::istream& source, std::string where);
  ~GzipStream() override;

 private:
  class Buffer;
  std::unique_ptr<Buffer> buffer_;
};

}  // namespace plumb
