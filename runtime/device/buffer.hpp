// Memory with an owner: on the device, or on the host where the device can reach it.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstddef>
#include <utility>

namespace plumb::device {

/// Device memory. Made and destroyed outside of steps: both can wait for the whole device.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Bytes bytes);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, Bytes{})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  Bytes bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  Bytes bytes_;
};

/// Page-locked host memory that kernels can read and write.
class HostBuffer {
 public:
  explicit HostBuffer(Bytes bytes);
  HostBuffer(HostBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
  ~HostBuffer();

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  Bytes bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  Bytes bytes_;
};

}  // namespace plumb::device
