// Large blocks of memory in large pages. A plan of millions of ops writes gigabytes once, front to back; in
// pages of 4 KiB a first touch costs more than the work on it (2.7 us a page on a virtual machine: 1.5 GB/s).
// Blocks from 4 MiB on are aligned to 2 MiB and the kernel is asked for pages of that size; freed blocks stay
// with the process, so that the next plan of a sweep finds them warm. Linked into programs, never into a
// library. A sanitizer brings an allocator of its own, which must see every block: there this file is empty.
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <malloc.h>
#include <sys/mman.h>

namespace {

constexpr std::size_t large_page = std::size_t{2} << 20;

[[maybe_unused]] const bool keeps_memory = [] {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  return true;
}();

}  // namespace

void* operator new(std::size_t size) {
  if (size >= 2 * large_page) {
    const std::size_t rounded = (size + large_page - 1) / large_page * large_page;
    if (rounded < size) throw std::bad_alloc();
    if (void* block = std::aligned_alloc(large_page, rounded)) {
      madvise(block, rounded, MADV_HUGEPAGE);  // a wish: where it is not granted, small pages do
      return block;
    }
    throw std::bad_alloc();
  }
  if (void* block = std::malloc(size ? size : 1)) return block;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  if (size >= 2 * large_page && align <= large_page) return operator new(size);
  if (size > static_cast<std::size_t>(-1) - align) throw std::bad_alloc();
  if (void* block = std::aligned_alloc(align, (size + align - 1) / align * align)) return block;
  throw std::bad_alloc();
}
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
#endif
